#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kinds of images, their sizes and names, and requests besides plain writes: every byte moves with
-b.

No Linux runs here.  The VMM itself writes, trims and writes zeros by its monitor's `qemu-io`, while
the migration goes on.  The test keeps a model of the bytes that an image must hold, so no
comparison depends on the source's image.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

CHUNK = 64 << 10
MIB = 1 << 20
TIB = 1 << 40
SCSI = ["-device", "virtio-scsi-pci,id=scsi0"]

NAMES = ("two words.img", "a,comma.img", ",,twice,,.img", "it's.img", 'a "quoted" one.img', "nbd:host:1.img", "100%s%n.img",
         "gr\u00fc\u00dfe-\u6587\u4ef6-\U0001f426.img", "-dash.img", "back\\slash.img", "$HOME `id` ; *?[!].img", "two\nlines.img",
         "json{'a'}=#&.img", "n" * 200)

KINDS = {"small": "cluster_size=512", "large": "cluster_size=2M", "subclusters": "extended_l2=on", "off": "preallocation=off",
         "metadata": "preallocation=metadata", "falloc": "preallocation=falloc", "full": "preallocation=full",
         "old": "compat=0.10", "lazy": "lazy_refcounts=on", "zstd": "compression_type=zstd"}


def qemu_img(*args):
    done = subprocess.run(["qemu-img", *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise vmlab.LabError(f"qemu-img {args}: {done.stderr}")
    return done.stdout


def written_chunks(path):
    """Offset and length of each chunk of a file that is not a hole."""
    with open(path, "rb") as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return
            end = -(-os.lseek(file.fileno(), start, os.SEEK_HOLE) // CHUNK) * CHUNK
            for at in range(start // CHUNK * CHUNK, end, CHUNK):
                yield at, os.pread(file.fileno(), CHUNK, at)


class Image:
    """A disk: an image at each end, and the model's chunks that are not zero."""

    def __init__(self, folder, disk, fmt="raw", size=2 * MIB, options=None, name=None, more="", there=True,
                 place=None):
        self.disk, self.fmt, self.size, self.more = disk, fmt, size, more
        self.name = name or f"{disk}.{fmt}"
        self.paths = {"a": folder / "a" / self.name, "b": (place or folder / "b") / self.name}
        self.chunks = {}
        # An image that godwit run creates is empty, and only virtio-blk reads its size again.
        self.front = "scsi-hd,bus=scsi0.0" if there else "virtio-blk-pci"
        for side, path in self.paths.items():
            path.parent.mkdir(exist_ok=True)
            if side == "a" or there:
                self.create(path, options)

    def create(self, path, options):
        if self.fmt == "raw":
            with open(path, "wb") as file:
                file.truncate(self.size)
        else:
            qemu_img("create", "-f", self.fmt, *(["-o", options] if options else []), path, self.size)

    def arguments(self, side):
        path = str(self.paths[side]).replace(",", ",,")
        return ["-drive", f"file={path},format={self.fmt},if=none,id={self.disk},discard=unmap{self.more}",
                "-device", f"{self.front},drive={self.disk},id=device-{self.disk}"]

    def fill(self, offsets):
        """Random chunks, written before a VMM has the image."""
        raw = self.paths["a"] if self.fmt == "raw" else self.paths["a"].with_suffix(".content")
        with open(raw, "r+b" if self.fmt == "raw" else "wb") as file:
            file.truncate(self.size)
            for at in offsets:
                self.chunks[at] = bytearray(os.urandom(min(CHUNK, self.size - at)))
                os.pwrite(file.fileno(), self.chunks[at], at)
        if raw != self.paths["a"]:
            qemu_img("convert", "-n", "--target-is-zero", "-O", self.fmt, raw, self.paths["a"])
            raw.unlink()

    def request(self, vm, verb, offset, length, byte=0):
        """A request by the VMM itself, within one chunk or of whole chunks."""
        words = {"write": f"write -P {byte}", "zero": "write -z", "unmap": "write -z -u", "trim": "discard"}[verb]
        vm.qmp("human-monitor-command", **{"command-line": f'qemu-io {self.disk} "{words} {offset} {length}"'})
        for at in range(offset // CHUNK * CHUNK, offset + length, CHUNK):
            chunk = self.chunks.setdefault(at, bytearray(CHUNK))
            first, last = max(offset - at, 0), min(offset + length - at, CHUNK)
            chunk[first:last] = bytes([byte]) * (last - first)

    def wrong(self, side, snapshot=None, chunks=None):
        """The first place where an image differs from the model, or None."""
        path, must = self.paths[side], dict(self.chunks if chunks is None else chunks)
        raw = path
        if self.fmt != "raw":
            raw = path.with_suffix(".raw")
            extra = ["-l", f"snapshot.name={snapshot}"] if snapshot else []
            qemu_img("convert", "-U", "-f", self.fmt, *extra, "-O", "raw", path, raw)
        try:
            for at, found in written_chunks(raw):
                if found != bytes(must.pop(at, b"").ljust(CHUNK, b"\0")[:len(found)]):
                    return f"{self.name!r} at {side}: chunk {at // CHUNK} differs"
            for at, chunk in must.items():
                if any(chunk):
                    return f"{self.name!r} at {side}: chunk {at // CHUNK} is a hole"
        finally:
            if raw != path:
                raw.unlink()
        return None


class Nodes(Image):
    """The same with a node of its own for the file, opened with O_DIRECT."""

    def arguments(self, side):
        return ["-blockdev", f"driver=file,filename={self.paths[side]},node-name={self.disk}-file,cache.direct=on",
                "-blockdev", f"driver=raw,file={self.disk}-file,node-name={self.disk},cache.direct=on",
                "-device", f"{self.front},drive={self.disk},id=device-{self.disk}"]


class Images(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        self.folder = vmlab.BUILD / f"images-{os.getpid()}"  # not in /dev/shm, where there is no O_DIRECT
        self.folder.mkdir(exist_ok=True)
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", self.folder], check=True))

    def pair(self, images, name="guest", paused=False):
        options = {"guest": False, "ram_mib": 64, "paused": paused}
        return [host.vm(name, incoming=side == "b", extra=SCSI + [word for image in images for word in image.arguments(side)],
                        **options) for side, host in (("a", self.lab.a), ("b", self.lab.b))]

    def begin(self, *options, name="guest", receive=("--paused",)):
        """A migration in its first pass over the disks, which has sent some of them."""
        receiver, port = self.lab.b.receive(name, "--quiet", *receive)
        sender = self.lab.a.start("migrate", "-b", "--quiet", *options, name, f"tcp:{vmlab.ADDRESS}:{port}")
        vmlab.wait_for(lambda: sender.poll() is not None or self.lab.a.status(name).get("disk_put_bytes", 0) > 512 << 10, 60,
                       "some of the disks sent")
        return sender, receiver

    def still_going(self, name="guest"):
        state = self.lab.a.status(name)
        self.assertIn(state.get("state"), ("bulk", "rounds"), state.get("error", "the migration ended before the requests did"))

    def ended(self, sender, receiver):
        _, err = sender.communicate(timeout=120)
        receiver.communicate(timeout=60)
        return sender.returncode, receiver.returncode, err

    def arrived(self, images, destination, *ended):
        """Every byte of each image has arrived, before and after the VMM there writes to it."""
        self.assertEqual(ended[:2], (0, 0), ended[2])
        self.assertEqual([wrong for wrong in (image.wrong("b") for image in images) if wrong], [])
        destination.qmp("cont")
        for image in images:
            image.request(destination, "write", CHUNK, 8192, 0x77)
        destination.qmp("quit")
        destination.process.wait(30)
        self.assertEqual([wrong for wrong in (image.wrong("b") for image in images) if wrong], [])
        for image in images:
            if image.fmt == "qcow2":
                qemu_img("check", "-f", "qcow2", image.paths["b"])

    def test_trim_and_zero_writes_by_each_way_of_writing(self):
        """Requests hit blocks that were sent and blocks that were not.  The last request for each byte counts."""
        images = [Image(self.folder, f"{aio.replace('_', '')}{fmt}", fmt, 4 * MIB, more=f",cache=none,aio={aio}")
                  for aio in ("threads", "native", "io_uring") for fmt in ("raw", "qcow2")]
        for image in images:
            image.fill(range(0, image.size, CHUNK))
        source, destination = self.pair(images)
        draw = random.Random(17)
        # RAM goes first and is small; 24 MiB of disks take 3 s.
        sender, receiver = self.begin("--bandwidth", "8M")
        for turn in range(30):
            for image in images:
                verb = ("write", "trim", "zero", "unmap")[(turn + draw.randrange(2)) % 4]
                at = draw.randrange(image.size // CHUNK - 2) * CHUNK
                if verb in ("trim", "unmap"):  # whole clusters; otherwise a qcow2 keeps the edges
                    image.request(source, verb, at, draw.choice((CHUNK, 2 * CHUNK)))
                else:
                    image.request(source, verb, at + draw.randrange(8) * 4096, draw.choice((512, 4096, CHUNK)),
                                  draw.randrange(1, 256) if verb == "write" else 0)
        self.still_going()
        self.arrived(images, destination, *self.ended(sender, receiver))

    def test_bitmaps_and_internal_snapshots(self):
        image = Image(self.folder, "disk0", "qcow2", 4 * MIB)
        image.fill(range(0, 3 * MIB, CHUNK))
        qemu_img("snapshot", "-c", "before", image.paths["a"])
        before = {at: bytes(chunk) for at, chunk in image.chunks.items()}
        qemu_img("bitmap", "--add", "-g", "64k", "-f", "qcow2", image.paths["a"], "kept")
        source, destination = self.pair([image])
        source.qmp("block-dirty-bitmap-add", node="disk0", name="made-later", granularity=CHUNK, persistent=True)
        for at in range(0, MIB, 2 * CHUNK):
            image.request(source, "write", at, CHUNK, 0x11)
        sender, receiver = self.begin("--bandwidth", "4M")
        for at in range(2 * MIB, 4 * MIB, 4 * CHUNK):
            image.request(source, "write", at, CHUNK, 0x22)
        self.still_going()
        ended = self.ended(sender, receiver)
        self.assertEqual(ended[:2], (0, 0), ended[2])
        self.assertIsNone(image.wrong("b"))
        self.assertIsNone(image.wrong("b", "before", before))
        destination.qmp("cont")
        found = {bitmap["name"]: (bitmap["count"], bitmap["persistent"], bitmap["recording"])
                 for bitmap in destination.qmp("query-block")[0]["inserted"]["dirty-bitmaps"]}
        dirty = 8 * CHUNK + 8 * CHUNK
        self.assertEqual(found, {"kept": (dirty, True, True), "made-later": (dirty, True, True)})
        self.arrived([image], destination, *ended)
        self.assertIsNone(image.wrong("b", "before", before))

    def move_all(self, images, bandwidth, *receive):
        """Images with bytes at their start, middle and end, which are written to while they move."""
        for image in images:
            last = (image.size - 1) // CHUNK * CHUNK
            image.fill({0, CHUNK, image.size // 2 // CHUNK * CHUNK, last - CHUNK, last})
        source, destination = self.pair(images, paused=True)
        sender, receiver = self.begin("--bandwidth", bandwidth, receive=("--paused", *receive))
        for n, image in enumerate(images):
            image.request(source, "write", 4096, 4096, n + 1)
            image.request(source, "write", image.size // 2 // CHUNK * CHUNK + CHUNK, 512, n + 1)
            # Not in a short last sector: QEMU would extend it to a whole one, and a file that grows
            # is refused.
            image.request(source, "write", image.size // 512 * 512 - 512, 512, n + 1)
        self.still_going()
        self.arrived(images, destination, *self.ended(sender, receiver))

    def test_kinds_of_qcow2(self):
        images = []
        for disk, options in KINDS.items():
            try:
                images.append(Image(self.folder, disk, "qcow2", 4 * MIB, options, more=",cache=none"))
            except vmlab.LabError as reason:
                self.assertIn("zstd", str(reason))  # QEMU can be built without it; the others are always there
                print(f"  without {options}: {reason}")
        self.move_all(images, "6M", "--overwrite")  # a preallocated image is not empty

    def test_sizes_of_raw_images(self):
        images = [Image(self.folder, f"{cache}{extra}", size=2 * MIB + extra, more=f",cache={cache}")
                  for cache, extra in (("writeback", 1), ("writeback", 511), ("writeback", 4095), ("none", 4095))]
        images.append(Image(self.folder, "huge", size=4 * TIB, more=",cache=none"))
        self.move_all(images, "4M")
        for image in images:
            self.assertEqual(image.paths["a"].stat().st_size, image.paths["b"].stat().st_size)
        self.assertLess(images[-1].paths["b"].stat().st_blocks * 512, 2 * MIB, "a sparse image is sparse there")

    def move_odd_size(self, images, name):
        """Images of half a KiB too many that QEMU opened with O_DIRECT."""
        for image in images:
            image.fill({0, CHUNK})
        source, destination = self.pair(images, name)
        receiver, port = self.lab.b.receive(name, "--quiet")
        sender = self.lab.a.godwit("migrate", "-b", "--quiet", name, f"tcp:{vmlab.ADDRESS}:{port}")
        if sender.returncode:
            receiver.terminate()
        receiver.communicate(timeout=60)
        return source, destination, sender

    def test_a_size_that_direct_io_does_not_divide(self):
        """QEMU assumes an alignment of 4096 where it finds a hole, as in an image that is empty
        when it starts."""
        images = [Image(self.folder, disk, size=2 * MIB + 512, more=more)
                  for disk, more in (("disk0", ",cache=none"), ("disk1", ",cache=none,auto-read-only=off"))]
        images.append(Nodes(self.folder, "disk2", size=2 * MIB + 512))
        source, destination, sender = self.move_odd_size(images, "guest")
        self.assertEqual((sender.returncode, sender.stderr), (0, ""))
        self.assertEqual((source.status(), destination.status()), ("postmigrate", "running"))
        for image in images[:2]:
            image.request(destination, "write", 2 * MIB, 512, 0x55)
        destination.qmp("quit")
        destination.process.wait(30)
        self.assertEqual([wrong for wrong in (image.wrong("b") for image in images) if wrong], [])
        # The images can be started from again: they begin with data, as they did at the source.
        self.lab.b.vm("again", guest=False, ram_mib=64, extra=SCSI + [word for image in images for word in image.arguments("b")])

    def refused_odd_size(self, name, place):
        image = Image(self.folder, "disk0", size=2 * MIB + 512, more=",cache=none", name=f"{name}.img", place=place)
        before = image.paths["b"].stat()
        source, destination, sender = self.move_odd_size([image], name)
        after = image.paths["b"].stat()
        self.assertEqual(sender.returncode, 1)
        self.assertIn("'disk0'", sender.stderr)
        self.assertIn("needs a multiple of 4096 on this file system: start this VMM with cache=writeback", sender.stderr)
        self.assertEqual((source.status(), destination.status()), ("running", "inmigrate"))
        self.assertEqual((before.st_mtime_ns, before.st_blocks), (after.st_mtime_ns, after.st_blocks), "the image was touched")

    def test_a_size_that_direct_io_cannot_serve(self):
        """On a tmpfs, where QEMU always assumes 4096."""
        place = Path(tempfile.mkdtemp(prefix="gw-images-", dir="/dev/shm"))
        self.addCleanup(shutil.rmtree, place)
        try:
            os.close(os.open(place / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
        except OSError as reason:
            self.skipTest(f"this kernel has no O_DIRECT on a tmpfs: {reason}")
        self.refused_odd_size("shm", place)

    def test_a_device_of_larger_sectors(self):
        """The destination's file system lies on a device with sectors of 4096 bytes.  A size is
        refused, or every byte moves."""
        place, device = self.folder / "large", self.folder / "large.img"
        place.mkdir()
        with open(device, "wb") as file:
            file.truncate(64 * MIB)
        loop = subprocess.run(["losetup", "--sector-size", "4096", "--find", "--show", device], capture_output=True, text=True)
        if loop.returncode:
            self.skipTest(f"no loop device of such sectors: {loop.stderr.strip()}")
        loop = loop.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", loop], check=True)
        subprocess.run(["mkfs.ext4", "-q", loop], check=True)
        if subprocess.run(["mount", loop, place]).returncode:
            self.skipTest("no such file system can be mounted")
        self.addCleanup(subprocess.run, ["umount", place], check=True)
        self.addCleanup(self.lab.close)
        self.refused_odd_size("large", place)
        images = [Image(self.folder, f"{cache}{extra}", size=2 * MIB + extra, more=f",cache={cache}", place=place)
                  for cache, extra in (("writeback", 512), ("none", 4096))]
        source, destination, sender = self.move_odd_size(images, "guest")
        self.assertEqual((sender.returncode, sender.stderr), (0, ""))
        self.assertEqual((source.status(), destination.status()), ("postmigrate", "running"))
        for image in images:
            image.request(destination, "write", CHUNK + 512, 512, 0x55)
        destination.qmp("quit")
        destination.process.wait(30)
        self.assertEqual([wrong for wrong in (image.wrong("b") for image in images) if wrong], [])

    def test_names_of_images(self):
        """Formats that QEMU supports; `godwit run` creates the images at the destination."""
        self.move_all([Image(self.folder, f"name{n}", name=name, there=False) for n, name in enumerate(NAMES)], "4M")

    def test_block_jobs_in_mid_migration(self):
        """The migration is refused and the guest runs at the source, or every byte arrives."""
        def snapshot(vm, image):
            vm.qmp("blockdev-snapshot-sync", device="disk0", format="qcow2", **{"snapshot-file": f"{image.paths['a']}.over"})

        def stream(vm, image):
            vm.qmp("block-stream", device="disk0", **{"job-id": "job"})

        def mirror(vm, image):
            with open(f"{image.paths['a']}.mirror", "wb") as file:
                file.truncate(image.size)
            vm.qmp("blockdev-add", driver="raw", file={"driver": "file", "filename": f"{image.paths['a']}.mirror"},
                   **{"node-name": "target"})
            vm.qmp("blockdev-mirror", device="disk0", target="target", sync="full", **{"job-id": "job"})

        for job in (snapshot, stream, mirror):
            with self.subTest(job=job.__name__):
                name = job.__name__
                image = Image(self.folder, "disk0", "qcow2", 8 * MIB, name=f"{name}.qcow2")
                image.fill(range(0, image.size, CHUNK))
                if job is stream:
                    self.put_on_top(image)
                source, destination = self.pair([image], name)
                sender, receiver = self.begin("--bandwidth", "6M", name=name)
                self.still_going(name)
                job(source, image)
                for at in range(0, image.size, 4 * CHUNK):
                    image.request(source, "write", at, 4096, 0x33)
                code, other, err = self.ended(sender, receiver)
                print(f"  {name}: exit {code} {err.strip()}")
                if code == 0:
                    self.assertIsNone(image.wrong("b"))
                    self.assertEqual((other, destination.status()), (0, "paused"))
                else:
                    self.assertIn((code, other), ((1, 1), (5, 1)))
                    self.assertEqual(source.status(), "running")
                    self.assertNotEqual(destination.status(), "running")

    def put_on_top(self, image):
        """The image gets an empty layer over it at both ends."""
        for side, path in image.paths.items():
            base = path.with_suffix(".base")
            path.rename(base)
            qemu_img("create", "-f", "qcow2", "-b", base, "-F", "qcow2", path)


if __name__ == "__main__":
    runner.main()
