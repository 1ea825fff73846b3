#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests move with their disks: formats, ways of writing, failures.

The guest writes numbered records, syncs each before it prints its number, and reads them back all
the time.  When the memory has arrived, a hook compares the images of both sides byte by byte.
"""

import json
import os
import subprocess
import sys
import time
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

    def pair(self, a, b, at_least=60, append=WORK, devices=(), **options):
        """Two VMs; the source's guest has written some records."""
        source = self.lab.a.vm(append=append, ram_mib=128, extra=[*drive(a, **options), *devices])
        destination = self.lab.b.vm(append=append, ram_mib=128, incoming=True, extra=[*drive(b, **options), *devices])
        vmlab.wait_for(lambda: records(source) >= at_least or source.wrong(), 120 * vmlab.SLOW, "records on the disk")
        self.assertEqual(source.wrong(), "")
        return source, destination

    def move(self, *options, images=(), receive=()):
        hook = ["--hook", " && ".join(f"cmp {a} {b}" for a, b in images)] if images else []
        receiver, port = self.lab.b.receive("guest", *hook, *receive)
        sender = self.lab.a.godwit("migrate", "--json", *options, "guest", f"tcp:{vmlab.ADDRESS}:{port}", timeout=300)
        return sender, *vmlab.ended(receiver)

    def check_arrived(self, source, destination, sender, code, err):
        self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
        left_at = records(source)
        vmlab.wait_for(lambda: records(destination) > left_at + 150 or destination.wrong(), 60 * vmlab.SLOW, "records there")
        destination.wait_verified(60 * vmlab.SLOW)
        self.assertEqual(destination.wrong(), "")
        self.assertEqual(records(source), left_at, "the source went on")
        return vmlab.summary(sender.stdout)

    def check_stayed(self, source):
        self.assertEqual(source.status(), "running")
        before = records(source)
        vmlab.wait_for(lambda: records(source) > before + 50 or source.wrong(), 60 * vmlab.SLOW, "records here")
        source.wait_verified(60 * vmlab.SLOW)
        self.assertEqual(source.wrong(), "")

    def test_each_way_of_writing_and_each_format(self):
        for fmt, cache, aio in (("raw", "none", "native"), ("qcow2", "none", "io_uring"), ("raw", "writeback", "threads"),
                                ("qcow2", "directsync", "native"), ("raw", "none", "io_uring"),
                                ("raw", "directsync", "threads"), ("raw", "writeback", "io_uring"),
                                ("qcow2", "directsync", "io_uring")):
            with self.subTest(format=fmt, cache=cache, aio=aio):
                try:
                    self.move_once(fmt, cache, aio)
                finally:  # the next test must not meet this one's guests
                    self.new_lab()

    def move_once(self, fmt, cache, aio):
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

    def test_zeros_that_are_there_and_an_image_that_is_in_use(self):
        a, b = self.image("a.img"), self.image("b.img")
        subprocess.run(["dd", "if=/dev/zero", f"of={a}", "bs=1M", f"count={DISK_MIB}", "conv=notrunc"], check=True,
                       capture_output=True)
        source, destination = self.pair(a, b)
        third = self.lab.b.vm("third", append=WORK, ram_mib=128, incoming=True, extra=drive(a))
        receiver, port = self.lab.b.receive("third", "--guest", "guest", "--overwrite")
        sender = self.lab.a.godwit("migrate", "-b", "guest", f"tcp:{vmlab.ADDRESS}:{port}")
        self.assertEqual(vmlab.ended(receiver)[0], "waits")
        self.assertEqual(sender.returncode, 1)
        self.assertIn("a running VMM uses the image", sender.stderr)
        third.kill()
        self.check_stayed(source)
        end = self.check_arrived(source, destination, *self.move("-b", images=[(a, b)]))
        self.assertLess(end["disk_put_bytes"], 40 << 20)

    def test_incremental_moves_the_top_layer_alone(self):
        base = self.image("base.img")
        subprocess.run(["dd", "if=/dev/urandom", f"of={base}", "bs=1M", "count=8", "seek=40", "conv=notrunc"], check=True,
                       capture_output=True)
        there = self.folder / "there.img"
        subprocess.run(["cp", "--sparse=always", base, there], check=True)
        a, b = self.image("a.qcow2", "qcow2", base=base), self.image("b.qcow2", "qcow2", base=there)
        source, destination = self.pair(a, b, fmt="qcow2")
        end = self.check_arrived(source, destination, *self.move("-i"))
        self.assertLess(end["disk_put_bytes"], 30 << 20)
        subprocess.run(["cmp", base, there], check=True)

    def test_incremental_wants_the_same_base(self):
        base, there = self.image("base.img"), self.image("there.img")
        for path in (base, there):
            subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=8", "seek=40", "conv=notrunc"], check=True,
                           capture_output=True)
        with open(there, "r+b") as file:
            file.seek(41 << 20)
            file.write(b"x")
        a, b = self.image("a.qcow2", "qcow2", base=base), self.image("b.qcow2", "qcow2", base=there)
        source, destination = self.pair(a, b, fmt="qcow2")
        sender, code, err = self.move("-i")
        self.assertEqual((sender.returncode, code), (1, "waits"), err)
        self.assertIn("the base of disk 'disk0' differs here", sender.stderr)
        shorter = self.image("shorter.img", mib=DISK_MIB // 2)
        for name, top, what in (("short", self.image("short.qcow2", "qcow2", base=shorter), "differs here"),
                                ("flat", self.image("flat.qcow2", "qcow2"), "has 2 layers at the source and 1 here")):
            with self.subTest(name):
                other = self.lab.b.vm(name, append=WORK, ram_mib=128, incoming=True, extra=drive(top, fmt="qcow2"))
                receiver, port = self.lab.b.receive(name, "--guest", "guest")
                sender = self.lab.a.godwit("migrate", "--quiet", "-i", "guest", f"tcp:{vmlab.ADDRESS}:{port}")
                code, err = vmlab.ended(receiver)
                self.assertEqual((sender.returncode, code), (1, "waits"), err)
                self.assertIn(what, sender.stderr)
                other.kill()
        self.check_stayed(source)
        with open(there, "r+b") as file:  # repaired: the cached hash is stale
            file.seek(41 << 20)
            file.write(b"\0")
        self.check_arrived(source, destination, *self.move("-i"))

    def test_a_chain_moves_whole(self):
        base, there = self.image("base.img"), self.image("there.img")
        subprocess.run(["dd", "if=/dev/urandom", f"of={base}", "bs=1M", "count=8", "seek=40", "conv=notrunc"], check=True,
                       capture_output=True)
        a, b = self.image("a.qcow2", "qcow2", base=base), self.image("b.qcow2", "qcow2", base=there)
        source, destination = self.pair(a, b, fmt="qcow2")
        self.check_arrived(source, destination, *self.move("-b", images=[(base, there)]))

    def test_what_is_there_is_not_overwritten_unless_told(self):
        a, b = self.image("a.img"), self.image("b.img")
        with open(b, "r+b") as file:
            file.seek(10 << 20)
            file.write(b"precious")
        source, destination = self.pair(a, b)
        sender, code, _ = self.move("-b")
        self.assertEqual((sender.returncode, code), (1, "waits"))
        self.assertIn("--overwrite", sender.stderr)
        with open(b, "rb") as file:
            file.seek(10 << 20)
            self.assertEqual(file.read(8), b"precious")
        self.check_stayed(source)
        self.check_arrived(source, destination, *self.move("-b", images=[(a, b)], receive=["--overwrite"]))

    def test_the_destination_is_full(self):
        small = Path(self.lab.folder) / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", small], capture_output=True).returncode:
            self.skipTest("no tmpfs can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        a, b = self.image("a.img"), small / "b.img"
        with open(b, "wb") as file:
            file.truncate(DISK_MIB << 20)
        subprocess.run(["dd", "if=/dev/urandom", f"of={a}", "bs=1M", "count=20", "seek=40", "conv=notrunc"], check=True,
                       capture_output=True)
        source, _ = self.pair(a, b, cache="writeback")
        sender, code, _ = self.move("-b")
        self.assertEqual((sender.returncode, code), (1, 1))
        self.assertIn("No space left", sender.stderr)
        self.check_stayed(source)

    def test_the_destination_has_no_such_disk(self):
        a, b = self.image("a.img"), self.image("b.img")
        for extra, words in ((["-drive", f"file={b},format=raw,if=virtio,id=other"], "give its -drive the same id"),
                             (["-drive", "file=null-co://,file.size=64M,format=raw,if=virtio,id=disk0"], "cannot be moved")):
            with self.subTest(words):
                source = self.lab.a.vm(append=WORK, ram_mib=128, extra=drive(a))
                self.lab.b.vm(append=WORK, ram_mib=128, incoming=True, extra=extra)
                vmlab.wait_for(lambda: records(source) >= 10, 120, "records")
                sender, code, _ = self.move("-b")
                self.assertEqual((sender.returncode, code), (1, "waits"))
                self.assertIn(words, sender.stderr)
                self.check_stayed(source)
                self.lab.close()
                self.lab = vmlab.Lab()
                self.addCleanup(self.lab.close)

    def test_a_disk_on_something_else_is_refused_by_name(self):
        a, b = self.image("a.img"), self.image("b.img")
        served = self.image("served.img")
        sock = self.lab.folder / "nbd.sock"
        server = subprocess.Popen(["qemu-nbd", "-k", sock, "-f", "raw", "-t", served])
        self.lab.processes.append(server)
        vmlab.wait_for(sock.exists, 20, "qemu-nbd")
        source = self.lab.a.vm(append=WORK, ram_mib=128, extra=drive(a) + [
            "-drive", f"file=nbd+unix:///?socket={sock},format=raw,if=virtio,id=far"])
        self.lab.b.vm(append=WORK, ram_mib=128, incoming=True, extra=drive(b))
        vmlab.wait_for(lambda: records(source) >= 10, 120, "records")
        done = self.lab.a.godwit("migrate", "-b", "guest", "tcp:127.0.0.1:1")
        self.assertEqual(done.returncode, 5)
        self.assertIn("disk 'far' cannot be moved", done.stderr)
        self.check_stayed(source)

    def test_the_machine_changes_in_mid_migration(self):
        def resize(source):
            source.qmp("block_resize", device="disk0", size=(DISK_MIB + 16) << 20)

        def plug(source):
            source.qmp("blockdev-add", **{"node-name": "more", "driver": "raw",
                                          "file": {"driver": "file", "filename": str(self.image("more.img"))}})
            source.qmp("device_add", driver="scsi-hd", drive="more", id="plugged", bus="scsi0.0")

        def unplug(source):
            source.qmp("device_del", id="second")

        for change, words, fmt in ((resize, "disk 'disk0' was ", "raw"), (resize, "disk 'disk0' was ", "qcow2"),
                                   (plug, "disk 'plugged' was plugged in", "raw"),
                                   (unplug, "disk 'two' was unplugged", "raw")):
            with self.subTest(change=change.__name__, format=fmt):
                subprocess.run(f"rm -f {self.folder}/*", shell=True, check=True)
                a, b = self.image(f"a.{fmt}", fmt), self.image(f"b.{fmt}", fmt)
                source, _ = self.pair_with_two(a, b, fmt)
                sender, receiver = self.begin("--bandwidth", "16M")
                vmlab.wait_for(lambda: self.lab.a.status().get("disk_put_bytes", 0) > 256 << 10, 60, "some of the disk")
                change(source)
                _, err = sender.communicate(timeout=120)
                receiver.communicate(timeout=60)
                self.assertEqual((sender.returncode, receiver.returncode), (1, 1), err)
                self.assertIn(words, err)
                self.check_stayed(source)
            self.new_lab()

    def new_lab(self):
        self.lab.close()
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)

    def pair_with_two(self, a, b, fmt="raw"):
        """The guests have a second disk, to which they do not write: second-a.img, second-b.img."""
        def more(side):
            return [*drive(a if side == "a" else b, fmt=fmt), "-device", "virtio-scsi-pci,id=scsi0", "-drive",
                    f"file={self.image(f'second-{side}.img', mib=4)},format=raw,if=none,id=two,cache=none", "-device",
                    "scsi-hd,drive=two,id=second,bus=scsi0.0"]

        source = self.lab.a.vm(append=WORK, ram_mib=128, extra=more("a"))
        destination = self.lab.b.vm(append=WORK, ram_mib=128, incoming=True, extra=more("b"))
        vmlab.wait_for(lambda: records(source) >= 60 or source.wrong(), 120 * vmlab.SLOW, "records on the disk")
        return source, destination

    def begin(self, *options, receive=()):
        """Starts a migration with the disks.  Return: sender, receiver."""
        receiver, port = self.lab.b.receive("guest", *receive)
        sender = self.lab.a.start("migrate", "--quiet", "-b", *options, "guest",
                                  f"tcp:{vmlab.ADDRESS}:{port}")  # nobody reads it, so it is quiet
        return sender, receiver

    def test_one_of_two_disks_is_chosen(self):
        a, b = self.image("a.img"), self.image("b.img")
        source, destination = self.pair_with_two(a, b)
        with open(self.folder / "second-a.img", "r+b") as file:
            file.write(b"not to be moved")
        self.check_arrived(source, destination, *self.move("-b", "--disk", "disk0", images=[(a, b)]))
        self.assertEqual((self.folder / "second-b.img").read_bytes()[:15], bytes(15))

    def test_a_disk_that_is_read_only_there(self):
        a, b = self.image("a.img"), self.image("b.img")
        source = self.lab.a.vm(append=WORK, ram_mib=128, extra=drive(a))
        self.lab.b.vm(append=WORK, ram_mib=128, incoming=True, extra=drive(b, readonly="on"))
        vmlab.wait_for(lambda: records(source) >= 60 or source.wrong(), 120 * vmlab.SLOW, "records on the disk")
        sender, code, _ = self.move("-b")
        self.assertEqual((sender.returncode, code), (1, "waits"))
        self.assertIn("disk 'disk0'", sender.stderr)
        self.assertIn("may be written to", sender.stderr)
        self.check_stayed(source)

    def hold(self, phase):
        """A migration that stays in a phase for a while.  Return: source, destination, sender,
        receiver."""
        subprocess.run(f"rm -f {self.folder}/*", shell=True, check=True)
        a, b = self.image("a.qcow2", "qcow2"), self.image("b.qcow2", "qcow2")
        # In each round there must be something to send, or it would switch over.
        work = WORK.replace("GW_RATE_MIB=2 ", "GW_RATE_MIB=40 ") if phase == "rounds" else WORK
        source, destination = self.pair(a, b, fmt="qcow2", append=work)
        options = {"disks": ["--bandwidth", "16M"], "blackout": [],
                   "rounds": ["--bandwidth", "16M", "--downtime", "1", "--rounds", "100000", "--on-limit", "stop-copy"]}
        hook = ["--hook", "sleep 6"] if phase == "blackout" else []
        sender, receiver = self.begin(*options[phase], receive=hook)
        if phase == "disks":
            vmlab.wait_for(lambda: self.lab.a.status().get("disk_put_bytes", 0) > 512 << 10, 60, phase)
        elif phase == "rounds":
            vmlab.wait_for(lambda: self.lab.a.status().get("round", 0) > 3, 60, phase)
        else:
            vmlab.wait_for(lambda: source.status() in ("paused", "postmigrate", "finish-migrate"), 60, phase)
            time.sleep(0.3)  # into the hook
        return source, destination, sender, receiver

    def test_either_side_is_killed(self):
        for phase in ("disks", "rounds", "blackout"):
            for who in ("sender", "receiver", "destination"):
                with self.subTest(who=who, phase=phase):
                    source, destination, sender, receiver = self.hold(phase)
                    {"sender": sender, "receiver": receiver, "destination": destination}[who].kill()
                    sender.communicate(timeout=60)
                    receiver.communicate(timeout=60)
                    vmlab.wait_for(lambda: source.status() == "running", 20, "the guest running on")
                    self.check_stayed(source)
                    source.qmp("quit")
                    source.process.wait(30)
                    subprocess.run(["qemu-img", "check", "-f", "qcow2", self.folder / "a.qcow2"], check=True,
                                   capture_output=True)
                self.new_lab()

    def too_little_for(self, source):
        """A bandwidth of half the guest's dirty rate, at a block a record.  The speed depends on
        the device."""
        first, since = records(source), time.monotonic()
        time.sleep(2)
        mib = (records(source) - first) / 16 / (time.monotonic() - since)
        return f"{max(2, int(mib * 0.5))}M"

    def test_a_guest_that_writes_faster_than_the_link(self):
        """Each scattered record dirties a block."""
        a, b = self.image("a.img"), self.image("b.img")
        source, destination = self.pair(a, b, append=WORK.replace("RATE=100", "RATE=2000"))
        limits = ("-b", "--bandwidth", self.too_little_for(source), "--rounds", "3", "--downtime", "50")
        sender, code, _ = self.move(*limits, "--on-limit", "give-up")
        self.assertEqual((sender.returncode, code), (1, 1))
        self.assertRegex(sender.stderr, "does not (converge|fit)")  # the time of a sync depends on the device
        self.check_stayed(source)
        end = self.check_arrived(source, destination, *self.move(*limits, "--on-limit", "stop-copy", images=[(a, b)]))
        print(f"  {records(source)} records, {end['round']} rounds, disk {end['disk_put_bytes'] >> 10} KiB")

    def test_a_writer_that_is_too_fast_is_slowed(self):
        for cache, aio in (("none", "threads"), ("none", "native"), ("none", "io_uring")):
            with self.subTest(aio=aio):
                subprocess.run(f"rm -f {self.folder}/*", shell=True, check=True)
                a, b = self.image("a.img"), self.image("b.img")
                source, destination = self.pair(a, b, append=WORK.replace("RATE=100", "RATE=2000"), cache=cache, aio=aio)
                end = self.check_arrived(source, destination, *self.move(
                    "-b", "--bandwidth", self.too_little_for(source), "--downtime", "100", images=[(a, b)]))
                # Whether it had to be slowed depends on the device; tests/blocks tests the waiting
                # itself.
                self.assertEqual(end["throttle_disk_bytes_per_s"], 0)
                print(f"  {aio}: {records(source)} records, {end['round']} rounds, slowed to "
                      f"{end['throttled_disk_bytes_per_s'] / 1048576:.1f} MiB/s for {end['throttled_ns'] / 1e9:.1f} s, "
                      f"blackout {(end['blackout']['total_ns'] - end['blackout']['handover_ns']) / 1e6:.0f} ms")
                self.lab.close()
                self.lab = vmlab.Lab()
                self.addCleanup(self.lab.close)

    def test_images_that_are_missing_are_made(self):
        def blockdev(path, fmt):
            return ["-blockdev", f"driver=file,filename={path},node-name=file0,cache.direct=on",
                    "-blockdev", json.dumps({"driver": fmt, "file": "file0", "node-name": "disk0"}),
                    "-device", "virtio-blk-pci,drive=disk0,id=disk0"]

        for fmt, lines in (("raw", lambda path: drive(path)), ("qcow2", lambda path: drive(path, fmt="qcow2")),
                           ("qcow2", lambda path: blockdev(path, "qcow2")), ("raw", lambda path: blockdev(path, "raw"))):
            with self.subTest(format=fmt):
                subprocess.run(f"rm -f {self.folder}/*", shell=True, check=True)
                a, b = self.image("a.img", fmt), self.folder / "b.img"
                source = self.lab.a.vm(append=WORK, ram_mib=128, extra=lines(a))
                destination = self.lab.b.vm(append=WORK, ram_mib=128, incoming=True, extra=lines(b))
                self.assertIn(f"image {b} did not exist", (destination.folder / "log").read_text())
                vmlab.wait_for(lambda: records(source) >= 60 or source.wrong(), 120 * vmlab.SLOW, "records on the disk")
                self.check_arrived(source, destination, *self.move("-b", images=[(a, b)]))
                for vm in (source, destination):
                    self.assertEqual(vm.qmp("query-block")[0]["inserted"]["image"]["virtual-size"], DISK_MIB << 20)
                if fmt == "raw":
                    self.assertEqual(os.stat(a).st_size, os.stat(b).st_size)
                self.lab.close()
                subprocess.run(["qemu-img", "check", "-f", fmt, b], check=fmt == "qcow2", capture_output=True)
                self.lab = vmlab.Lab()
                self.addCleanup(self.lab.close)

    def test_images_that_cannot_be_made(self):
        for extra, words in ((drive(self.folder / "no" / "b.img"), "there is no such folder"),
                             (["-drive", f"file={self.folder}/b.img,if=virtio"], "its format is not given"),
                             (drive(self.folder / "b.img", fmt="vmdk"), "only raw and qcow2 are made here")):
            with self.subTest(words):
                with self.assertRaises(vmlab.LabError):
                    self.lab.b.vm("waiting", append=WORK, ram_mib=128, incoming=True, extra=extra, patience=1)
                self.assertIn(words, (self.lab.b.folder / "vm-waiting" / "log").read_text())
                self.assertFalse((self.folder / "b.img").exists())

    def test_a_smaller_image_there_takes_the_size_of_what_comes(self):
        a, b = self.image("a.img"), self.image("b.img", mib=4)
        source, destination = self.pair(a, b)
        self.check_arrived(source, destination, *self.move("-b", images=[(a, b)]))
        self.assertEqual(destination.qmp("query-block")[0]["inserted"]["image"]["virtual-size"], DISK_MIB << 20)

    def test_a_disk_goes_where_it_is_told(self):
        a, b, other = self.image("a.img"), self.image("b.img"), self.image("other.img")
        source = self.lab.a.vm(append=WORK, ram_mib=128, extra=drive(a))
        destination = self.lab.b.vm(append=WORK, ram_mib=128, incoming=True,
                                    extra=["-drive", f"file={b},format=raw,if=virtio,id=another,cache=none"])
        vmlab.wait_for(lambda: records(source) >= 60 or source.wrong(), 120 * vmlab.SLOW, "records on the disk")
        for place, words in ((other, f"no disk of the VMM here lies there: its first, 'another', is {b}"),
                             ("b.img", "begins with '/'")):
            receiver, port = self.lab.b.receive("guest")
            sender = self.lab.a.godwit("migrate", "--disk", f"disk0={place}", "guest", f"tcp:{vmlab.ADDRESS}:{port}")
            receiver.kill()
            receiver.communicate()
            self.assertNotEqual(sender.returncode, 0)
            self.assertIn(words, sender.stderr)
        self.check_stayed(source)
        self.check_arrived(source, destination, *self.move("--disk", f"disk0={b}", images=[(a, b)]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
