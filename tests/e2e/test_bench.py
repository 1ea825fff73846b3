#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""godwit bench and godwit probe as users run them: over TCP, and over RDMA where a lab sets
LAB_ADDRESS."""

import json
import os
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

BUILD = Path(os.environ.get("GODWIT_BUILD", Path(__file__).resolve().parents[2] / "build"))
GODWIT = str(BUILD / "bin" / "godwit")
ADDRESS = os.environ.get("LAB_ADDRESS", "127.0.0.1")
RDMA = "LAB_ADDRESS" in os.environ


def godwit(*args, timeout=120):
    return subprocess.run([GODWIT, *args], capture_output=True, text=True, timeout=timeout)


class Bench(unittest.TestCase):
    def listen(self, *args):
        server = subprocess.Popen([GODWIT, "bench", "--insecure", "--listen", f"{ADDRESS}:0", *args],
                                  stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (server.terminate(), server.wait(10), server.stdout.close()))
        return int(re.search(r"port (\d+)", server.stdout.readline()).group(1))

    def test_it_moves_what_it_says_and_zeros_are_not_sent(self):
        port = self.listen()
        for args, share in ((["--fresh"], 1.0), ([], 1.0), (["--zero", "50"], 0.5), (["--zero", "100"], 0)):
            done = godwit("bench", "--size", "64M", "--json", *args, f"{ADDRESS}:{port}")
            self.assertEqual(done.returncode, 0, done.stderr)
            result = json.loads(done.stdout)
            self.assertAlmostEqual(result["put_bytes"] / (64 << 20), share, delta=0.02)
            self.assertEqual(result["put_bytes"] + result["zero_bytes"], 64 << 20)
            self.assertGreater(result["bytes_per_s"], 1 << 20)
            self.assertEqual(result["link"].split()[0].rstrip(":,"), "RDMA" if RDMA else "TCP")

    def test_tcp_can_be_asked_for_at_either_end(self):
        port = self.listen()
        done = godwit("bench", "--size", "8M", f"tcp:{ADDRESS}:{port}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("TCP, as asked for", done.stdout)
        port = self.listen("--tcp")
        done = godwit("bench", "--size", "8M", f"{ADDRESS}:{port}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("TCP", done.stdout)
        if RDMA:
            self.assertIn("told to use TCP", done.stdout)
            done = godwit("bench", "--size", "8M", f"rdma:{ADDRESS}:{port}")
            self.assertEqual(done.returncode, 1)
            self.assertIn("told to use TCP", done.stderr)

    def test_what_is_wrong_is_said(self):
        port = self.listen()
        for args, code, word in ((["--size", "x", "127.0.0.1:1"], 2, "256M"), (["--chunk", "3", "127.0.0.1:1"], 2, "4K"),
                                 (["--zero", "101", "127.0.0.1:1"], 2, "0 to 100"), ([], 2, "--listen"),
                                 (["--size", "1M", f"{ADDRESS}:1"], 1, "nothing listens"),
                                 (["--size", "2T", f"{ADDRESS}:{port}"], 1, "smaller --size")):
            done = godwit("bench", *args)
            self.assertEqual(done.returncode, code, args)
            self.assertIn(word, done.stderr, args)
        if not RDMA:
            done = godwit("bench", "--size", "1M", f"rdma:{ADDRESS}:{port}")
            self.assertEqual(done.returncode, 1)
            self.assertIn("rdma link add", done.stderr)


class Probe(unittest.TestCase):
    def test_it_says_what_this_host_can_do(self):
        done = godwit("probe", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        host = json.loads(done.stdout)
        self.assertTrue(host["kernel"])
        self.assertEqual(len(host["rdma_devices"]) > 0, RDMA)
        for key in ("kvm", "trackers", "memlock_bytes", "rdma", "advice"):
            self.assertIn(key, host)
        if RDMA:
            device = host["rdma_devices"][0]
            self.assertEqual(device["state"], "active")
            self.assertEqual(device["path_mtu"], 4096)
            self.assertIn("198.18.", " ".join(device["addresses"]))
        else:
            self.assertIn("rdma link add", " ".join(host["advice"]))

    def test_it_asks_a_receiver_what_would_be_taken(self):
        server = subprocess.Popen([GODWIT, "bench", "--insecure", "--listen", f"{ADDRESS}:0"], stdout=subprocess.PIPE,
                                  text=True)
        self.addCleanup(lambda: (server.terminate(), server.wait(10), server.stdout.close()))
        port = int(re.search(r"port (\d+)", server.stdout.readline()).group(1))
        done = godwit("probe", f"{ADDRESS}:{port}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("RDMA by" if RDMA else "TCP", done.stdout)
        time.sleep(0.2)
        done = godwit("bench", "--size", "1M", f"{ADDRESS}:{port}")
        self.assertEqual(done.returncode, 0, "the receiver goes on waiting")
        done = godwit("probe", f"{ADDRESS}:1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing listens", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
