#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Somebody else changes disks, media or devices while the guest moves: the guest stays, and the
error says why.

A change comes at one of three moments: before the guard is armed, right before the guest is
stopped, or in the pause.  A proxy on the VMM's QMP socket, or the destination's hook, finds the
moment.  The guests run firmware only.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

MIB = 8
SMALL = {"guest": False, "ram_mib": 64}
BEFORE_ARMING, BEFORE_STOP, IN_PAUSE = ("query-jobs", 2), ("stop", 1), None
BEFORE_ARMING_WITH_DISKS = ("query-jobs", 3)


class Proxy:
    """A proxy on a VMM's QMP socket.  It makes one call when a command passes for the n-th time."""

    def __init__(self, host):
        run = host.folder / "run" / "guest"
        path = run / "qmp.sock"
        self.real = run / "real.sock"
        path.rename(self.real)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.command, self.left, self.call, self.failed = b"", 0, None, None
        threading.Thread(target=self.serve, daemon=True).start()

    def at(self, moment, call):
        name, self.left = moment
        self.command, self.call, self.failed = f'"execute":"{name}"'.encode(), call, None

    def look_at(self, data):
        if self.call and self.command in data:
            self.left -= 1
            if self.left == 0:
                call, self.call = self.call, None
                try:
                    call()
                except Exception as why:  # for the thread of the test
                    self.failed = why

    def serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.pass_on, args=(client,), daemon=True).start()

    def pass_on(self, client):
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self.real))

        def back():
            try:
                while data := server.recv(65536):
                    client.sendall(data)
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

        thread = threading.Thread(target=back, daemon=True)
        thread.start()
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(client, 65536, 4)
                if not data:
                    break
                self.look_at(data)
                socket.send_fds(server, [data], fds) if fds else server.sendall(data)
                for fd in fds:
                    os.close(fd)
        except OSError:
            pass
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()
        client.close()

    def close(self):
        self.listener.close()


class Changes(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        self.folder = self.lab.folder
        for name in ("one.iso", "two.iso"):
            (self.folder / name).write_bytes(name.encode() * 4096)
        self.snapshots = 0

    def image(self, name, base=None):
        path = self.folder / name
        backing = ["-b", base, "-F", "qcow2"] if base else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, path, f"{MIB}M"], check=True)
        return path

    def arguments(self, disk):
        return ["-blockdev", f"driver=qcow2,node-name=top,file.driver=file,file.filename={disk}",
                "-device", "virtio-blk-pci,drive=top,id=vd,addr=4,share-rw=on", "-blockdev",
                f"driver=raw,read-only=on,node-name=cd,file.driver=file,file.filename={self.folder}/one.iso",
                "-device", "ide-cd,drive=cd,id=cd0", "-device", "qemu-xhci,id=x,addr=5", "-device", "usb-kbd,bus=x.0,port=2,id=kb"]

    def source(self, name="here", base=None):
        self.vm = self.lab.a.vm(extra=self.arguments(self.image(name, base)), **SMALL)
        self.proxy = Proxy(self.lab.a)
        self.addCleanup(self.proxy.close)

    def destination(self, base=None):
        self.base = base
        if base:
            base = shutil.copy(base, self.folder / "there-base")
        self.there = self.lab.b.vm(incoming=True, extra=self.arguments(self.image("there", base)), **SMALL)

    def hook(self, change):
        """A hook that holds the paused guest until the change was made, after the source's last
        long look."""
        ready, done = self.folder / "ready", self.folder / "done"
        record = self.lab.a.folder / "run" / "guest" / "last.json"
        ready.unlink(missing_ok=True)
        done.unlink(missing_ok=True)

        def wait():
            vmlab.wait_for(lambda: ready.exists() and "uncertain" in record.read_text(), 60, "the hook and the source's record")
            try:
                change()
            except Exception as why:
                self.proxy.failed = why
            done.touch()

        threading.Thread(target=wait, daemon=True).start()
        return ["--hook", f"touch {ready}; while [ ! -e {done} ]; do sleep 0.02; done"]

    def move(self, moment, change, *options):
        """Return: the exit code, the output, and whether the guest was paused."""
        self.vm.status()
        self.vm.qmp.events.clear()
        self.proxy.call = self.proxy.failed = None
        if moment:
            self.proxy.at(moment, change)
        receiver, port = self.lab.b.receive("guest", "--overwrite", *([] if moment else self.hook(change)))
        done = self.lab.a.godwit("migrate", "--quiet", "--no-rehearsal", *options, "guest", f"tcp:127.0.0.1:{port}")
        receiver.kill()
        receiver.communicate()
        if self.proxy.failed:
            raise self.proxy.failed
        return done.returncode, done.stderr

    def stays(self, words, moment, change, *options):
        code, said = self.move(moment, change, *options)
        self.assertIn(words, said)
        self.assertEqual(code, 1, said)
        self.assertEqual(self.vm.status(), "running")
        paused = any(event["event"] == "STOP" for event in self.vm.qmp.events)
        early = moment in (BEFORE_ARMING, BEFORE_ARMING_WITH_DISKS)
        self.assertEqual(paused, not early, "the guest was paused" if paused else "the guest was not paused")
        if not early or options:  # the destination may have loaded the guest, or have other images
            self.there.kill()
            self.destination(self.base)

    # The changes, and how each is undone.

    def monitor(self, line):
        return self.vm.qmp("human-monitor-command", **{"command-line": line})

    def write(self):
        said = self.monitor('qemu-io -d /machine/peripheral/vd/virtio-backend "write -P 0x77 1M 64k"')
        self.assertNotIn("failed", said)

    def snapshot(self):
        self.snapshots += 1
        self.vm.qmp("blockdev-snapshot-sync", **{"node-name": "top", "snapshot-node-name": "snap", "format": "qcow2",
                                                 "snapshot-file": str(self.folder / f"snap{self.snapshots}")})
        self.write()

    def drop_snapshot(self):
        self.vm.qmp("block-commit", **{"job-id": "drop", "device": "snap", "base-node": "top"})
        vmlab.wait_for(lambda: self.vm.qmp("query-jobs")[0]["status"] == "ready", 30, "the commit")
        self.vm.qmp("job-complete", id="drop")
        vmlab.wait_for(lambda: not self.vm.qmp("query-jobs"), 30, "the end of the commit")

    def medium(self, name):
        self.vm.qmp("blockdev-change-medium", id="cd0", filename=str(self.folder / name), format="raw")

    def swap_file(self):
        """Another file with the same name and size, in a node of the same name."""
        os.replace(self.folder / "two.iso", self.folder / "one.iso")
        self.vm.qmp("eject", id="cd0", force=True)
        self.vm.qmp("blockdev-del", **{"node-name": "cd"})
        self.vm.qmp("blockdev-add", **{"node-name": "cd", "driver": "raw", "read-only": True, "file": {
            "driver": "file", "filename": str(self.folder / "one.iso")}})
        self.vm.qmp("blockdev-insert-medium", id="cd0", **{"node-name": "cd"})
        self.vm.qmp("blockdev-close-tray", id="cd0")

    def plug(self):
        self.vm.qmp("device_add", driver="usb-tablet", bus="x.0", port="1", id="tab")

    def unplug(self, name):
        self.vm.qmp("device_del", id=name)
        vmlab.wait_for(lambda: f"ID: {name}" not in self.monitor("info usb"), 20, "the unplug")

    def plug_keyboard(self):
        self.vm.qmp("device_add", driver="usb-kbd", bus="x.0", port="2", id="kb")

    def swap_keyboard(self):
        self.unplug("kb")
        self.vm.qmp("device_add", driver="usb-kbd", bus="x.0", port="2", id="kb", serial="another")

    def test_changes_to_what_is_shared(self):
        """Without -b the destination's VMM has the same files open, and the same devices as the
        source."""
        self.source()
        self.destination()
        self.stays("disk 'cd0' was unplugged, resized or given another image or medium", BEFORE_ARMING, self.swap_file)
        (self.folder / "two.iso").write_bytes(b"two" * 4096)
        for moment in (BEFORE_ARMING, BEFORE_STOP):
            for words, change, undo in (
                    ("disk 'vd' was unplugged, resized or given another image", self.snapshot, self.drop_snapshot),
                    ("disk 'vd' was unplugged, resized or given another image",
                     lambda: self.vm.qmp("block_resize", **{"node-name": "top", "size": 2 * MIB << 20}),
                     lambda: self.vm.qmp("block_resize", **{"node-name": "top", "size": MIB << 20})),
                    ("disk 'cd0' was unplugged, resized or given another image or medium", lambda: self.medium("two.iso"),
                     lambda: self.medium("one.iso")),
                    ("was unplugged in mid-migration", lambda: self.unplug("kb"), self.plug_keyboard),
                    ("was plugged in in mid-migration", self.plug, lambda: self.unplug("tab"))):
                with self.subTest(words, moment=moment):
                    self.stays(words, moment, change)
                    undo()
        self.stays("disk 'cd0' was unplugged, resized or given another image or medium", IN_PAUSE, lambda: self.medium("two.iso"))
        self.medium("one.iso")
        self.stays("'device q35-pcihost/05.0/2' was ", BEFORE_ARMING, self.swap_keyboard)
        self.unplug("kb")
        self.plug_keyboard()
        code, said = self.move(BEFORE_STOP, lambda: None)
        self.assertEqual((code, said), (0, ""))

    def test_changes_to_what_moves(self):
        """The guest's last writes go to an image that does not move."""
        base = self.image("base")
        self.source(base=base)
        self.destination(base)
        changed = "disk 'vd' was unplugged, resized or given another image"
        for option in ("-b", "-i"):
            for moment in (BEFORE_ARMING_WITH_DISKS, BEFORE_STOP):
                with self.subTest(option, moment=moment):
                    self.stays(changed, moment, self.snapshot, option)
                    self.drop_snapshot()
        for moment in (BEFORE_ARMING_WITH_DISKS, BEFORE_STOP):  # the base is on both hosts, and writes of this to it are not
            with self.subTest("commit", moment=moment):
                self.write()
                self.stays("disk 'vd/1', which does not move, was written to", moment, lambda: self.monitor("commit all"), "-i")

    def test_what_the_vmm_could_not_hand_over_is_refused_first(self):
        """QEMU itself fails at the end of the pause, when everything has been copied."""
        self.source()
        target = str(self.folder / "target")
        for what in ("mirror", "backup"):
            self.write()
            self.vm.qmp(f"drive-{what}", **{"job-id": "j", "device": "top", "target": target, "sync": "full", "speed": 1})
            for options in ([], ["-b"]):
                done = self.lab.a.godwit("migrate", *options, "guest", "tcp:127.0.0.1:1")
                self.assertEqual(done.returncode, 5, done.stderr)
                self.assertIn(f"the VMM's job 'j' ({what}) is under way", done.stderr)
            self.vm.qmp("block-job-cancel", device="j", force=True)
            vmlab.wait_for(lambda: not self.vm.qmp("query-jobs"), 30, "the end of the job")
        self.vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.folder / "nbd")}})
        self.vm.qmp("block-export-add", **{"type": "nbd", "id": "w", "name": "w", "node-name": "top", "writable": True})
        for options in ([], ["-b"]):
            done = self.lab.a.godwit("migrate", *options, "guest", "tcp:127.0.0.1:1")
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertIn("nbd export 'w' lets others write to node 'top'", done.stderr)
            self.assertIn("block-export-del", done.stderr)
        self.vm.qmp("block-export-del", id="w")
        self.vm.qmp("block-export-add", **{"type": "nbd", "id": "r", "name": "r", "node-name": "top"})
        self.destination()
        self.assertEqual(self.move(BEFORE_STOP, lambda: None), (0, ""))


if __name__ == "__main__":
    unittest.main(verbosity=2)
