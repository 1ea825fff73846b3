#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest in a real QEMU with KVM moves over rxe while it runs; for the full lab, on one host."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

COMPARE, FILL = vmlab.BUILD / "perf" / "ramcmp", vmlab.BUILD / "perf" / "ramfill"
WORK = "GW_MIB=8 GW_RATE_MIB=2"


def move(lab, scheme, *options, hook="", rails=""):
    more = (["--hook", hook] if hook else []) + (["--rails", rails] if rails else [])
    receiver, port = lab.b.receive("guest", *more)
    sender = lab.a.godwit("migrate", "--json", *vmlab.SLOW_LAB, *options, "guest", f"{scheme}{vmlab.ADDRESS}:{port}", timeout=300)
    out, err = receiver.communicate(timeout=60)
    return sender, receiver.returncode, out, err


def allocated(path):
    return path.stat().st_blocks * 512


class LiveRdma(unittest.TestCase):
    def check_move(self, scheme, *options, rails=""):
        """Return: the summary of a migration that the guest and a comparison of the RAM found good."""
        with vmlab.Lab() as lab:
            source = lab.a.vm(append=WORK, ram_mib=128)
            destination = lab.b.vm(append=WORK, ram_mib=128, incoming=True)
            source.wait_count(3, timeout=240)
            hook = f"{COMPARE} {source.ram} {destination.ram}"
            sender, code, _, err = move(lab, scheme, *options, hook=hook, rails=rails)
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            left_at = source.count()
            destination.wait_count(left_at + 10, timeout=120)
            self.assertEqual(destination.wrong(), "")
            self.assertEqual(source.count(), left_at, "the source went on")
            end = vmlab.summary(sender.stdout)
            parts = {k: round(v / 1e6, 1) for k, v in end["blackout"].items()}
            print(f"  {end['link']}: {end['elapsed_ns'] / 1e9:.2f} s, {end['round']} rounds, blackout ms {parts}, "
                  f"rails {[b >> 20 for b in end.get('rail_bytes', [])][:2]} MiB", flush=True)
            return end

    def test_rdma_and_tcp_and_the_blackout_is_no_longer(self):
        """Registration must not be in the blackout: it would more than double each of RDMA's, in every turn.

        A busy machine stretches a blackout at random, so the test ends with the first turns that show the promise.
        """
        blackouts = {"rdma:": [], "tcp:": []}
        for scheme in ("rdma:", "tcp:", "tcp:", "rdma:") * 4:
            end = self.check_move(scheme)
            blackouts[scheme].append(end["blackout"]["total_ns"] - end["blackout"]["handover_ns"])
            if scheme == "rdma:":
                self.assertTrue(end["link"].startswith("RDMA by gwrxe0"))
                self.assertGreater(end["rail_bytes"][0], 0.9 * end["put_bytes"])
            if len(blackouts["rdma:"]) > 1 and min(blackouts["rdma:"]) < 1.5 * min(blackouts["tcp:"]):
                return
        self.fail(blackouts)

    def test_two_rails_one_of_which_breaks(self):
        end = self.check_move("rdma:", "--fault", "rail1@40", rails="198.18.1.1")
        self.assertGreater(end["rail_bytes"][0], 0)

    def test_a_device_is_pulled(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(append=WORK, ram_mib=128)
            lab.b.vm(append=WORK, ram_mib=128, incoming=True)
            source.wait_count(3, timeout=240)
            receiver, port = lab.b.receive("guest")
            sender = lab.a.start("migrate", "--json", *vmlab.SLOW_LAB, "--bandwidth", "4M", "guest", f"{vmlab.ADDRESS}:{port}")
            vmlab.wait_for(lambda: sender.poll() is not None or lab.a.status().get("put_bytes", 0) > 4 << 20, 120,
                           "some of the bulk")
            self.assertIsNone(sender.poll(), sender.poll() is not None and sender.communicate())
            subprocess.run(["rdma", "link", "del", "gwrxe0"], check=True, timeout=60)
            try:
                out, err = sender.communicate(timeout=300)
                receiver.communicate(timeout=60)
            finally:
                subprocess.run(["rdma", "link", "add", "gwrxe0", "type", "rxe", "netdev", "gwnet0"], check=True)
            self.assertEqual((sender.returncode, receiver.returncode), (0, 0), err)
            self.assertIn("is given up", err)
            end = vmlab.summary(out)
            self.assertGreater(end["put_bytes"] - end["rail_bytes"][0], 1 << 20, "the rest went by TCP")

    def test_a_sparse_guest_stays_sparse(self):
        sizes = {}
        for scheme in ("tcp:", "rdma:"):
            with vmlab.Lab() as lab:
                rams = [Path(f"/dev/shm/gw-sparse-{os.getpid()}-{side}.ram") for side in "ab"]
                lab.files += rams
                subprocess.run([FILL, rams[0], "512", "48"], check=True)
                common = {"ram_mib": 512, "guest": False, "paused": True}
                lab.a.vm(ram=rams[0], **common)
                lab.b.vm(ram=rams[1], incoming=True, **common)
                before = allocated(rams[0])
                sender, code, _, err = move(lab, scheme)
                self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
                sizes[scheme] = allocated(rams[1])
                self.assertLess(allocated(rams[0]), before + (2 << 20), "the source grew")
                self.assertEqual(subprocess.run([COMPARE, *rams]).returncode, 0)
        print(f"  allocated at the destination: {sizes}")
        self.assertLess(abs(sizes["rdma:"] - sizes["tcp:"]), 0.05 * sizes["tcp:"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
