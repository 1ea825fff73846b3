#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exactly one owner, and no pause without an end: docs/ownership.md, with real processes.

The receiver's hook keeps the blackout open for as long as a test needs it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

SMALL = {"guest": False, "ram_mib": 64}  # running firmware is enough
PAUSED = ("paused", "postmigrate", "finish-migrate")
# A boot sector that waits for a key: s sleeps (S3), q shuts down (S5), p panics (pvpanic).
WAITS_FOR_A_KEY = bytes.fromhex("fae464a80174fae4603c1f740a3c1974183c10740bebea ba0406b80024efeb0f ba0406b80020efeb06"
                                "ba0505b001ee f4ebfd")


def ignores_shared(vm):
    return any(c["state"] for c in vm.qmp("query-migrate-capabilities") if c["capability"] == "x-ignore-shared")


@contextlib.contextmanager
def full_later(test, run):
    """A run folder on a small file system of its own.  Return: a function that fills it."""
    run.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "none", str(run)], capture_output=True).returncode:
        test.skipTest("a tmpfs cannot be mounted here")

    def fill():
        with open(run / "full", "wb", buffering=0) as full, contextlib.suppress(OSError):
            while True:
                full.write(bytes(4096))

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(run)], check=False)


class Ownership(unittest.TestCase):
    def begin(self, lab, *options, hook="sleep 60", source=None):
        """A migration whose hook runs.  Return: source, destination, sender, receiver."""
        source = source or lab.a.vm(**SMALL)
        destination = lab.b.vm(incoming=True, **SMALL)
        begun = lab.folder / "hook-runs"
        receiver, port = lab.b.receive("guest", "--hook", f"touch {begun}; {hook}")
        sender = lab.a.start("migrate", "--json", *options, "guest", f"127.0.0.1:{port}")
        vmlab.wait_for(begun.exists, 30, "the hook")
        return source, destination, sender, receiver

    def not_started(self, destination):
        if destination.process.poll() is None:
            self.assertNotEqual(destination.status(), "running")

    def test_a_godwit_that_is_stopped_loses_the_guest(self):
        """The guest runs again while godwit is stopped, and a thawed godwit cannot commit."""
        with vmlab.Lab() as lab:
            source, destination, sender, receiver = self.begin(lab, hook="sleep 5")
            sender.send_signal(signal.SIGSTOP)
            vmlab.wait_for(lambda: source.status() == "running", 20, "the guest running on")
            vmlab.wait_for(lambda: not ignores_shared(source), 20, "x-ignore-shared being off")
            told = lab.a.godwit("status", "guest").stdout
            self.assertIn(f"process {sender.pid}", told)
            self.assertIn("owns the guest", told)
            self.assertEqual(lab.a.status()["stalled_pid"], sender.pid)
            cancel = lab.a.godwit("cancel", "guest")
            self.assertEqual(cancel.returncode, 1)
            self.assertIn(f"process {sender.pid}", cancel.stderr)
            time.sleep(1.5)  # the hook has ended, and the device state is loaded there
            sender.send_signal(signal.SIGCONT)
            self.assertEqual(sender.wait(timeout=20), 1)
            self.assertIn("stood still", sender.stderr.read())
            self.assertNotEqual(receiver.wait(timeout=60), 0)
            self.assertEqual(source.status(), "running")
            self.not_started(destination)
            record = lab.a.status()
            self.assertTrue(record["owns_guest"])

    def test_a_godwit_that_stands_still_while_the_vmm_saves(self):
        """The VMM writes more than a socket holds, and answers nobody until somebody reads or hangs
        up."""
        many = [word for i in range(24) for word in ("-device", f"virtio-serial-pci,id=s{i}")]
        with vmlab.Lab() as lab:
            source, destination = lab.a.vm(extra=many, **SMALL), lab.b.vm(incoming=True, extra=many, **SMALL)
            receiver, port = lab.b.receive("guest", "--hook", "sleep 5")
            sender = lab.a.start("migrate", "--json", "guest", f"127.0.0.1:{port}")
            while json.loads(source.qmp.file.readline()).get("event") != "MIGRATION":
                pass
            sender.send_signal(signal.SIGSTOP)
            vmlab.wait_for(lambda: source.status() == "running", 20, "the guest running on")
            vmlab.wait_for(lambda: not ignores_shared(source), 20, "x-ignore-shared being off")
            sender.send_signal(signal.SIGCONT)
            self.assertEqual(sender.wait(timeout=20), 1)
            self.assertNotEqual(receiver.wait(timeout=60), 0)
            self.assertEqual(source.status(), "running")
            self.not_started(destination)

    def test_others_may_go_on_while_a_godwit_stands_still(self):
        """A thawed godwit does not undo a later migration."""
        with vmlab.Lab() as lab:
            source, destination, sender, receiver = self.begin(lab)
            sender.send_signal(signal.SIGSTOP)
            vmlab.wait_for(lambda: source.status() == "running", 20, "the guest running on")
            receiver.terminate()
            receiver.wait(timeout=20)
            destination.kill()
            destination.ram.unlink(missing_ok=True)
            destination = lab.b.vm(incoming=True, **SMALL)
            receiver, port = lab.b.receive()
            again = lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertEqual(receiver.wait(timeout=20), 0)
            sender.send_signal(signal.SIGCONT)
            self.assertEqual(sender.wait(timeout=20), 1)
            self.assertEqual(source.status(), "postmigrate")
            self.assertEqual(destination.status(), "running")
            self.assertFalse(lab.a.status()["owns_guest"])
            self.assertEqual(lab.a.godwit("resume", "guest").returncode, 1)

    def test_a_guest_that_was_paused_stays_so_and_can_be_migrated_by_others(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(**SMALL)
            source.qmp("stop")
            source, destination, sender, receiver = self.begin(lab, source=source)
            sender.kill()
            vmlab.wait_for(lambda: not ignores_shared(source), 20, "x-ignore-shared being off")
            self.assertIn(source.status(), PAUSED)
            self.assertNotEqual(receiver.wait(timeout=60), 0)

    def test_a_paused_guest_whose_migration_failed(self):
        """QEMU does not save a guest twice unless it ran in between.  The message, the status and
        the retry say so, with advice."""
        with vmlab.Lab() as lab:
            source, destination = lab.a.vm(**SMALL), lab.b.vm(incoming=True, **SMALL)
            source.qmp("stop")
            receiver, port = lab.b.receive("guest", "--hook", "exit 1")
            failed = lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
            self.assertEqual(failed.returncode, 1)
            self.assertEqual(source.status(), "postmigrate")
            self.assertNotIn("as it was", failed.stderr)
            self.assertNotEqual(receiver.wait(timeout=20), 0)
            again = lab.a.godwit("migrate", "guest", "127.0.0.1:1")
            self.assertEqual(again.returncode, 5)
            for told in (failed.stderr, again.stderr, lab.a.godwit("status", "guest").stdout):
                for word in ("postmigrate", "godwit resume", "QMP 'stop'"):
                    self.assertIn(word, told)
            self.assertIn("this side owns the guest", lab.a.godwit("status", "guest").stdout)
            self.assertEqual(lab.a.godwit("resume", "guest").returncode, 0)
            source.qmp("stop")
            receiver, port = lab.b.receive()
            moved = lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
            self.assertEqual(moved.returncode, 0, moved.stderr)
            self.assertEqual(receiver.wait(timeout=20), 0)
            self.assertEqual(destination.status(), "paused")

    def test_attaching_undoes_what_a_killed_godwit_left(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(**SMALL)
            source.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
            source.qmp("stop")
            self.assertEqual(lab.a.godwit("resume", "guest").returncode, 0)
            self.assertFalse(ignores_shared(source))

    def test_a_receiver_that_is_killed_leaves_no_capability_behind(self):
        """x-ignore-shared is off before the guest may run there, and does not depend on the
        receiver's end."""
        with vmlab.Lab() as lab:
            gate = lab.folder / "gate"
            source, destination, sender, receiver = self.begin(lab, hook=f"until [ -e {gate} ]; do sleep 0.01; done")
            self.assertTrue(ignores_shared(destination))
            sender.send_signal(signal.SIGSTOP)  # no COMMIT comes
            gate.touch()
            vmlab.wait_for(lambda: destination.status() in PAUSED, 20, "the device state being loaded")
            vmlab.wait_for(lambda: not ignores_shared(destination), 10, "x-ignore-shared being off")
            self.assertIsNone(receiver.poll())
            receiver.kill()
            receiver.wait()
            self.assertFalse(ignores_shared(destination))
            vmlab.wait_for(lambda: source.status() == "running", 20, "the guest running on")
            sender.send_signal(signal.SIGCONT)
            self.assertEqual(sender.wait(timeout=20), 1)

    def test_a_paused_guest_and_the_way_to_start_it(self):
        """The side that owns a paused guest says how to start it."""
        with vmlab.Lab() as lab:
            source, destination = lab.a.vm(**SMALL), lab.b.vm(incoming=True, **SMALL)
            receiver, port = lab.b.receive("guest", "--paused")
            self.assertEqual(lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}").returncode, 0)
            self.assertEqual(receiver.wait(timeout=20), 0)
            self.assertIn("'godwit resume guest' starts it", lab.b.godwit("status", "guest").stdout)
            self.assertNotIn("starts it", lab.a.godwit("status", "guest").stdout)
            self.assertEqual(lab.b.godwit("resume", "guest").returncode, 0)
            self.assertEqual(destination.status(), "running")
            told = lab.b.godwit("status", "guest").stdout
            self.assertIn("it was the destination of a migration, resumed", told)
            self.assertNotIn("starts it", told)

    def test_somebody_resumes_the_guest_meanwhile(self):
        for again in (False, True):
            with self.subTest(stopped_again=again), vmlab.Lab() as lab:
                source, destination, sender, receiver = self.begin(lab, hook="sleep 2")
                source.qmp("cont")
                if again:
                    source.qmp("stop")
                self.assertEqual(sender.wait(timeout=30), 1)
                self.assertIn("another QMP client resumed", sender.stderr.read())
                self.assertNotEqual(receiver.wait(timeout=60), 0)
                self.assertEqual(source.status(), "running")
                self.not_started(destination)

    def test_somebody_lets_the_guest_run_at_the_destination(self):
        """Started before the load, or after it: the guest is stopped there, and `status` does not
        call it rightly there."""
        with vmlab.Lab() as lab:
            source, destination, sender, receiver = self.begin(lab, hook="sleep 2")
            sender.send_signal(signal.SIGSTOP)
            destination.qmp("cont")  # QEMU runs it as soon as it is loaded
            vmlab.wait_for(lambda: destination.status() != "inmigrate", 30, "the load")
            self.assertEqual(destination.status(), "paused")
            destination.qmp("cont")  # now the source runs too, or will soon
            vmlab.wait_for(lambda: destination.status() != "running", 20, "the guest being stopped there")
            self.assertNotEqual(receiver.wait(timeout=20), 0)
            self.assertIn("another QMP client", receiver.stderr.read())
            vmlab.wait_for(lambda: source.status() == "running", 20, "the guest running on")
            sender.send_signal(signal.SIGCONT)
            self.assertEqual(sender.wait(timeout=20), 1)
            self.assertEqual(destination.status(), "paused")
            destination.qmp("cont")  # and nobody is left to watch
            told = lab.b.godwit("status", "guest").stdout
            self.assertIn("may run at both", told)
            self.assertNotIn("this side owns", told)

    def test_a_receiver_that_is_killed_and_the_guest_let_run(self):
        with vmlab.Lab() as lab:
            source, destination, sender, receiver = self.begin(lab, hook="sleep 2")
            sender.send_signal(signal.SIGSTOP)
            vmlab.wait_for(lambda: destination.status() == "paused", 30, "the load")
            receiver.kill()
            receiver.wait()
            destination.qmp("cont")
            self.assertEqual(lab.b.status()["state"], "uncertain")
            self.assertIn("may run at both", lab.b.godwit("status", "guest").stdout)

    def test_no_record_no_commit(self):
        """Without room for the record of the owner, the guest stays."""
        run = "run/guest/last.json"
        with vmlab.Lab() as lab, full_later(self, lab.a.folder / "run") as fill:
            source, destination = lab.a.vm(**SMALL), lab.b.vm(incoming=True, **SMALL)
            receiver, port = lab.b.receive()
            sender = lab.a.start("migrate", "--json", "--bandwidth", "64K", "--max-time", "3", "--on-limit", "stop-copy",
                                 "guest", f"127.0.0.1:{port}")
            vmlab.wait_for((lab.a.folder / run).exists, 20, "the first record")
            fill()
            self.assertEqual(sender.wait(timeout=40), 1)
            self.assertIn("record of who owns the guest", sender.stderr.read())
            self.assertEqual(source.status(), "running")
            self.assertNotEqual(receiver.wait(timeout=60), 0)
            self.not_started(destination)

    def test_a_guest_that_came_is_resumed_where_it_came(self):
        with vmlab.Lab() as lab:
            lab.a.vm(**SMALL)
            destination = lab.b.vm(incoming=True, **SMALL)
            receiver, port = lab.b.receive("guest", "--paused")
            self.assertEqual(lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}").returncode, 0)
            self.assertEqual(receiver.wait(timeout=20), 0)
            self.assertEqual(lab.b.godwit("resume", "guest").returncode, 0)
            self.assertEqual(destination.status(), "running")
            record = lab.b.status()
            self.assertEqual((record["role"], record["state"], record["owns_guest"]), ("destination", "resumed", True))

    def test_resume_without_a_record_needs_force(self):
        with vmlab.Lab() as lab:
            source, destination = lab.a.vm(**SMALL), lab.b.vm(incoming=True, **SMALL)
            receiver, port = lab.b.receive()
            self.assertEqual(lab.a.godwit("resume", "guest").returncode, 0)  # it runs already
            waits = lab.b.godwit("resume", "guest")
            self.assertEqual(waits.returncode, 1)
            self.assertIn("waits for a guest", waits.stderr)
            self.assertEqual(lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}").returncode, 0)
            self.assertEqual(receiver.wait(timeout=20), 0)
            record = lab.a.folder / "run" / "guest" / "last.json"
            for text in (None, b"", b"{}", b"\xff\xfe"):
                record.unlink() if text is None else record.write_bytes(text)
                refused = lab.a.godwit("resume", "guest")
                self.assertEqual(refused.returncode, 1, text)
                self.assertIn("--force", refused.stderr)
                self.assertIn("--force", lab.a.godwit("status", "guest").stdout)
                self.assertEqual(source.status(), "postmigrate")

    def test_a_hook_has_a_limit_of_its_own(self):
        with vmlab.Lab() as lab:
            child = lab.folder / "child"
            source, destination, sender, receiver = self.begin(lab, "--hook-limit", "1",
                                                               hook=f"sleep 61 & echo $! > {child}; wait")
            self.assertEqual(sender.wait(timeout=30), 1)
            self.assertIn("--hook-limit", sender.stderr.read())
            self.assertEqual(source.status(), "running")
            self.assertNotEqual(receiver.wait(timeout=30), 0)
            left = Path(f"/proc/{int(child.read_text())}")
            vmlab.wait_for(lambda: not left.exists() or "Z" in (left / "stat").read_text().rsplit(")", 1)[1][:3], 20,
                           "the hook's child ending")

    def test_the_hook_does_not_count_to_the_pause_limit(self):
        with vmlab.Lab() as lab:
            source, destination, sender, receiver = self.begin(lab, "--pause-limit", "2000", "--downtime", "100",
                                                               hook="sleep 3")
            self.assertEqual(sender.wait(timeout=30), 0, sender.stderr.read())
            self.assertEqual(receiver.wait(timeout=20), 0)
            self.assertEqual(destination.status(), "running")

    def test_all_that_a_hook_started_ends_with_it(self):
        """A child that ignores SIGTERM must not act once the source has the guest back, even after
        its shell ended."""
        with vmlab.Lab() as lab:
            acted = lab.folder / "acted"
            source, destination, sender, receiver = self.begin(lab, "--hook-limit", "1",
                                                               hook=f"(trap '' TERM; sleep 5; touch {acted}) & wait")
            self.assertEqual(sender.wait(timeout=30), 1)
            begun = time.monotonic()
            self.assertNotEqual(receiver.wait(timeout=30), 0)
            time.sleep(max(0, 7 - (time.monotonic() - begun)))
            self.assertFalse(acted.exists(), "the hook's child went on")

    def test_a_hook_reads_nothing_from_the_terminal(self):
        with vmlab.Lab() as lab:
            source, destination = lab.a.vm(**SMALL), lab.b.vm(incoming=True, **SMALL)
            read = lab.folder / "read"
            master, slave = os.openpty()
            receiver = subprocess.Popen(["setsid", "-c", str(vmlab.GODWIT), "receive", "--name", "guest", "--listen", "127.0.0.1:0",
                                         "--json", "--hook", f"cat > {read}"], env=lab.b.env, stdin=slave,
                                        stdout=subprocess.PIPE, text=True)
            lab.processes.append(receiver)
            port = int(json.loads(receiver.stdout.readline())["address"].rsplit(":", 1)[1])
            moved = lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
            self.assertEqual(moved.returncode, 0, moved.stderr)
            self.assertEqual(read.read_bytes(), b"")
            receiver.wait(timeout=20)
            os.close(master)
            os.close(slave)

    def test_a_run_folder_that_is_full_at_the_end(self):
        """The record of the end was prepared earlier, so resume here asks for --force."""
        with vmlab.Lab() as lab, full_later(self, lab.a.folder / "run") as fill:
            source, destination, sender, receiver = self.begin(lab, hook="sleep 2")
            fill()
            self.assertEqual(sender.wait(timeout=30), 0, sender.stderr.read())
            self.assertEqual(receiver.wait(timeout=20), 0)
            self.assertFalse(lab.a.status()["owns_guest"])
            self.assertEqual(lab.a.status()["state"], "done")
            refused = lab.a.godwit("resume", "guest")
            self.assertEqual(refused.returncode, 1)
            self.assertIn("--force", refused.stderr)
            self.assertEqual(source.status(), "postmigrate")
            self.assertEqual(destination.status(), "running")

    def test_a_record_that_takes_long_is_not_waited_for_in_the_pause(self):
        with vmlab.Lab() as lab:
            source, destination = lab.a.vm(**SMALL), lab.b.vm(incoming=True, **SMALL)
            receiver, port = lab.b.receive()
            lab.a.env.update(LD_PRELOAD=str(vmlab.BUILD / "tests" / "libslowsync.so"), SLOW_RECORD_MS="3000")
            moved = lab.a.godwit("migrate", "--json", "guest", f"127.0.0.1:{port}")
            self.assertEqual(moved.returncode, 0, moved.stderr)
            self.assertEqual(receiver.wait(timeout=20), 0)
            end = vmlab.summary(moved.stdout)
            self.assertGreater(end["elapsed_ns"], 2.9e9, "no record was slow")
            self.assertLess(end["blackout"]["total_ns"], 2.5e9, "the record stood in the blackout")

    def test_a_vmm_that_hangs_in_stop_is_not_called_dead(self):
        """Its storage hangs longer than all limits; then its end of the lease lets the guest run."""
        work = {"append": "GW_MIB=8 GW_RATE_MIB=2 GW_DISK_MIB=16 GW_DISK_RATE=100", "ram_mib": 128}
        with vmlab.Lab() as lab:
            hangs, images = lab.folder / "hangs", {side: lab.folder / f"{side}.raw" for side in "ab"}
            for image in images.values():
                image.touch()
                os.truncate(image, 64 << 20)
            drive = {side: ["-drive", f"file={images[side]},format=raw,if=virtio,id=disk0"] for side in "ab"}
            before = dict(lab.a.env)
            lab.a.env.update(LD_PRELOAD=str(vmlab.BUILD / "tests" / "libslowsync.so"), SLOW_RECORD_MS="8000", SLOW_RECORD_IF=str(hangs))
            source = lab.a.vm(extra=drive["a"], **work)
            lab.a.env = before
            lab.b.vm(incoming=True, extra=drive["b"], **work)
            vmlab.wait_for(lambda: any("GUEST DISK 10" in line for line in source.lines()), 60, "records")
            receiver, port = lab.b.receive()
            hangs.touch()
            moved = lab.a.godwit("migrate", "-b", "--no-rehearsal", "--pause-limit", "1500", "--on-limit", "stop-copy", "guest",
                                 f"127.0.0.1:{port}")
            self.assertEqual(moved.returncode, 1, moved.stderr)
            self.assertNotIn("gone", moved.stderr)
            hangs.unlink()
            at = source.count()
            source.wait_count(at + 5, 60)
            self.assertTrue(lab.a.status()["owns_guest"])
            receiver.wait(timeout=60)

    def test_a_peer_that_stands_still_in_the_blackout(self):
        with vmlab.Lab() as lab:
            source, destination, sender, receiver = self.begin(lab, "--pause-limit", "1500", "--downtime", "100")
            receiver.send_signal(signal.SIGSTOP)
            vmlab.wait_for(lambda: source.status() == "running", 20, "the guest running on")
            self.assertEqual(sender.wait(timeout=20), 1)
            self.assertIn("silent", sender.stderr.read())
            for told in (lab.b.godwit("status", "guest").stdout, lab.b.godwit("cancel", "guest").stderr):
                self.assertIn("receives", told)
                self.assertIn(f"process {receiver.pid}", told)
                self.assertNotIn("had paused", " ".join(told.split()))
            receiver.send_signal(signal.SIGCONT)
            self.assertNotEqual(receiver.wait(timeout=30), 0)
            self.not_started(destination)

    def test_a_frozen_vmm_holds_up_nobody(self):
        with vmlab.Lab() as lab:
            lab.a.vm(name="well", **SMALL)
            frozen = lab.a.vm(name="frozen", **SMALL)
            frozen.process.send_signal(signal.SIGSTOP)
            for _ in range(4):  # more than its backlog takes
                listed = lab.a.godwit("list", "--json", timeout=30)
            found = {vm["name"]: vm["state"] for vm in json.loads(listed.stdout)}
            self.assertEqual(found["well"], "running")
            self.assertEqual(found["frozen"], "no answer")
            self.assertIn("not answering", lab.a.godwit("status", "frozen", timeout=30).stdout)
            frozen.process.send_signal(signal.SIGCONT)

    def test_a_guest_that_cannot_be_started_there(self):
        """The destination owns the guest, and both ends say so by an exit status and a state of
        their own."""
        with vmlab.Lab() as lab:
            images = [lab.folder / f"{side}.raw" for side in "ab"]
            for image in images:
                image.write_bytes(bytes(1 << 20))  # shared storage, for godwit
            disk = ["-drive", f"file={images[0]},format=raw,if=virtio,id=d"]
            other = ["-drive", f"file={images[1]},format=raw,if=virtio,id=d"]
            source, destination = lab.a.vm(extra=disk, **SMALL), lab.b.vm(incoming=True, extra=other, **SMALL)
            holder = ("import fcntl, os, struct, sys, time; fd = os.open(sys.argv[1], os.O_RDWR); "
                      "fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 201, 1, 0)); "
                      "fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 100, 100, 0)); "
                      "open(sys.argv[2], 'w').close(); time.sleep(60)")
            locked = lab.folder / "locked"
            hook = f"python3 -c \"{holder}\" {images[1]} {locked} & while ! [ -e {locked} ]; do sleep 0.05; done"
            receiver, port = lab.b.receive("guest", "--hook", hook)
            sender = lab.a.godwit("migrate", "--json", "guest", f"127.0.0.1:{port}")
            self.assertEqual(sender.returncode, 6, sender.stderr)
            self.assertEqual(vmlab.summary(sender.stdout)["state"], "not-started")
            self.assertIn("could not start it", sender.stderr)
            self.assertEqual(receiver.wait(timeout=20), 6)
            self.assertFalse(lab.a.status()["owns_guest"])
            self.assertTrue(lab.b.status()["owns_guest"])
            self.assertEqual(source.status(), "postmigrate")


class RunStates(unittest.TestCase):
    """The run states of QEMU: some migrate and arrive unchanged, the others are refused by name,
    with advice."""

    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        for side in "ab":
            (self.lab.folder / f"{side}.raw").write_bytes(WAITS_FOR_A_KEY.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
        self.source, self.destination = self.vm(self.lab.a), self.vm(self.lab.b, incoming=True)

    def vm(self, host, **options):
        boot = ["-drive", f"if=none,id=d,format=raw,readonly=on,file={self.lab.folder}/{host.name}.raw", "-device",
                "virtio-blk-pci,drive=d,bootindex=1", "-device", "pvpanic", "-action", "panic=pause,shutdown=pause"]
        return host.vm(extra=boot, **SMALL, **options)

    def press(self, key, state):
        """Waits until the guest is in that state: the firmware takes the first keys."""
        def came():
            if self.source.status() == "running":
                self.source.qmp("send-key", keys=[{"type": "qcode", "data": key}])
            return self.source.status() == state
        vmlab.wait_for(came, 30, state, interval=0.2)

    def refused(self, state, advice):
        again = self.lab.a.godwit("migrate", "guest", "127.0.0.1:1")
        self.assertEqual(again.returncode, 5, again.stderr)
        self.assertIn(f"'{state}'", again.stderr)
        self.assertIn(advice, again.stderr)
        self.assertEqual(self.source.status(), state)

    def test_a_guest_that_sleeps_is_refused_at_the_start_and_before_the_pause(self):
        self.press("s", "suspended")
        self.refused("suspended", "system_wakeup")
        self.source.qmp("system_wakeup")
        vmlab.wait_for(lambda: self.source.status() == "running", 20, "the guest being awake")
        receiver, port = self.lab.b.receive()
        sender = self.lab.a.start("migrate", "--json", "--bandwidth", "64K", "--max-time", "4", "--on-limit", "stop-copy",
                                  "guest", f"127.0.0.1:{port}")
        vmlab.wait_for(lambda: self.lab.a.status().get("state") in ("bulk", "rounds"), 20, "the copy")
        self.press("s", "suspended")
        self.assertEqual(sender.wait(timeout=30), 1)
        self.assertIn("system_wakeup", sender.stderr.read())
        self.assertEqual(self.source.status(), "suspended")
        self.assertNotEqual(receiver.wait(timeout=30), 0)
        self.source.qmp("system_wakeup")
        vmlab.wait_for(lambda: self.source.status() == "running", 20, "the guest being awake")

    def test_a_guest_that_shut_down_is_refused_and_one_that_panicked_arrives_so(self):
        self.press("q", "shutdown")
        self.refused("shutdown", "system_reset")
        self.source.qmp("system_reset")
        self.source.qmp("cont")
        self.press("p", "guest-panicked")
        receiver, port = self.lab.b.receive()
        moved = self.lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
        self.assertEqual(moved.returncode, 0, moved.stderr)
        self.assertEqual(receiver.wait(timeout=20), 0)
        self.assertEqual(self.destination.status(), "guest-panicked")

    def test_a_guest_that_never_ran_arrives_so(self):
        self.source.kill()
        self.source = self.vm(self.lab.a, paused=True)
        self.assertEqual(self.source.status(), "prelaunch")
        receiver, port = self.lab.b.receive()
        moved = self.lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
        self.assertEqual(moved.returncode, 0, moved.stderr)
        self.assertEqual(receiver.wait(timeout=20), 0)
        self.assertIn(self.destination.status(), ("prelaunch", "paused"))
        self.destination.qmp("cont")
        self.assertEqual(self.destination.status(), "running")


if __name__ == "__main__":
    runner.main()
