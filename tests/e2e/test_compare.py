#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Both ends are compared before anything changes: machine, devices, disks, memory files.

Most guests here never run: the comparison needs only the VMM.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

MIB = 8


def qemu_img(*args):
    subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, text=True)


def content(path):
    return Path(path).read_bytes()


class Compare(unittest.TestCase):
    def setUp(self):
        self.folder = vmlab.BUILD / f"compare-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)
        self.addCleanup(shutil.rmtree, self.folder)

    def image(self, name, fmt="raw", mib=MIB, base=None, base_fmt="raw"):
        """An image with content, which must be unchanged after a refusal."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        if base:
            qemu_img("create", "-f", fmt, "-b", base, "-F", base_fmt, path)
        else:
            qemu_img("create", "-f", fmt, path, f"{mib}M")
        subprocess.run(["qemu-io", "-f", fmt, "-c", f"write -P {len(name)} 1M 64k", path], check=True, capture_output=True)
        return path

    def drive(self, path, fmt="raw", name="disk0", via="virtio"):
        drive = ["-drive", f"file={path},format={fmt},id={name},if={'virtio' if via == 'virtio' else 'none'}"]
        return drive + {"virtio": [], "scsi-hd": ["-device", "virtio-scsi-pci", "-device", f"scsi-hd,drive={name}"],
                        "usb-storage": ["-device", "qemu-xhci", "-device", f"usb-storage,drive={name}"],
                        "ide-hd": ["-device", f"ide-hd,drive={name},bus=ide.0"]}[via]

    def attempt(self, source, destination, *options, receive=(), keep=(), **other):
        """Two VMs with these arguments and a migration.  Return: its exit code and its error text."""
        before = {path: content(path) for path in keep}
        vms = dict({"guest": False, "paused": True, "ram_mib": 64}, **other)
        with vmlab.Lab() as lab:
            here = lab.a.vm(extra=list(source), **vms)
            lab.b.vm(extra=list(destination), incoming=True, **vms)
            receiver, port = lab.b.receive("guest", *receive)
            done = lab.a.godwit("migrate", "--quiet", *options, "guest", f"tcp:127.0.0.1:{port}")
            receiver.kill()
            receiver.communicate()
            if done.returncode:
                self.assertEqual(here.status(), "prelaunch", done.stderr)
        for path, was in before.items():
            self.assertEqual(content(path), was, f"{path} was touched")
        return done.returncode, done.stderr

    def refused(self, words, *args, **options):
        code, said = self.attempt(*args, **options)
        self.assertIn(words, said)
        self.assertIn(code, (1, 5))

    def test_machines_that_differ(self):
        nic, disk = ["-device", "virtio-net-pci,addr=9"], ["-device", "e1000,addr=9"]
        for words, source, destination in (
                ("'machine type' is pc-i440fx-7.2 at the source and pc-q35-", ["-M", "pc-i440fx-7.2,memory-backend=ram0"], []),
                ("'CPU model' is qemu64-x86_64-cpu at the source and kvm64-x86_64-cpu here", [], ["-cpu", "kvm64"]),
                ("'number of vCPUs' is 2 in 2 socket", ["-smp", "2,sockets=2"], ["-smp", "2,cores=2"]),
                ("'RAM slots' is 2 for at most 1024 MiB", ["-m", "64M,slots=2,maxmem=1G"], []),
                ("the source has 'network of type user, number 1', this VMM has not", ["-netdev", "user,id=n", *nic], nic),
                ("the source has 'device q35-pcihost/09.0', virtio-net-pci, this VMM has not", nic, []),
                ("this VMM has 'device q35-pcihost/09.0', virtio-net-pci, the source has not", [], nic),
                ("'device q35-pcihost/09.0' is virtio-net-pci at the source and e1000 here", nic, disk)):
            with self.subTest(words):
                self.refused(words, source, destination)

    def test_processors_and_devices_of_one_type_that_differ(self):
        nic, vga = "virtio-net-pci,addr=9,mac=52:54:00:00:00:0", "VGA,addr=9,vgamem_mb="
        for words, source, destination in (
                ("'CPUID 0x1.0 ECX of the CPU' is 0x80002001 at the source and 0x80000001 here",
                 ["-cpu", "qemu64"], ["-cpu", "qemu64,-cx16"]),
                ("'CPUID 0x7.0 EBX of the CPU' is ", ["-cpu", "max"], ["-cpu", "max,-bmi1"]),
                ("'phys-bits of the CPU' is 40 at the source and 36 here", ["-cpu", "qemu64,phys-bits=40"],
                 ["-cpu", "qemu64,phys-bits=36"]),
                ("'largest number of vCPUs' is 2 at the source and 4 here", ["-smp", "2"], ["-smp", "2,maxcpus=4"]),
                ("'disable_s3 of the board' is 1 at the source and 0 here", ["-global", "ICH9-LPC.disable_s3=1"], []),
                ("'csum of device q35-pcihost/09.0/virtio-net-device' is false at the source and true here",
                 ["-device", nic + "1,csum=off"], ["-device", nic + "1"]),
                ("'mac of device q35-pcihost/09.0/virtio-net-device' is \"52:54:00:00:00:01\" at the source",
                 ["-device", nic + "1"], ["-device", nic + "2"]),
                ("'vgamem_mb of device q35-pcihost/09.0' is 16 at the source and 32 here", ["-device", vga + "16"],
                 ["-device", vga + "32"])):
            with self.subTest(words):
                self.refused(words, source, destination)

    def test_properties_of_hosts_and_of_a_running_guest_are_no_difference(self):
        a, b = self.image("a"), self.image("b")

        def devices(nic, disk, image, cache, rng):
            return ["-device", f"virtio-net-pci,addr=9,mac=52:54:00:00:00:01,{nic}", "-device", "virtio-scsi-pci,addr=8", "-drive",
                    f"if=none,id=x,format=raw,file={image},cache={cache}", "-device", f"scsi-hd,drive=x,serial=s,{disk}", "-device",
                    f"virtio-rng-pci,addr=7,{rng}", "-object", "rng-random,id=r,filename=/dev/urandom", "-device",
                    "vmgenid,guid=auto", "-device", "VGA,addr=6"]
        for machine in ("q35", "pc"):
            board = ["-M", f"{machine},memory-backend=ram0"]
            with self.subTest(machine), vmlab.Lab() as lab:
                source = lab.a.vm(ram_mib=128, extra=board + devices("tx=bh", "werror=stop", a, "writethrough",
                                                                     "max-bytes=1000,period=100"))
                source.wait_count(1)  # the chipset is set up
                lab.b.vm(ram_mib=128, incoming=True, extra=board + devices("ioeventfd=off", "rerror=report", b, "writeback",
                                                                           "rng=r"))
                receiver, port = lab.b.receive("guest", "--overwrite")
                done = lab.a.godwit("migrate", "-b", "guest", f"127.0.0.1:{port}")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(receiver.wait(timeout=30), 0)

    def test_what_a_user_may_choose_is_no_difference(self):
        """Ids, files, back ends, aliases, throttling, the order of arguments: the guest sees the same machine."""
        a, b = self.image("a.img"), self.image("b.img")
        source = ["-M", "pc-q35-7.2,memory-backend=ram0", "-device", "usb-ehci,id=u,addr=7", "-device", "qemu-xhci,addr=6",
                  "-device", "usb-tablet,bus=u.0", "-device", "pcie-root-port,id=rp,addr=5,chassis=1", "-device",
                  "virtio-rng-pci,bus=rp", *self.drive(a), "-serial", "null", "-name", "one", "-netdev", "hubport,id=n,hubid=0",
                  "-device", "virtio-net-pci,netdev=n,addr=9,id=nic"]
        destination = ["-M", "q35", "-device", "qemu-xhci,addr=6,id=x", "-device", "usb-ehci,id=v,addr=7", "-device",
                       "pcie-root-port,id=other,addr=5,chassis=1", "-device", "virtio-rng-pci,bus=other", "-device",
                       "usb-tablet,bus=v.0,id=t", "-object", "throttle-group,id=g", "-blockdev",
                       f"driver=throttle,throttle-group=g,node-name=n0,file.driver=raw,file.file.driver=file,file.file.filename={b}",
                       "-serial", "chardev:c", "-chardev", f"file,id=c,path={self.folder}/serial", "-name", "two", "-device",
                       "virtio-net-pci,addr=9,netdev=m", "-netdev", "user,id=m", "-device", "virtio-blk-pci,drive=n0,addr=1"]
        self.assertEqual(self.attempt(source, destination), (0, ""))

    def test_disks_that_do_not_fit_are_refused_untouched(self):
        raw, there, q, q2 = (self.image("raw"), self.image("there"), self.image("q", "qcow2"), self.image("q2", "qcow2"))
        over, over2 = self.image("over", "qcow2", base=raw), self.image("over2", "qcow2", base=q, base_fmt="qcow2")
        for words, source, destination, options in (
                ("disk 'disk0' is qcow2 at the source and raw here", (q, "qcow2"), (there, "raw"), ["-b"]),
                ("disk 'disk0' is raw at the source and qcow2 here", (raw, "raw"), (q, "qcow2"), ["-b"]),
                ("disk 'disk0' has 1 layer at the source and 2 here", (q2, "qcow2"), (over, "qcow2"), ["-b"]),
                ("disk 'disk0' has 2 layers at the source and 1 here", (over, "qcow2"), (q2, "qcow2"), ["-b"]),
                ("disk 'disk0' has 2 layers at the source and 1 here", (over, "qcow2"), (q2, "qcow2"), ["-i"]),
                ("disk 'disk0/1' is raw at the source and qcow2 here", (over, "qcow2"), (over2, "qcow2"), ["-b"]),
                ("disk 'disk0/1' is raw at the source and qcow2 here", (over, "qcow2"), (over2, "qcow2"), ["-i"])):
            with self.subTest(words, options=options):
                self.refused(words, self.drive(*source), self.drive(*destination), *options, receive=["--overwrite"],
                             keep=[destination[0]])

    def test_a_disk_paired_with_that_of_another_device(self):
        a, b = self.image("a", mib=4), self.image("b", mib=4)
        c, d = self.image("c", mib=4), self.image("d", mib=4)
        source = self.drive(a, name="d0") + self.drive(b, name="d1")
        self.refused("the guest reaches disk 'd0' by q35-pcihost/01.0/virtio-blk-device at the source, and 'd0' by "
                     "q35-pcihost/02.0/virtio-blk-device here", source, self.drive(d, name="d1") + self.drive(c, name="d0"), "-b",
                     receive=["--overwrite"], keep=[c, d])
        other = self.drive(c, name="x0") + self.drive(d, name="x1")
        self.refused("the guest reaches disk 'd0' by", source, other, "--disk", f"d0={d},d1={c}", receive=["--overwrite"],
                     keep=[c, d])
        self.assertEqual(self.attempt(source, other, "--disk", f"d0={c},d1={d}", receive=["--overwrite"]), (0, ""))

    def test_sizes_that_a_device_keeps(self):
        a, small = self.image("a"), self.folder / "small"
        for via in ("scsi-hd", "usb-storage", "ide-hd"):
            with self.subTest(via):
                self.image("small", mib=4)
                self.refused(f"is {MIB << 20} bytes at the source and {4 << 20} bytes here", self.drive(a, via=via),
                             self.drive(small, via=via), "-b", receive=["--overwrite"], keep=[small])
        self.image("small", mib=4)
        self.assertEqual(self.attempt(self.drive(a), self.drive(small), "-b", receive=["--overwrite"]), (0, ""))

    def test_disks_that_stay_where_both_reach_them(self):
        a, q, small = self.image("a"), self.image("q", "qcow2"), self.image("small", mib=4)
        for words, source, destination in (
                ("'format of disk q35-pcihost/01.0/virtio-blk-device' is raw at the source and qcow2 here", self.drive(a),
                 self.drive(q, "qcow2")),
                (f"'size of disk q35-pcihost/01.0/virtio-blk-device' is {MIB << 20} bytes at the source", self.drive(a),
                 self.drive(small)),
                ("disk 'disk0' writes to a temporary file", ["-snapshot", *self.drive(a)], self.drive(a)),
                ("disk 'disk0' writes to a temporary file", self.drive(a), ["-snapshot", *self.drive(a)])):
            with self.subTest(words):
                self.refused(words, source, destination)
        self.refused("disk 'disk0' writes to a temporary file", ["-snapshot", *self.drive(a)], self.drive(small), "-b")
        self.assertEqual(self.attempt(self.drive(a), self.drive(a)), (0, ""))

    def test_a_raw_disk_that_begins_as_another_format(self):
        """Where nobody says that the image is raw, QEMU would take it for qcow2 at its next start,
        and open the file that it names."""
        secret, planted, plain, there = self.image("secret"), self.folder / "planted", self.image("plain"), self.folder / "there"
        qemu_img("create", "-u", "-f", "qcow2", "-b", secret, "-F", "raw", planted, "1M")
        os.truncate(planted, 1 << 20)
        json_raw = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(there)}}).replace(",", ",,")
        guessed = ["-drive", f"if=virtio,id=disk0,file={there}"]
        for source, destination, words in (
                (planted, guessed, "disk 'disk0': the raw image that came is not taken: it begins as qcow2 does"),
                (planted, ["-hda", str(there)], "give format=raw on this VMM's command line"),
                (planted, self.drive(there), None),
                (planted, ["-drive", f"if=virtio,id=disk0,file=json:{json_raw}"], None),
                (planted, ["-blockdev", f"driver=raw,node-name=n,file.driver=file,file.filename={there}", "-device",
                           "virtio-blk-pci,drive=n,id=disk0,addr=1"], None),
                (plain, guessed, None)):
            with self.subTest(source=source.name, destination=destination[1][:30]):
                there.write_bytes(b"")
                os.truncate(there, source.stat().st_size)
                hda = destination[0] == "-hda"
                options = ["--disk", f"disk0={there}"] if hda else ["-b"]
                source = ["-drive", f"if=ide,id=disk0,format=raw,file={source}"] if hda else self.drive(source)
                if words:
                    self.refused(words, source, destination, *options, receive=["--overwrite"], keep=[there])
                else:
                    self.assertEqual(self.attempt(source, destination, *options, receive=["--overwrite"]), (0, ""))

    def test_what_qemu_itself_refuses_comes_first_and_in_its_words(self):
        vdi, a, there = self.folder / "v.vdi", self.image("a"), self.image("there")
        qemu_img("create", "-f", "vdi", vdi, "4M")
        for words, source in (("The vdi format used by node", self.drive(vdi, "vdi")),
                              ("non-migratable device: 0000:00:01.0/nvme",
                               ["-device", "nvme,serial=1,drive=disk0", *self.drive(a, via="scsi-hd")[:2]])):
            with self.subTest(words):
                self.refused(words, source, self.drive(there), "-b", receive=["--overwrite"], keep=[there])

    def test_a_vmm_that_migrates_already(self):
        with vmlab.Lab() as lab, socket.socket(socket.AF_UNIX) as listener:
            source = lab.a.vm(guest=False, paused=True, ram_mib=64)
            listener.bind(str(lab.folder / "slow.sock"))
            listener.listen()
            source.qmp("migrate", uri=f"unix:{lab.folder}/slow.sock")  # nobody reads it
            vmlab.wait_for(lambda: source.qmp("query-migrate")["status"] != "setup", 20, "QEMU's own migration")
            done = lab.a.godwit("migrate", "guest", "tcp:127.0.0.1:1")
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertIn("is in a migration of its own", done.stderr)

    def test_an_encrypted_image_is_refused_by_name(self):
        luks, qcow2, there, empty = self.folder / "luks", self.folder / "qcow2", self.image("there"), self.image("q", "qcow2")
        secret = ["-object", "secret,id=s,data=abc"]
        for path, fmt, options in ((luks, "luks", "key-secret=s,iter-time=100"),
                                   (qcow2, "qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100")):
            create = ["qemu-img", "create", "--object", "secret,id=s,data=abc", "-f", fmt, "-o", options, path, "4M"]
            if all(subprocess.run(create, capture_output=True).returncode for _ in range(40)):
                self.skipTest("qemu-img cannot measure this processor, which it does for the key")
        for drive, other in ((f"format=luks,file={luks},key-secret=s", self.drive(there)),
                             (f"format=raw,file.driver=luks,file.file.filename={luks},file.key-secret=s", self.drive(there)),
                             (f"format=qcow2,file={qcow2},encrypt.key-secret=s", self.drive(empty, "qcow2"))):
            with self.subTest(drive):
                self.refused("disk 'disk0' cannot be moved: it is encrypted", [*secret, "-drive", drive + ",if=virtio,id=disk0"],
                             other, "-b", receive=["--overwrite"], keep=[there, empty])

    def test_memory_in_one_file(self):
        path = Path(f"/dev/shm/gw-{os.getpid()}-shared.ram")
        self.addCleanup(path.unlink, missing_ok=True)
        with vmlab.Lab() as lab:
            here, there = lab.a.vm(guest=False, paused=True, ram_mib=64), lab.b.vm(guest=False, incoming=True, ram_mib=64)
            both = ["-object", f"memory-backend-file,id=more,size=16M,share=on,mem-path={path}"]
            one = lab.a.vm("one", guest=False, paused=True, ram_mib=64, extra=both)
            lab.b.vm("two", guest=False, incoming=True, ram_mib=64, extra=both)
            lab.b.vm("three", guest=False, incoming=True, ram_mib=64, extra=both)
            receiver, port = lab.b.receive("two", "--guest", "one")
            done = lab.a.godwit("migrate", "one", f"tcp:127.0.0.1:{port}")
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertIn("RAM 'more' lies in a file that another VMM here waits for a guest in", done.stderr)
            self.assertIn("mem-path=/dev/shm", done.stderr)
            third = lab.b.godwit("receive", "--name", "three", "--listen", "127.0.0.1:0")
            self.assertEqual(third.returncode, 5, third.stderr)
            self.assertIn("another guest is being copied from or to", third.stderr)
            self.assertEqual(one.status(), "prelaunch")
            receiver.kill()
            receiver.communicate()
            self.assertEqual(here.status(), "prelaunch")
            self.assertEqual(there.status(), "inmigrate")

    def move_with_mem_path(self, path, cwd=None):
        """Moves a VM whose memory has this name; QEMU runs in @cwd."""
        was = os.getcwd()
        os.chdir(cwd or was)
        try:
            more = ["-object", f"memory-backend-file,id=more,size=16M,share=on,mem-path={path}"]
            there = ["-object", "memory-backend-file,id=more,size=16M,share=on,mem-path=/dev/shm"]
            self.assertEqual(self.attempt(more, there), (0, ""))
        finally:
            os.chdir(was)

    def test_memory_is_found_by_file_and_not_by_name(self):
        folder = Path(f"/dev/shm/gw-{os.getpid()}-names")
        folder.mkdir()
        self.addCleanup(shutil.rmtree, folder)
        deep = folder
        while len(str(deep)) < 700:
            deep = deep / ("d" * 200)
        deep.mkdir(parents=True)
        (folder / "link").symlink_to(folder / "target.ram")
        (folder / "target.ram").touch()
        (folder / "to-folder").symlink_to(folder)
        for path, cwd in (("relative.ram", folder), (f"{folder}/x/../up.ram", None), (folder / "link", None),
                          (folder / "to-folder", None), (".", folder), (deep / "long.ram", None), (deep, None)):
            with self.subTest(path=str(path)[-40:]):
                (folder / "x").mkdir(exist_ok=True)
                self.move_with_mem_path(path, cwd)

    def test_memory_whose_name_was_removed(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(guest=False, paused=True, ram_mib=64)
            lab.b.vm(guest=False, incoming=True, ram_mib=64)
            source.ram.unlink()
            receiver, port = lab.b.receive()
            done = lab.a.godwit("migrate", "--quiet", "guest", f"tcp:127.0.0.1:{port}")
            receiver.communicate(timeout=20)
            self.assertEqual((done.returncode, receiver.returncode), (0, 0), done.stderr)

    def test_memory_on_a_subvolume(self):
        """On btrfs stat() and the map of a process have different numbers for the device."""
        image, folder = self.folder / "btrfs", self.folder / "mounted"
        folder.mkdir()
        with open(image, "wb") as file:
            file.truncate(128 << 20)
        if shutil.which("mkfs.btrfs") is None:
            self.skipTest("no mkfs.btrfs here")
        subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
        if subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True).returncode:
            self.skipTest("no btrfs can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        subprocess.run(["btrfs", "subvolume", "create", folder / "sub"], check=True, capture_output=True)
        for path in (folder / "sub/named.ram", folder / "sub"):
            with self.subTest(path.name):
                self.move_with_mem_path(path)

    def run_source_by(self, script):
        """A line of shell starts the source's `godwit run`, which is in "$@"."""
        run, godwit = self.folder / "run-source", vmlab.GODWIT
        run.write_text(f'#!/bin/bash\nset -- {godwit} "$@"\n[[ "$2 $*" = run*-incoming* || $2 != run ]] && exec "$@"\n{script}\n')
        run.chmod(0o755)
        vmlab.GODWIT = run
        self.addCleanup(setattr, vmlab, "GODWIT", godwit)

    def test_a_vmm_in_a_mount_namespace_of_its_own(self):
        outside, inside, there = self.folder / "outside", self.folder / "inside", self.image("there")
        if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
            self.skipTest("no mount namespaces here")
        outside.mkdir()
        inside.mkdir()
        self.image("outside/disk")
        self.image("inside/disk", mib=4)  # the same name, and another file
        self.run_source_by(f"exec unshare -m bash -c 'mount --bind {outside} {inside} && exec \"$@\"' - \"$@\"")
        source = self.drive(inside / "disk")
        self.assertEqual(self.attempt(source, self.drive(there), "-b", receive=["--overwrite"]), (0, ""))
        qemu_img("compare", "-f", "raw", "-F", "raw", outside / "disk", there)

    def test_disks_are_found_by_file_and_not_by_name(self):
        there = self.folder / "there"
        base = self.image("base", "qcow2")
        over = self.folder / "over"
        qemu_img("create", "-f", "qcow2", "-b", "base", "-F", "qcow2", over)  # its header has a relative name
        json_name = self.image("json")
        long = self.folder / ("n" * 180) / ("m" * 180) / "image"
        long.parent.mkdir(parents=True)
        shutil.copy(json_name, long)
        tree = {"driver": "raw", "file": {"driver": "file", "filename": "json"}}
        was = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, was)
        explicit = "backing.driver=qcow2,backing.file.driver=file,backing.file.filename=./base"  # then the name is "json:..."
        for source, fmt, layers in ((["-drive", "file=over,if=virtio,id=disk0,format=qcow2"], "qcow2", base),
                                    (["-drive", f"file=over,if=virtio,id=disk0,format=qcow2,{explicit}"], "qcow2", base),
                                    (["-drive", "file=json:" + json.dumps(tree).replace(",", ",,") + ",if=virtio,id=disk0"],
                                     "raw", None),
                                    (self.drive(long), "raw", None)):
            with self.subTest(source[1][:40]):
                if layers:
                    self.image("base2", "qcow2")
                    self.image("there", "qcow2", base="base2", base_fmt="qcow2")
                else:
                    self.image("there")
                self.assertEqual(self.attempt(source, self.drive(there, fmt), "-b", receive=["--overwrite"]), (0, ""))
                qemu_img("compare", "-U", "-f", fmt, "-F", fmt, over if layers else json_name, there)

    def test_a_disk_in_a_set_of_descriptors(self):
        a, there = self.image("a"), self.image("there")
        self.run_source_by(f'exec "$@" 7<>{a} 8<{a}')
        source = ["-add-fd", "set=7,fd=7", "-add-fd", "set=7,fd=8", *self.drive("/dev/fdset/7")]
        self.assertEqual(self.attempt(source, self.drive(there), "-b", receive=["--overwrite"]), (0, ""))
        qemu_img("compare", "-f", "raw", "-F", "raw", a, there)


if __name__ == "__main__":
    unittest.main(verbosity=2)
