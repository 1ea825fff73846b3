#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests move with their disks: formats, ways of writing, what can go wrong.

The guest writes numbered records, each synced before its number is printed, and reads them back all the time; when the
memory has arrived a hook compares the images of both sides byte for byte.
"""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

WORK = "GW_MIB=8 GW_RATE_MIB=2 GW_DISK_MIB=16 GW_DISK_RATE=100"
DISK_MIB = 64


def qemu_img(*args):
    subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, text=True)


def records(vm):
    """The number of the last record that the guest saw synced."""
    for line in reversed(vm.lines()):
        if line.startswith("GUEST DISK") and len(line.split()) == 3:
            return int(line.split()[2])
    return 0


def drive(path, fmt="raw", cache="none", aio="threads", **more):
    options = "".join(f",{key.replace('_', '-')}={value}" for key, value in more.items())
    return ["-drive", f"file={path},format={fmt},if=virtio,id=disk0,cache={cache},aio={aio}{options}"]


class Disks(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        # Not in /dev/shm, where there is no O_DIRECT.
        self.folder = vmlab.BUILD / f"disks-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", self.folder], check=True))

    def image(self, name, fmt="raw", mib=DISK_MIB, base=None):
        path = self.folder / name
        if base:
            qemu_img("create", "-f", fmt, "-b", base, "-F", "raw", path)
        else:
            qemu_img("create", "-f", fmt, path, f"{mib}M")
        return path

    def pair(self, a, b, at_least=60, append=WORK, **options):
        """Two VMs; the source's guest has written some records."""
        source = self.lab.a.vm(append=append, ram_mib=128, extra=drive(a, **options))
        destination = self.lab.b.vm(append=append, ram_mib=128, incoming=True, extra=drive(b, **options))
        vmlab.wait_for(lambda: records(source) >= at_least or source.wrong(), 120 * vmlab.SLOW, "records on the disk")
        self.assertEqual(source.wrong(), "")
        return source, destination

    def move(self, *options, images=(), receive=()):
        hook = ["--hook", " && ".join(f"cmp {a} {b}" for a, b in images)] if images else []
        receiver, port = self.lab.b.receive("guest", *hook, *receive)
        sender = self.lab.a.godwit("migrate", "--json", *options, "guest", f"tcp:{vmlab.ADDRESS}:{port}", timeout=300)
        out, err = receiver.communicate(timeout=60)
        return sender, receiver.returncode, err

    def check_arrived(self, source, destination, sender, code, err):
        self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
        left_at = records(source)
        vmlab.wait_for(lambda: records(destination) > left_at + 150 or destination.wrong(), 60 * vmlab.SLOW, "records there")
        self.assertEqual(destination.wrong(), "")
        self.assertEqual(records(source), left_at, "the source went on")
        return vmlab.summary(sender.stdout)

    def check_stayed(self, source):
        self.assertEqual(source.status(), "running")
        before = records(source)
        vmlab.wait_for(lambda: records(source) > before + 50 or source.wrong(), 60 * vmlab.SLOW, "records here")
        self.assertEqual(source.wrong(), "")

    def test_each_way_of_writing_and_each_format(self):
        for fmt, cache, aio in (("raw", "none", "native"), ("qcow2", "none", "io_uring"), ("raw", "writeback", "threads"),
                                ("qcow2", "directsync", "native"), ("raw", "none", "io_uring")):
            with self.subTest(format=fmt, cache=cache, aio=aio):
                subprocess.run(f"rm -f {self.folder}/*", shell=True, check=True)
                a, b = self.image("a.img", fmt), self.image("b.img", fmt)
                source, destination = self.pair(a, b, fmt=fmt, cache=cache, aio=aio)
                done = self.move("-b", images=[(a, b)])
                end = self.check_arrived(source, destination, *done)
                self.assertLess(end["disk_put_bytes"], 40 << 20)
                print(f"  {fmt} {cache} {aio}: {end['elapsed_ns'] / 1e9:.2f} s, {end['round']} rounds, "
                      f"blackout {end['blackout']['total_ns'] / 1e6:.0f} ms, disk {end['disk_put_bytes'] >> 10} KiB")
                self.lab.close()
                subprocess.run(["qemu-img", "check", "-f", fmt, b], check=fmt == "qcow2", capture_output=True)
                self.lab = vmlab.Lab()
                self.addCleanup(self.lab.close)


if __name__ == "__main__":
    unittest.main(verbosity=2)
