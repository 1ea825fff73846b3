#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many guests at once, one guest many times, and a godwit whose terminal goes away."""

import mmap
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

MIB = 1 << 20
GUESTS = 20
LEGS = 20
COMPARE = vmlab.BUILD / "perf" / "ramcmp"
PLACE = (8 * MIB, 20 * MIB)  # of a guest of 32 MiB; its firmware uses the memory before and after


def fill(vm):
    """Writes random bytes to the guest's memory.  No tracker sees that, so it is for before a
    migration only.  Return: the bytes."""
    first, last = PLACE
    with open(vm.ram, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[first:last] = os.urandom(last - first)
        return memory[first:last]


def holds(vm, content):
    with open(vm.ram, "rb") as file:
        file.seek(PLACE[0])
        return file.read(len(content)) == content


class Many(unittest.TestCase):
    def pair(self, lab, name="guest"):
        """Two VMMs; firmware runs in the source's."""
        return [host.vm(name, guest=False, ram_mib=32, incoming=host is lab.b) for host in (lab.a, lab.b)]

    def test_many_guests_at_once(self):
        with vmlab.Lab() as lab:
            names = [f"guest{n}" for n in range(GUESTS)]
            pairs = [self.pair(lab, name) for name in names]
            contents = [fill(source) for source, _ in pairs]
            receivers = [lab.b.receive(name, "--quiet") for name in names]
            senders = [lab.a.start("migrate", "--quiet", "--bandwidth", "20M", name, f"127.0.0.1:{port}")
                       for name, (_, port) in zip(names, receivers)]
            for sender, (receiver, _), (source, destination), content in zip(senders, receivers, pairs, contents):
                _, err = sender.communicate(timeout=120)
                receiver.communicate(timeout=60)
                self.assertEqual((sender.returncode, receiver.returncode), (0, 0), err)
                self.assertEqual((source.status(), destination.status()), ("postmigrate", "running"))
                self.assertTrue(holds(destination, content), "another guest's bytes, or none")

    def test_more_disks_than_a_word_has_bits(self):
        """40 disks: all of them move, or only the last one."""
        disks = [f"disk{n}" for n in range(40)]
        for chosen in (disks, disks[-1:]):
            with vmlab.Lab() as lab:
                vms = {}
                for host in (lab.a, lab.b):
                    drives = []
                    for disk in disks:
                        image = host.folder / disk
                        image.write_bytes(os.urandom(100 * 512) if host is lab.a else b"")
                        drives += ["-drive", f"if=none,id={disk},format=raw,file={image}"]
                    vms[host.name] = host.vm(guest=False, paused=True, ram_mib=32, incoming=host is lab.b, extra=drives)
                receiver, port = lab.b.receive("guest", "--quiet")
                sender = lab.a.godwit("migrate", "-b", "--quiet", *(["--disk", chosen[0]] if len(chosen) == 1 else []),
                                      "guest", f"127.0.0.1:{port}")
                receiver.communicate(timeout=60)
                self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr)
                for disk in disks:
                    there = (lab.b.folder / disk).read_bytes()
                    self.assertEqual(there, (lab.a.folder / disk).read_bytes() if disk in chosen else b"", disk)

    def test_an_allocator_that_gives_memory_back_by_our_hooks(self):
        """The agent and the VMM live on: fork() takes the shim's locks."""
        with vmlab.Lab() as lab:
            lab.a.env["LD_PRELOAD"] = str(vmlab.BUILD / "tests" / "libunmaps.so")
            lab.b.env["LD_PRELOAD"] = lab.a.env["LD_PRELOAD"]
            source, destination = self.pair(lab)
            del lab.a.env["LD_PRELOAD"], lab.b.env["LD_PRELOAD"]
            for ends, fault in ((1, ["--fault", "cut@40"]), (0, [])):
                receiver, port = lab.b.receive("guest", "--quiet")
                sender = lab.a.start("migrate", "--quiet", *fault, "guest", f"127.0.0.1:{port}")
                _, err = sender.communicate(timeout=120)
                receiver.communicate(timeout=60)
                self.assertEqual(sender.returncode, ends, err)
            destination.qmp("migrate", uri="exec:cat >/dev/null")
            self.assertEqual(source.status(), "postmigrate")
            vmlab.wait_for(lambda: destination.status() == "postmigrate", 60, "QEMU's own migration, by a process of its own")
            for host in (lab.a, lab.b):
                self.assertIn("'postmigrate'", host.godwit("migrate", "guest", "tcp:127.0.0.1:1").stderr)

    def test_there_and_back_again_and_again(self):
        """Each leg goes into a new VMM, whose memory file and image hold the content of an earlier
        stay."""
        work = {"append": "GW_MIB=8 GW_RATE_MIB=8 GW_DISK_MIB=4 GW_DISK_RATE=100", "ram_mib": 96}
        folder = vmlab.BUILD / f"legs-{os.getpid()}"
        folder.mkdir()
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", folder], check=True))
        for side in "ab":
            with open(folder / side, "wb") as file:
                file.truncate(8 * MIB)

        def start(host, **options):
            return host.vm(extra=["-drive", f"file={folder / host.name},format=raw,if=virtio,id=disk0,cache=none"], **work, **options)

        with vmlab.Lab() as lab:
            here, there = lab.a, lab.b
            vm = start(here)
            vm.wait_count(5)
            for leg in range(LEGS):
                new = start(there, incoming=True)
                receiver, port = there.receive("guest", "--quiet", "--overwrite", "--hook",
                                               f"{COMPARE} {vm.ram} {new.ram} && cmp {folder}/a {folder}/b")
                sender = here.godwit("migrate", "-b", "--quiet", "guest", f"127.0.0.1:{port}")
                receiver.communicate(timeout=60)
                self.assertEqual((sender.returncode, receiver.returncode), (0, 0), f"leg {leg}: {sender.stderr}")
                left_at = vm.count()
                vm.kill()
                new.wait_count(left_at + 1)
                here, there, vm = there, here, new
            vm.wait_count(vm.count() + 12)  # one pass over its whole memory
            vm.wait_verified()
            self.assertEqual(vm.wrong(), "")


class Terminals(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        self.source, self.destination = (host.vm(guest=False, ram_mib=32, incoming=host is self.lab.b)
                                         for host in (self.lab.a, self.lab.b))
        self.content = fill(self.source)

    def begin(self, phase, **streams):
        """A migration that stays in a phase for a second or two."""
        hook = ["--hook", "sleep 2"] if phase == "blackout" else []
        self.receiver, port = self.lab.b.receive("guest", "--quiet", *hook)
        limit = ["--bandwidth", "8M"] if phase == "bulk" else []
        sender = subprocess.Popen([str(vmlab.GODWIT), "migrate", "--json", "-v", *limit, "guest", f"127.0.0.1:{port}"],
                                  env=self.lab.a.env, **streams)
        self.lab.processes.append(sender)
        if phase == "bulk":
            vmlab.wait_for(lambda: self.lab.a.status().get("put_bytes", 0) > MIB, 20, "bulk")
        else:
            vmlab.wait_for(lambda: self.source.status() in ("paused", "postmigrate", "finish-migrate"), 20, "blackout")
        return sender

    def check_arrived(self, sender):
        self.assertEqual((sender.wait(timeout=60), self.receiver.wait(timeout=60)), (0, 0))
        self.assertEqual((self.source.status(), self.destination.status()), ("postmigrate", "running"))
        self.assertTrue(holds(self.destination, self.content))

    def test_a_terminal_that_wants_it_stopped(self):
        """SIGTSTP, as ^Z sends it.  A godwit that obeyed would keep the guest paused."""
        for phase in ("bulk", "blackout"):
            with self.subTest(phase=phase):
                sender = self.begin(phase, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                sender.send_signal(signal.SIGTSTP)
                time.sleep(0.2)
                state = Path(f"/proc/{sender.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
                self.assertIn(state, "RSD", "stopped, or at its end already")
                self.check_arrived(sender)
            self.doCleanups()
            self.setUp()

    def test_a_terminal_that_hangs_up(self):
        """SIGHUP ends the migration in good order."""
        for phase in ("bulk", "blackout"):
            with self.subTest(phase=phase):
                sender = self.begin(phase, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                sender.send_signal(signal.SIGHUP)
                self.assertEqual(sender.wait(timeout=40), 3)
                vmlab.wait_for(lambda: self.source.status() == "running", 20, "the guest running on")
                self.receiver.communicate(timeout=60)
                self.assertNotEqual(self.destination.status(), "running")
            self.doCleanups()
            self.setUp()

    def test_output_that_goes_nowhere(self):
        reading, writing = os.pipe()
        os.close(reading)
        for what, streams in (("no stdout", {"preexec_fn": lambda: os.close(1)}),
                              ("a broken pipe", {"stdout": writing, "stderr": writing})):
            with self.subTest(what):
                self.check_arrived(self.begin("bulk", **streams))
            self.doCleanups()
            self.setUp()
        os.close(writing)

    def test_no_standard_stream_at_all(self):
        """A descriptor of guest memory must not get the number of a closed standard stream: output
        would go to guest memory."""
        source = self.lab.a.vm("still", guest=False, ram_mib=32, paused=True)
        self.lab.b.vm("still", guest=False, ram_mib=32, incoming=True)
        fill(source)
        before = source.ram.read_bytes()
        receiver, port = self.lab.b.receive("still")
        done = subprocess.run([str(vmlab.GODWIT), "migrate", "--json", "-v", "--fault", "fail@12", "still", f"127.0.0.1:{port}"],
                              env=self.lab.a.env, preexec_fn=lambda: os.closerange(0, 3), timeout=60)
        self.assertEqual((done.returncode, vmlab.ended(receiver)[0]), (1, "waits"))
        self.assertTrue(source.ram.read_bytes() == before, "the guest's memory has the words that were printed")


if __name__ == "__main__":
    runner.main()
