#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The blackout is predicted with all its parts.  One that does not fit is refused before the guest
is stopped.

Guests run firmware or are paused: the tests measure the link and the devices, not memory.
"""

import os
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402
from forward import Forwarder  # noqa: E402

SMALL = {"guest": False, "ram_mib": 64}


class Predict(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)

    def pair(self, devices=lambda side: [], **options):
        options = {**SMALL, **options}
        source = self.lab.a.vm(extra=devices("a"), **options)
        options.pop("paused", None)
        return source, self.lab.b.vm(incoming=True, extra=devices("b"), **options)

    def receive(self):
        return self.lab.b.receive("guest")

    def migrate(self, port, *options, timeout=120):
        return self.lab.a.godwit("migrate", "--json", *options, "guest", f"tcp:127.0.0.1:{port}", timeout=timeout)

    def events(self, vm):
        """The STOP and RESUME events since the last call, as a management program sees them."""
        vm.qmp("query-status")
        seen = [event["event"] for event in vm.qmp.events if event["event"] in ("STOP", "RESUME")]
        vm.qmp.events.clear()
        return seen

    def check_refused(self, source, receiver, done, *words):
        self.assertEqual(done.returncode, 1, done.stderr)
        for word in words:
            self.assertRegex(done.stderr, word)
        self.assertEqual(vmlab.summary(done.stdout)["put_bytes"], 0, "something was copied")
        self.assertEqual(vmlab.ended(receiver)[0], "waits")

    def test_a_slow_link_for_device_state(self):
        """2 Mbit/s: some 280 KiB of device state take more than a second."""
        source, destination = self.pair(paused=True)
        receiver, port = self.receive()
        with Forwarder(port, bytes_per_s=250_000) as way:
            done = self.migrate(way.port)
            self.check_refused(source, receiver, done, r"at least \d{4,} ms \(\d{4,} device state", "300 are allowed")
            self.assertEqual(source.status(), "prelaunch")
            receiver, way.to = self.receive()
            done = self.migrate(way.port, "--downtime", "10000")
            self.assertEqual(done.returncode, 0, done.stderr)
        end = vmlab.summary(done.stdout)
        self.assertGreater(end["blackout"]["total_ns"], 0.8e9, "the way is not as slow as it should be")
        self.assertGreater(end["prediction"]["state_ns"], 0.8e9)
        receiver.communicate(timeout=60)

    def test_a_link_with_latency(self):
        source, destination = self.pair(paused=True)
        receiver, port = self.receive()
        with Forwarder(port, delay_s=0.1) as way:
            self.check_refused(source, receiver, self.migrate(way.port), r"\d{3,} messages", "300 are allowed")
            receiver, way.to = self.receive()
            done = self.migrate(way.port, "--on-limit", "stop-copy")
            self.assertEqual(done.returncode, 0, done.stderr)
        end = vmlab.summary(done.stdout)
        self.assertGreaterEqual(end["prediction"]["messages_ns"], 0.4e9)
        self.assertGreaterEqual(end["blackout"]["total_ns"], 0.4e9, "the way is not as long as it should be")
        receiver.communicate(timeout=60)

    def test_a_guest_that_cannot_be_saved(self):
        """The emulator of its TPM is gone: saving fails with the VMM's own words, before anything
        is copied."""
        state = self.lab.folder / "tpm"
        state.mkdir()
        sock = self.lab.folder / "tpm.sock"
        tpm = subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={sock}"])
        self.lab.processes.append(tpm)
        vmlab.wait_for(sock.exists, 20, "swtpm")
        source = self.lab.a.vm(**SMALL, extra=["-chardev", f"socket,id=tpm,path={sock}", "-tpmdev", "emulator,id=t,chardev=tpm",
                                               "-device", "tpm-crb,tpmdev=t"])
        destination = self.lab.b.vm(incoming=True, **SMALL)
        tpm.kill()
        tpm.wait()
        receiver, port = self.receive()
        done = self.migrate(port)
        self.check_refused(source, receiver, done, "cannot be saved, so nothing was copied", "VMM refuses xen-save-devices-state: ")
        self.assertEqual(source.status(), "running")
        self.assertEqual(destination.status(), "inmigrate")

    def test_who_is_not_to_be_stopped_twice(self):
        source, _ = self.pair()
        receiver, port = self.receive()
        done = self.migrate(port, "--no-rehearsal")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.events(source), ["STOP"])
        receiver.communicate(timeout=60)

    def test_a_rehearsal_tells_the_size_of_the_device_state(self):
        source, _ = self.pair(devices=lambda side: ["-vga", "std"])
        receiver, port = self.receive()
        sender = self.migrate(port, "-v")
        self.assertEqual(sender.returncode, 0, sender.stderr)
        self.assertEqual(self.events(source), ["STOP", "RESUME", "STOP"])
        told = int(sender.stderr.split(" bytes of device state in ")[0].rsplit(" ", 1)[1])
        real = vmlab.summary(sender.stdout)["device_bytes"]
        self.assertTrue(0.8 * real < told < 2 * real, f"{told} bytes were told, {real} it was")
        receiver.communicate(timeout=60)

    def test_a_paused_guest_stays_paused(self):
        source, destination = self.pair(paused=True)
        receiver, port = self.receive()
        done = self.migrate(port)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.events(source), [])
        receiver.communicate(timeout=60)

    def slow_to_flush(self, cache):
        def drive(side):
            image = self.lab.folder / f"disk-{side}"
            image.touch()
            os.truncate(image, 1 << 20)
            return ["-drive", f"file={image},format=raw,if=none,id=disk0,cache={cache}", "-device",
                    "virtio-blk-pci,drive=disk0,id=disk0"]
        slow = {"LD_PRELOAD": str(vmlab.BUILD / "tests" / "libslowsync.so"), "SLOW_RECORD_MS": "500"}
        self.lab.a.env.update(slow)
        source = self.lab.a.vm(extra=drive("a"), **SMALL)
        self.lab.b.vm(incoming=True, extra=drive("b"), **SMALL)
        receiver, port = self.receive()
        self.events(source)
        return source, receiver, port

    def test_images_that_the_vmm_never_flushes(self):
        source, receiver, port = self.slow_to_flush("unsafe")
        done = self.migrate(port, "-b")
        self.assertEqual(done.returncode, 0, done.stderr)
        receiver.communicate(timeout=60)

    def test_images_that_take_long_to_flush(self):
        """`stop` flushes the disks, so the guest is not stopped, not even for a rehearsal."""
        source, receiver, port = self.slow_to_flush("writeback")
        self.check_refused(source, receiver, self.migrate(port, "-b"), r"at least \d{3,} ms \(\d{3,} stop", "300 are allowed")
        self.assertEqual(self.events(source), [])

    def test_a_big_guest(self):
        """Under KVM the time to save grows with memory: 375 ms here for 900 GiB."""
        kvm = {"ram_mib": 900 << 10, "paused": True, "patience": 60}
        try:
            descriptor = os.open("/dev/kvm", os.O_RDWR)
        except OSError as why:
            self.skipTest(f"/dev/kvm: {why}")
        os.close(descriptor)
        accel, vmlab.ACCEL = vmlab.ACCEL, "kvm"
        try:
            source, _ = self.pair(**kvm)
        finally:
            vmlab.ACCEL = accel
        receiver, port = self.receive()
        self.check_refused(source, receiver, self.migrate(port), r"at least \d{3,} ms \(\d{3,} save", "300 are allowed")


class SlowSync(unittest.TestCase):
    """fsync of the destination's image takes 2 s, whatever was written."""

    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        self.folder = vmlab.BUILD / f"predict-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", self.folder], check=True))
        for side in "ab":
            (self.folder / side).touch()
            os.truncate(self.folder / side, 8 << 20)

    def start(self):
        def drive(side):
            return ["-drive", f"file={self.folder / side},format=raw,if=none,id=disk0,cache=none", "-device",
                    "virtio-blk-pci,drive=disk0,id=disk0"]
        source = self.lab.a.vm(**SMALL, extra=drive("a"))
        self.lab.b.vm(incoming=True, **SMALL, extra=drive("b"))
        self.write(source, 0)
        self.assertIn(b"\1", (self.folder / "a").read_bytes())
        self.lab.b.env.update(LD_PRELOAD=str(vmlab.BUILD / "tests" / "libslowsync.so"), SLOW_SYNC_MS="2000")
        return source, *self.lab.b.receive("guest")

    def write(self, vm, n):
        answer = vm.qmp("human-monitor-command", **{"command-line": f'qemu-io disk0 "write -P {n % 255 + 1} {n % 64 * 64}k 64k"'})
        self.assertNotIn("Error", answer)

    def test_a_disk_at_rest_is_synced_before_the_guest_is_stopped(self):
        _, receiver, port = self.start()
        done = self.lab.a.godwit("migrate", "--json", "-b", "guest", f"tcp:127.0.0.1:{port}")
        self.assertEqual(done.returncode, 0, done.stderr)
        end = vmlab.summary(done.stdout)
        self.assertGreater(end["elapsed_ns"], 1.9e9, "no sync was slow")
        self.assertLess(end["blackout"]["total_ns"], 1.5e9, "the sync stood in the blackout")
        receiver.communicate(timeout=60)
        self.assertEqual((self.folder / "a").read_bytes(), (self.folder / "b").read_bytes())

    def test_a_disk_that_is_written_to_does_not_fit(self):
        source, receiver, port = self.start()
        sender = self.lab.a.start("migrate", "--json", "-b", "guest", f"tcp:127.0.0.1:{port}")
        n = 0
        while sender.poll() is None:
            n += 1
            self.write(source, n)
            time.sleep(0.02)
        out, err = sender.communicate(timeout=60)
        self.assertEqual(sender.returncode, 1, err)
        self.assertRegex(err, r"does not fit: the blackout would be about \d{4,} ms \(\d{4,} sync of disks")
        self.assertEqual(source.status(), "running")
        receiver.communicate(timeout=60)


if __name__ == "__main__":
    unittest.main(verbosity=2)
