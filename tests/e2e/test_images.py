#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images after a move: half an image cannot start, a whole image can be opened again, and no header
names another file.

No guest system is needed: firmware runs in 64 MiB.
"""

import os
import shutil
import signal
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

MIB = 1 << 20


def qemu_img(*args):
    return subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, text=True).stdout


def fails(*args):
    return subprocess.run(list(map(str, args)), capture_output=True, text=True).returncode != 0


def drive(path, fmt="qcow2", name="disk0", **more):
    options = "".join(f",{key.replace('_', '-')}={value}" for key, value in more.items())
    return ["-drive", f"file={path},format={fmt},if=virtio,id={name},cache=none{options}"]


class Images(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        # Not in /dev/shm, where there is no O_DIRECT.
        self.folder = vmlab.BUILD / f"images-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)
        self.addCleanup(shutil.rmtree, self.folder)

    def image(self, name, fmt="qcow2", mib=64, base=None, base_format="raw", written=None):
        """@written: (pattern, offset in MiB, MiB)."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        if base:
            qemu_img("create", "-f", fmt, "-b", base, "-F", base_format, path)
        else:
            qemu_img("create", "-f", fmt, path, f"{mib}M")
        if written:
            pattern, at, size = written
            subprocess.run(["qemu-io", "-f", fmt, "-c", f"write -P {pattern} {at}M {size}M", str(path)], check=True,
                           capture_output=True)
        return path

    def source(self, *extra, **options):
        return self.lab.a.vm(ram_mib=64, guest=False, extra=[word for part in extra for word in part], **options)

    def destination(self, *extra):
        return self.lab.b.vm(ram_mib=64, guest=False, incoming=True, extra=[word for part in extra for word in part])

    def begin(self, *options, receive=()):
        receiver, port = self.lab.b.receive("guest", *receive)
        sender = self.lab.a.start("migrate", "--quiet", *options, "guest", f"tcp:{vmlab.ADDRESS}:{port}")
        return sender, receiver

    def move(self, *options, receive=()):
        """Return: the exit codes and the error texts of both sides."""
        sender, receiver = self.begin(*options, receive=receive)
        _, err = sender.communicate(timeout=120)
        code, there = vmlab.ended(receiver)
        return (sender.returncode, code), err + there

    def quit(self, *vms):
        for vm in vms:
            vm.qmp("quit")
            vm.process.wait(30)

    def test_half_an_image_cannot_start_and_the_next_attempt_may_have_it(self):
        a = self.image("a.qcow2", written=(0x5a, 3, 40)), self.image("a.raw", "raw", written=(0x6b, 0, 20))
        b = self.folder / "b.qcow2", self.folder / "b.raw"
        lines = [[*drive(one[0]), *drive(one[1], "raw", "disk1")] for one in (a, b)]
        source, destination = self.source(lines[0]), self.destination(lines[1])
        sender, receiver = self.begin("-b", "--bandwidth", "8M")
        vmlab.wait_for(lambda: self.lab.a.status().get("disk_put_bytes", 0) > 20 * MIB, 60, "half of the disks")
        receiver.kill()
        sender.communicate(timeout=60)
        self.assertEqual(sender.returncode, 1)
        for path in b:
            self.assertEqual(path.read_bytes()[:27], b"godwit: this is half a copy")
        self.assertTrue(fails("qemu-img", "info", "-U", "-f", "qcow2", b[0]))
        self.assertTrue(fails("qemu-img", "check", "-U", "-f", "qcow2", b[0]))
        self.assertIn("file format: raw", qemu_img("info", "-U", b[0]))
        self.assertNotEqual(b[1].read_bytes()[510:512], b"\x55\xaa")
        destination.kill()
        destination = self.destination(lines[1])  # the same command line
        self.assertIn("was what a failed migration left", (destination.folder / "log").read_text())
        codes, err = self.move("-b")
        self.assertEqual(codes, (0, 0), err)
        self.quit(source, destination)
        for one, other, fmt in zip(a, b, ("qcow2", "raw")):
            qemu_img("compare", "-f", fmt, "-F", fmt, one, other)
        qemu_img("check", "-f", "qcow2", b[0])

    def test_a_receiver_that_was_stopped_keeps_its_image(self):
        a, b = self.image("a.raw", "raw", mib=24, written=(0x11, 0, 24)), self.folder / "b.raw"
        source, destination = self.source(drive(a, "raw")), self.destination(drive(b, "raw"))
        sender, stopped = self.begin("-b", "--bandwidth", "8M")
        vmlab.wait_for(lambda: self.lab.a.status().get("disk_put_bytes", 0) > 4 * MIB, 60, "some of the disk")
        stopped.send_signal(signal.SIGSTOP)
        self.assertEqual(self.lab.a.godwit("cancel", "guest").returncode, 0)
        sender.communicate(timeout=60)
        destination.kill()
        with self.assertRaises(vmlab.LabError) as refused:  # when this one thaws, it must not cut the next receiver's image
            self.lab.b.vm(ram_mib=64, guest=False, incoming=True, extra=drive(b, "raw"), patience=2)
        self.assertIn(f"a godwit (process {stopped.pid}) receives into it", str(refused.exception))
        stopped.send_signal(signal.SIGCONT)
        stopped.communicate(timeout=60)
        destination = self.destination(drive(b, "raw"))
        codes, err = self.move("-b")
        self.assertEqual(codes, (0, 0), err)
        self.quit(source, destination)
        qemu_img("compare", "-f", "raw", "-F", "raw", a, b)

    def test_nobody_else_touches_an_image_that_is_received(self):
        a, b = self.image("a.qcow2", mib=32, written=(0x11, 0, 32)), self.folder / "b.qcow2"
        source, destination = self.source(drive(a)), self.destination(drive(b))
        self.lab.a.vm("second", ram_mib=64, guest=False, extra=drive(self.image("second.raw", "raw"), "raw"))
        self.lab.b.vm("second", ram_mib=64, guest=False, incoming=True, extra=drive(b, "raw"))
        sender, receiver = self.begin("-b", "--bandwidth", "8M")
        vmlab.wait_for(lambda: self.lab.a.status().get("disk_put_bytes", 0) > 4 * MIB, 60, "some of the disk")
        # The same line of `godwit run` once more, and one with another name.
        line = ["-machine", "q35,memory-backend=ram0", "-m", "64M", "-object", "memory-backend-file,id=ram0,size=64M,"
                "mem-path=/dev/shm,share=on", "-display", "none", "-incoming", "defer", *drive(b), "-device", "ends-it-if-it-starts"]
        for name, words in (("guest", "a VM named 'guest' runs already"), ("other", f"godwit (process {receiver.pid}) receives into")):
            done = self.lab.b.godwit("run", "--name", name, "--", vmlab.QEMU, *line)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)
        # Another VMM that already waits on it, and its receiver.
        second, port = self.lab.b.receive("second", "--overwrite")
        done = self.lab.a.godwit("migrate", "-b", "second", f"tcp:{vmlab.ADDRESS}:{port}")
        self.assertEqual((done.returncode, vmlab.ended(second)[0]), (1, "waits"), done.stderr)
        self.assertIn(f"another godwit (process {receiver.pid}) receives into the image here", done.stderr)
        _, err = sender.communicate(timeout=120)
        receiver.communicate(timeout=60)
        self.assertEqual((sender.returncode, receiver.returncode), (0, 0), err)
        self.quit(source, destination)
        qemu_img("compare", "-f", "qcow2", "-F", "qcow2", a, b)

    def test_a_vmm_that_is_started_on_the_image_before_the_guest_is_loaded(self):
        a, b = self.image("a.raw", "raw", mib=1, written=(0x11, 0, 1)), self.image("b.raw", "raw", mib=1)
        source, destination = self.source(drive(a, "raw")), self.destination(drive(b, "raw"))
        pidfile = self.folder / "pid"
        hook = (f"{vmlab.QEMU} -machine q35 -m 64M -nodefaults -display none -S -daemonize -pidfile {pidfile} "
                f"-drive file={b},format=raw,if=virtio >/dev/null 2>&1")
        try:
            codes, err = self.move("-b", receive=("--hook", hook))
        finally:
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
        self.assertEqual(codes, (1, 1), err)
        self.assertIn("another VMM was started on the image here", err)
        self.assertEqual(b.stat().st_size, MIB, "the image of that VMM was cut")
        self.assertEqual((source.status(), destination.status()), ("running", "inmigrate"))

    def test_two_disks_in_one_file_are_refused_by_name(self):
        def disks(*paths):
            return [word for number, path in enumerate(paths) for word in (
                "-blockdev", f"driver=raw,node-name=n{number},file.driver=file,file.locking=off,file.filename={path}",
                "-device", f"virtio-blk-pci,drive=n{number},id=d{number},share-rw=on")]

        images = [self.image(f"a{number}.raw", "raw", mib=1) for number in range(2)]
        there = self.image("b.raw", "raw", mib=1)
        source, destination = self.source(disks(*images)), self.destination(disks(there, there))
        codes, err = self.move("-b")
        self.assertEqual(codes, (1, "waits"), err)
        self.assertIn("disks 'd0' and 'd1' lie in the same file", err)
        self.assertEqual((source.status(), destination.status()), ("running", "inmigrate"))
        self.lab.a.vm("twins", ram_mib=64, guest=False, extra=disks(images[0], images[0]))
        done = self.lab.a.godwit("migrate", "-b", "twins", "tcp:127.0.0.1:1")
        self.assertEqual(done.returncode, 5)
        self.assertIn("disks 'd0' and 'd1' lie in the same file", done.stderr)

    def chain(self):
        """A top on a base, on each side in folders of its own.  Return: the bases, the tops."""
        bases = [self.image(f"{side}/base-{side}.raw", "raw", written=(0x11, 40, 8)) for side in ("here", "there")]
        tops = [self.image("here/a.qcow2", base=bases[0], written=(0x22, 1, 4)), self.image("there/b.qcow2", base=bases[1])]
        return bases, tops

    def check_reopens(self, bases, tops):
        """The moved image has no trace of the source's file names, and reads as the source's."""
        self.assertIn(f"backing file: {bases[1]}", qemu_img("info", tops[1]))
        self.assertNotIn(b"/here/", tops[1].read_bytes()[:65536])
        qemu_img("check", "-f", "qcow2", tops[1])
        flat = self.folder / "flat.raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", tops[0], flat)
        (self.folder / "here").rename(self.folder / "gone")
        qemu_img("compare", "-f", "raw", "-F", "qcow2", flat, tops[1])
        (self.folder / "gone").rename(self.folder / "here")

    def test_a_moved_chain_can_be_opened_where_it_is(self):
        for way in ("-i", "-b"):
            with self.subTest(way=way):
                bases, tops = self.chain()
                if way == "-b":  # the base moves too
                    bases[1].write_bytes(b"")
                    os.truncate(bases[1], 64 * MIB)
                source, destination = self.source(drive(tops[0])), self.destination(drive(tops[1]))
                for end in ("fails", "is killed") if way == "-b" else ():  # and the next attempt uses the same command line
                    if end == "fails":
                        codes, err = self.move("-b", "--fault", "cut@40")
                        self.assertEqual(codes, (1, 1), err)
                    else:
                        sender, receiver = self.begin("-b", "--bandwidth", "8M")
                        vmlab.wait_for(lambda: self.lab.a.status().get("disk_put_bytes", 0) > MIB, 60, "some of the disk")
                        receiver.kill()
                        sender.communicate(timeout=60)
                    destination.kill()
                    destination = self.destination(drive(tops[1]))
                codes, err = self.move(way)
                self.assertEqual(codes, (0, 0), err)
                self.quit(source, destination)
                self.check_reopens(bases, tops)
                self.lab.close()
                self.lab = vmlab.Lab()
                self.addCleanup(self.lab.close)

    def test_each_kind_of_qcow2_on_a_base_that_lies_elsewhere(self):
        kinds = ("compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on,cluster_size=128k",
                 "compression_type=zstd,lazy_refcounts=on", "refcount_bits=1")
        bases = [self.image(f"{side}/base.raw", "raw", mib=16, written=(0x11, 4, 8)) for side in ("here", "there")]
        lines, tops = {0: [], 1: []}, {0: [], 1: []}
        for number, kind in enumerate(kinds):
            for side, base in enumerate(bases):
                path = base.parent / f"{number}.qcow2"
                qemu_img("create", "-f", "qcow2", "-o", kind, "-b", base, "-F", "raw", path)
                lines[side] += drive(path, name=f"d{number}")
                tops[side].append(path)
            subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x22 1M 2M", str(tops[0][-1])], check=True,
                           capture_output=True)
        source, destination = self.source(lines[0]), self.destination(lines[1])
        codes, err = self.move("-i")
        self.assertEqual(codes, (0, 0), err)
        self.quit(source, destination)
        for kind, here, there in zip(kinds, *tops.values()):
            with self.subTest(kind=kind):
                self.assertIn(f"backing file: {bases[1]}", qemu_img("info", there))
                qemu_img("check", "-f", "qcow2", there)
                qemu_img("compare", "-f", "qcow2", "-F", "qcow2", here, there)

    def test_a_source_cannot_plant_a_header(self):
        secret = self.folder / "secret"
        secret.write_bytes(b"of the destination" * 4096)
        a, b = self.image("a.qcow2", written=(0x5a, 1, 4)), self.image("b.qcow2")
        source, destination = self.source(drive(a)), self.destination(drive(b))
        # QEMU has read the header.  From now on the file has the content of a hostile source.
        planted = self.folder / "planted.qcow2"
        shutil.copy(a, planted)
        qemu_img("rebase", "-u", "-f", "qcow2", "-b", secret, "-F", "raw", planted)
        data = self.folder / "data.qcow2"
        qemu_img("create", "-f", "qcow2", "-o", f"data_file={secret}.raw,data_file_raw=on", data, "64M")
        before = b.read_bytes()
        for header, words in ((planted, f"names a backing file, '{secret}'"), (data, "its data lies in another file")):
            with open(a, "r+b") as file:
                file.write(header.read_bytes()[:65536])
            codes, err = self.move("-b")
            self.assertEqual(codes, (1, 1), err)
            self.assertIn(words, err)
            self.assertEqual(source.status(), "running")
            self.assertEqual(b.read_bytes(), before, "the image there is not what it was")
        self.assertEqual(destination.status(), "inmigrate")

    def test_jobs_and_commits_in_mid_migration(self):
        def commit(source):
            source.qmp("block-commit", **{"job-id": "j", "device": "disk0", "top": str(middle), "base": str(base)})
            vmlab.wait_for(lambda: not source.qmp("query-jobs"), 60, "the commit")

        def commit_by_hand(source):
            self.assertEqual(source.qmp("human-monitor-command", **{"command-line": "commit disk0"}), "")

        def commit_slowly(source):
            source.qmp("block-commit", **{"job-id": "slow", "device": "disk0", "top": str(middle), "base": str(base),
                                          "speed": 65536})

        base = self.image("base.raw", "raw", written=(0x11, 40, 8))
        middle, top = self.folder / "middle.qcow2", self.folder / "top.qcow2"
        for change, words in ((commit, "given another image"), (commit_by_hand, "was written to in mid-migration"),
                              (commit_slowly, "the VMM's job 'slow' (commit) is under way")):
            with self.subTest(change=change.__name__):
                self.image(middle.name, base=base, written=(0x22, 1, 8))
                self.image(top.name, base=middle, base_format="qcow2", written=(0x33, 10, 24))
                there = self.image("there.qcow2", base=middle, base_format="qcow2")
                source, destination = self.source(drive(top)), self.destination(drive(there))
                sender, receiver = self.begin("-i", "--bandwidth", "8M")
                vmlab.wait_for(lambda: self.lab.a.status().get("disk_put_bytes", 0) > MIB, 60, "some of the disk")
                change(source)
                _, err = sender.communicate(timeout=120)
                receiver.communicate(timeout=60)
                self.assertEqual((sender.returncode, receiver.returncode), (1, 1), err)
                self.assertIn(words, err)
                self.assertEqual(source.status(), "running")
                if change == commit_slowly:  # and not even begun
                    done = self.lab.a.godwit("migrate", "-b", "guest", "tcp:127.0.0.1:1")
                    self.assertEqual(done.returncode, 5)
                    self.assertIn(words, done.stderr)
                source.kill()
                destination.kill()

    def test_ways_to_disk_that_are_not_known_are_refused_by_name(self):
        odd = ["-blockdev", "driver=blklogwrites,node-name=odd,file.driver=null-co,file.read-zeroes=on,log.driver=null-co,"
               "log.read-zeroes=on"]
        self.source(odd)
        done = self.lab.a.godwit("migrate", "guest", "tcp:127.0.0.1:1")
        self.assertEqual(done.returncode, 5)
        self.assertIn("'odd' (blklogwrites) is a block driver that is not known here", done.stderr)
        done = self.lab.a.godwit("migrate", "--allow-untracked", "odd", "guest", "tcp:127.0.0.1:1")
        self.assertIn("nothing listens", done.stderr)

    def test_a_ring_made_past_the_hooks_is_refused_by_name(self):
        self.lab.a.env["LD_PRELOAD"] = str(vmlab.BUILD / "tests" / "librings.so")
        image = self.image("a.qcow2")
        self.source(drive(image, aio="io_uring"))
        done = self.lab.a.godwit("migrate", "-b", "guest", "tcp:127.0.0.1:1")
        self.assertEqual(done.returncode, 5)
        self.assertIn("was made past liburing", done.stderr)
        del self.lab.a.env["LD_PRELOAD"]
        for aio in ("io_uring", "native", "threads"):  # QEMU's own are all known, used or not
            self.lab.a.vm(aio, ram_mib=64, guest=False, extra=[*drive(self.image(f"{aio}.qcow2"), aio=aio), "-object",
                                                               "iothread,id=io0", "-device", "virtio-scsi-pci,iothread=io0"])
            done = self.lab.a.godwit("migrate", "-b", aio, "tcp:127.0.0.1:1")
            self.assertIn("nothing listens", done.stderr)

    def test_hashing_a_base_can_be_interrupted(self):
        base = self.image("base.raw", "raw", mib=512, written=(0x33, 0, 512))
        source = self.source(drive(self.image("a.qcow2", base=base)))
        cache = Path("/var/cache") if os.geteuid() == 0 else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        kept = cache / "godwit" / f"hash-{base.stat().st_dev:x}-{base.stat().st_ino:x}"
        kept.unlink(missing_ok=True)
        sender = self.lab.a.start("migrate", "--quiet", "-i", "guest", "tcp:127.0.0.1:1")

        def has_base():
            return any(os.path.realpath(fd) == str(base) for fd in Path(f"/proc/{sender.pid}/fd").iterdir())
        vmlab.wait_for(has_base, 60, "the base being read", interval=0.001)
        sender.send_signal(signal.SIGSTOP)  # from here on its speed does not matter
        sender.send_signal(signal.SIGINT)
        sender.send_signal(signal.SIGCONT)
        _, err = sender.communicate(timeout=60)
        self.assertEqual(sender.returncode, 3, err)
        self.assertIn("cancelled", err)
        self.assertFalse(kept.exists(), "it was hashed to its end")
        self.assertEqual(source.status(), "running")


if __name__ == "__main__":
    import runner
    runner.main()
