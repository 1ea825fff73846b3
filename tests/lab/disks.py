#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Linux guest under KVM moves with its disk: over rxe, and from block device to block device; for
the full lab.

The block devices are null_blk's, which keep their data in memory and fail where they are told to.
In front of one the device mapper delays each read.
"""

import os
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

WORK = "GW_MIB=8 GW_RATE_MIB=2 GW_DISK_MIB=4 GW_DISK_RATE=20"
COMPARE = vmlab.BUILD / "perf" / "ramcmp"
CONFIG = Path("/sys/kernel/config/nullb")


def records(vm, kind="DISK"):
    """The number of the last record that the guest saw synced, or of the last part that it READ."""
    return max((int(line.split()[2]) for line in vm.lines() if line.startswith(f"GUEST {kind}") and len(line.split()) == 3),
               default=0)


class NullBlk:
    """A block device of so many MiB."""

    def __init__(self, number, mib):
        self.folder = CONFIG / f"nullb{number}"
        self.folder.mkdir()
        for key, value in (("size", mib), ("memory_backed", 1), ("blocksize", 512), ("power", 1)):
            (self.folder / key).write_text(str(value))
        self.path = Path(f"/dev/nullb{number}")

    def bad(self, is_bad, first=50000, last=50007):
        """Whether reading and writing these sectors fails."""
        (self.folder / "badblocks").write_text(f"{'+' if is_bad else '-'}{first}-{last}")

    def close(self):
        (self.folder / "power").write_text("0")
        self.folder.rmdir()


class Disks(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)

    def pair(self, a, b):
        def drive(path):
            return ["-drive", f"file={path},format=raw,if=virtio,id=disk0,cache=none,aio=native"]

        source = self.lab.a.vm(append=WORK, ram_mib=128, extra=drive(a))
        destination = self.lab.b.vm(append=WORK, ram_mib=128, incoming=True, extra=drive(b))
        vmlab.wait_for(lambda: records(source) >= 20 or source.wrong(), 240, "records on the disk")
        return source, destination

    def move(self, scheme, hook=""):
        receiver, port = self.lab.b.receive("guest", "--overwrite", *(["--hook", hook] if hook else []))
        sender = self.lab.a.godwit("migrate", "--json", *vmlab.SLOW_LAB, "-b", "guest", f"{scheme}{vmlab.ADDRESS}:{port}",
                                   timeout=300)
        code, err = vmlab.ended(receiver)
        return sender, code, err

    def check_arrived(self, source, destination, sender, code, err):
        self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
        left_at = records(source)
        vmlab.wait_for(lambda: records(destination) > left_at + 40 or destination.wrong(), 120, "records there")
        destination.wait_verified(120)
        self.assertEqual(destination.wrong(), "")
        self.assertEqual(records(source), left_at, "the source went on")
        return vmlab.summary(sender.stdout)

    def check_stayed(self, source):
        before = records(source)
        vmlab.wait_for(lambda: records(source) > before + 20 or source.wrong(), 120, "records here")
        source.wait_verified(120)
        self.assertEqual(source.wrong(), "")

    def test_a_disk_moves_over_rdma(self):
        images = [Path(f"/var/tmp/lab-disk-{side}.img") for side in "ab"]
        for image in images:
            self.addCleanup(image.unlink)
            with open(image, "wb") as file:
                file.truncate(64 << 20)
        with open(images[0], "r+b") as file:
            file.seek(32 << 20)
            file.write(os.urandom(8 << 20))
        source, destination = self.pair(*images)
        hook = f"{COMPARE} {source.ram} {destination.ram} && cmp {images[0]} {images[1]}"
        end = self.check_arrived(source, destination, *self.move("rdma:", hook))
        self.assertGreater(end["disk_put_bytes"], 8 << 20)
        self.assertGreater(end["rail_bytes"][0], 0.9 * (end["put_bytes"] + end["disk_put_bytes"]))
        print(f"  {end['link']}: {end['elapsed_ns'] / 1e9:.2f} s, disk {end['disk_put_bytes'] >> 10} KiB, rail "
              f"{end['rail_bytes'][0] >> 10} KiB", flush=True)

    def test_block_devices_and_their_errors(self):
        devices = [NullBlk(number, 32) for number in range(2)]
        try:
            source, destination = self.pair(*(device.path for device in devices))
            for device, scheme, words in ((devices[0], "tcp:", "cannot be read at byte"),
                                          (devices[1], "rdma:", "here cannot be")):
                device.bad(True)
                sender, code, err = self.move(scheme)
                device.bad(False)
                self.assertEqual((sender.returncode, code), (1, 1), err)
                self.assertIn("disk 'disk0'", sender.stderr)
                self.assertIn(words, sender.stderr)
                self.assertIn("Input/output error", sender.stderr)
                self.check_stayed(source)
            self.check_arrived(source, destination,
                               *self.move("rdma:", f"cmp {devices[0].path} {devices[1].path}"))
        finally:
            self.lab.close()
            for device in devices:
                device.close()

    def test_a_block_device_that_is_too_small(self):
        devices = [NullBlk(number, mib) for number, mib in ((2, 32), (3, 16))]
        try:
            source, _ = self.pair(*(device.path for device in devices))
            sender, code, _ = self.move("tcp:")
            self.assertEqual((sender.returncode, code), (1, "waits"))
            self.assertIn("the device here has 16 MiB, 32 are coming", sender.stderr)
            self.check_stayed(source)
        finally:
            self.lab.close()
            for device in devices:
                device.close()

    def test_libblkio_is_refused_by_name(self):
        """libblkio makes its own system calls: written blocks, and pages that it read to, would be
        lost."""
        image = Path("/var/tmp/lab-blkio.img")
        self.addCleanup(image.unlink)
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        try:
            source = self.lab.a.vm(guest=False, ram_mib=64, extra=[
                "-blockdev", f"driver=io_uring,node-name=odd,filename={image},cache.direct=on", "-device",
                "virtio-blk-pci,drive=odd"])
        except vmlab.LabError as why:
            if "io_uring" in str(why):
                self.skipTest("QEMU here has no libblkio")
            raise
        done = self.lab.a.godwit("migrate", "-b", "guest", "tcp:127.0.0.1:1")
        self.assertEqual(done.returncode, 5)
        self.assertIn("'odd' (io_uring) reads and writes past all calls that can be watched", done.stderr)
        # Even if its name were vouched for, the ring that it made is still unknown.
        done = self.lab.a.godwit("migrate", "-b", "--allow-untracked", "odd", "guest", "tcp:127.0.0.1:1")
        self.assertEqual(done.returncode, 5)
        self.assertIn("was made past liburing", done.stderr)
        self.assertEqual(source.status(), "running")

    def test_a_read_under_way_is_not_lost(self):
        """The device writes to pages that were pinned when the read began: see tracker/reads.h."""
        device, slow = NullBlk(4, 32), Path("/dev/mapper/slow")
        try:
            with open(device.path, "r+b") as file:
                file.write(os.urandom(32 << 20))
            subprocess.run(["dmsetup", "create", slow.name, "--table", f"0 {32 << 11} delay {device.path} 0 100"], check=True)
            for engine in ("native", "io_uring", "threads"):
                with self.subTest(aio=engine):
                    self.read_and_move(slow, engine)
        finally:
            self.lab.close()
            subprocess.run(["dmsetup", "remove", "--retry", slow.name], check=False)
            device.close()

    def read_and_move(self, path, engine):
        drive = ["-drive", f"file={path},format=raw,if=virtio,id=disk0,cache=none,readonly=on,aio={engine}"]
        work = "GW_MIB=8 GW_RATE_MIB=2 GW_DISK_MIB=32 GW_DISK_READ=1"
        source = self.lab.a.vm(engine, append=work, ram_mib=128, extra=drive)
        destination = self.lab.b.vm(engine, append=work, ram_mib=128, incoming=True, extra=drive)
        vmlab.wait_for(lambda: records(source, "READ") >= 10 or source.wrong(), 240, "parts of the disk read")
        receiver, port = self.lab.b.receive(engine, "--hook", f"{COMPARE} {source.ram} {destination.ram}")
        sender = self.lab.a.godwit("migrate", "--json", *vmlab.SLOW_LAB, engine, f"tcp:{vmlab.ADDRESS}:{port}", timeout=300)
        _, err = receiver.communicate(timeout=60)
        self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr + err)
        left_at = records(source, "READ")
        vmlab.wait_for(lambda: records(destination, "READ") > left_at + 5 or destination.wrong(), 120, "parts read there")
        self.assertEqual(destination.wrong(), "")
        print(f"  aio={engine}: {left_at} parts of 256 KiB read, {vmlab.summary(sender.stdout)['round']} rounds", flush=True)
        source.kill()
        destination.kill()


if __name__ == "__main__":
    unittest.main(verbosity=2)
