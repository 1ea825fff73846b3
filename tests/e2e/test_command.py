#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command as people and scripts use it: options, help, output, JSON, addresses, and receivers that wait."""

import json
import os
import shutil
import socket
import sys
import threading
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

IDLE = {"guest": False, "paused": True, "ram_mib": 64}


class Words(unittest.TestCase):
    """No VM is needed."""

    @classmethod
    def setUpClass(cls):
        cls.lab = vmlab.Lab()

    @classmethod
    def tearDownClass(cls):
        cls.lab.close()

    def said(self, *args, code=0):
        done = self.lab.a.godwit(*args)
        self.assertEqual(done.returncode, code, (args, done.stderr))
        return done

    def test_options_are_as_everywhere(self):
        for args, code, word in ((["migrate", "-qv", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["migrate", "-qdc4", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["migrate", "ghost", "127.0.0.1:1", "-q"], 5, "ghost"),
                                 (["migrate", "--channels=4", "--", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["list", "--json=no"], 2, "takes no value"), (["list", "--help=no"], 2, "takes no value"),
                                 (["migrate", "-Z"], 2, "-Z"), (["migrate", "--qu"], 2, "short for several"),
                                 (["migrate", "-c"], 2, "needs a value: N"), (["migrate", "--downtime"], 2, "needs a value: MS"),
                                 (["help", "fly"], 2, "no command 'fly'")):
            done = self.said(*args, code=code)
            self.assertIn(word, done.stderr, args)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_help_is_of_the_command(self):
        for name in ("run", "list", "receive", "migrate", "status", "cancel", "resume", "bench", "probe"):
            page = self.said("help", name).stdout
            self.assertTrue(page.startswith(f"Usage: godwit {name} "), page)
            self.assertEqual(self.said(name, "--help").stdout, page)
            self.assertEqual(self.said(name, "-h").stdout, page)

    def test_output_that_cannot_be_written_is_a_failure(self):
        for args in (["list"], ["list", "--json"], ["probe"], ["probe", "--json"], ["help"], ["list", "--help"], ["--version"]):
            with open("/dev/full", "w") as full:
                process = self.lab.a.start(*args, stdout=full)
                _, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 1, args)
            self.assertIn("No space left on device", err, args)

    def test_a_failure_before_the_start_is_json_too(self):
        for args, code, word in ((["migrate", "--json", 'gh"ost', "127.0.0.1:1"], 5, 'gh"ost'),
                                 (["migrate", "--json", b"gh\xffost", "127.0.0.1:1"], 5, "gh\ufffdost"),
                                 (["migrate", "-d", "--json", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["migrate", "--json"], 2, "name and a URI"), (["migrate", "--what", "--json"], 2, "--what"),
                                 (["receive", "--json", "--name", "ghost", "--listen", "127.0.0.1:0"], 5, "ghost"),
                                 (["status", "--json", "ghost"], 5, "ghost"),
                                 (["bench", "--json", "--size", "1M", "127.0.0.1:1"], 1, "nothing listens"),
                                 (["probe", "--json", "nonsense"], 2, "HOST:PORT")):
            line = json.loads(self.said(*args, code=code).stdout)
            self.assertEqual((line["event"], line["command"]), ("error", args[0]))
            self.assertIn(word, line["error"], args)

    def test_a_bad_address_is_a_usage_error(self):
        for uri in ("nonsense", "127.0.0.1", ":1", "127.0.0.1:port", "127.0.0.1:65536", "tcp://", "tcp:///127.0.0.1:1", "[::1:1"):
            for args in (["migrate", "ghost", uri], ["bench", uri], ["probe", uri], ["bench", "--listen", uri],
                         ["receive", "--name", "ghost", "--listen", uri]):
                self.assertIn("PORT", self.said(*args, code=2).stderr, args)

    def test_addresses_may_be_written_as_uris(self):
        for scheme in ("", "tcp:", "tcp://"):
            self.assertIn("nothing listens", self.said("bench", "--size", "1M", f"{scheme}127.0.0.1:1", code=1).stderr)
            self.assertIn("nothing listens", self.said("bench", "--size", "1M", f"{scheme}[::1]:1", code=1).stderr)
        for scheme in ("rdma:", "rdma://"):
            self.assertIn("RDMA device", self.said("bench", "--size", "1M", f"{scheme}127.0.0.1:1", code=1).stderr)

    @unittest.skipIf(os.path.isdir("/sys/class/infiniband") and os.listdir("/sys/class/infiniband"), "RDMA devices are here")
    def test_no_rdma_device_is_said_once_and_where_it_was_expected(self):
        listener = self.lab.b.start("bench", "--listen", "tcp://127.0.0.1:0")
        port = int(listener.stdout.readline().split()[3].rstrip(";"))
        done = self.said("bench", "--json", "--size", "1M", f"127.0.0.1:{port}")
        self.assertEqual(json.loads(done.stdout)["link"], "TCP")
        self.assertEqual(self.said("bench", "--size", "1M", f"127.0.0.1:{port}").stdout.count("RDMA"), 0)
        self.assertEqual(self.said("probe", f"127.0.0.1:{port}").stdout.count("no RDMA device"), 1)
        listener.kill()

    def test_a_peer_that_is_no_godwit_is_named(self):
        for answer, name in ((b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "an SSH server"),
                             (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server"), (b"RFB 003.008\n", "a VNC server"),
                             (b"\xff", "iperf3"), (b"nobody knows what this may be", "no godwit")):
            with socket.create_server(("127.0.0.1", 0)) as server:
                def serve():
                    peer, _ = server.accept()
                    peer.recv(64)
                    peer.sendall(answer)
                    peer.close()
                thread = threading.Thread(target=serve)
                thread.start()
                done = self.said("bench", "--size", "1M", f"127.0.0.1:{server.getsockname()[1]}", code=1)
                thread.join()
            self.assertIn(name, done.stderr)


if __name__ == "__main__":
    runner.main()
