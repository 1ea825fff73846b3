#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mistakes of users: a clear error, the guest untouched, nothing lost."""

import contextlib
import fcntl
import os
import resource
import socket
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

IDLE = {"guest": False, "paused": True, "ram_mib": 64}


class CommandLine(unittest.TestCase):
    def test_usage_errors_exit_2_and_say_what(self):
        with vmlab.Lab() as lab:
            for args, word in ((["migrate"], "name and a URI"), (["migrate", "--channels", "0", "a", "b"], "1 to 32"),
                               (["migrate", "--bandwidth", "fast", "a", "b"], "10Gbit"),
                               (["migrate", "--on-limit", "x", "a", "b"], "stop-copy"),
                               (["migrate", "--fault", "x", "a", "b"], "cut@N"), (["fly"], "--help"),
                               (["receive", "--name", "a"], "address"), (["run", "--name", "a"], "VMM"),
                               (["status"], "name"), (["list", "--what"], "--help"),
                               (["migrate", "--downtime"], "needs a value"),
                               (["run", "--name", "../x", "--", "qemu-system-x86_64"], "no name")):
                done = lab.a.godwit(*args)
                self.assertEqual(done.returncode, 2, args)
                self.assertIn(word, done.stderr, args)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_run_prints_the_very_arguments_to_add(self):
        with vmlab.Lab() as lab:
            done = lab.a.godwit("run", "--check", "--name", "web", "--", "qemu-system-x86_64", "-m", "3G")
            self.assertEqual(done.returncode, 2)
            advice = done.stderr.strip().splitlines()[-1].split()
            self.assertIn("memory-backend-file,id=ram0,size=3G,mem-path=/dev/shm,share=on", advice)
            again = lab.a.godwit("run", "--check", "--name", "web", "--", "qemu-system-x86_64", "-m", "3G", *advice)
            self.assertEqual(again.returncode, 0, again.stderr)

    def test_no_such_vm(self):
        with vmlab.Lab() as lab:
            for args in (["migrate", "ghost", "127.0.0.1:1"], ["migrate", "-d", "ghost", "127.0.0.1:1"],
                         ["receive", "--name", "ghost", "--listen", "127.0.0.1:0"], ["status", "ghost"],
                         ["cancel", "ghost"], ["resume", "ghost"]):
                done = lab.a.godwit(*args)
                self.assertEqual(done.returncode, 5, args)
                self.assertIn("ghost", done.stderr)

    def test_a_vm_not_started_by_godwit_run(self):
        with vmlab.Lab() as lab:
            lab.a.vm("plain", with_godwit=False, **IDLE)
            done = lab.a.godwit("migrate", "plain", "127.0.0.1:1")
            self.assertEqual(done.returncode, 5)
            self.assertIn("godwit run", done.stderr)

    def test_a_name_is_taken_once(self):
        with vmlab.Lab() as lab:
            vm = lab.a.vm(**IDLE)
            done = lab.a.godwit("run", "--name", "guest", "--", vmlab.QEMU, "-m", "64M", "-object",
                                "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm/x,share=on", "-machine",
                                "memory-backend=ram0")
            self.assertEqual(done.returncode, 5)
            self.assertIn("runs already", done.stderr)
            self.assertEqual(vm.status(), "prelaunch")

    def test_a_cleaner_of_tmp_makes_no_vm_gone(self):
        """A name is also taken if a VM of an earlier version has it, whose lock is a file that may
        be deleted."""
        with vmlab.Lab() as lab, contextlib.ExitStack() as stack:
            run = [vmlab.QEMU, "-m", "64M", "-object", "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm/x,share=on", "-machine",
                   "memory-backend=ram0"]
            vm = lab.a.vm(**IDLE)
            root = Path(lab.a.env["GODWIT_RUN_DIR"])
            sockets = {path: path.stat().st_ino for path in (root / "guest").glob("*.sock")}
            (root / "guest" / "lock").unlink()
            for name in ("older", "oldest"):
                (root / name).mkdir()
                file = stack.enter_context(open(root / name / "lock", "w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            (root / "oldest" / "lock").unlink()
            agent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            agent.bind(str(root / "oldest" / "agent.sock"))
            agent.listen()
            for name in ("guest", "older", "oldest"):
                done = lab.a.godwit("run", "--name", name, "--", *run)
                self.assertEqual(done.returncode, 5, name)
                self.assertIn("runs already", done.stderr, name)
                self.assertIn(name, lab.a.godwit("list").stdout)
            self.assertEqual(sockets, {path: path.stat().st_ino for path in (root / "guest").glob("*.sock")})
            self.assertEqual(lab.a.status()["vmm"], "prelaunch")
            self.assertIn("nothing listens", lab.a.godwit("migrate", "guest", "tcp:127.0.0.1:1").stderr)
            vm.kill()
            self.assertNotIn("guest", lab.a.godwit("list").stdout)


class Destinations(unittest.TestCase):
    def untouched(self, source, was):
        self.assertEqual(source.status(), was)

    def refused(self, lab, source, uri, word, code=1):
        was = source.status()
        done = lab.a.godwit("migrate", "guest", uri)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(word, done.stderr)
        self.untouched(source, was)

    def test_unreachable_and_refusing(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(**IDLE)
            self.refused(lab, source, "127.0.0.1:1", "godwit receive")
            self.refused(lab, source, "no-such-host.invalid:4444", "resolved")
            self.refused(lab, source, "nonsense", "HOST:PORT", code=2)
            self.refused(lab, source, "rdma:127.0.0.1:4444", "tcp:")

    def test_ram_of_another_size_name_or_guest(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(**IDLE)
            lab.b.vm("big", incoming=True, **dict(IDLE, ram_mib=128))
            receiver, port = lab.b.receive("big", "--guest", "guest")
            self.refused(lab, source, f"127.0.0.1:{port}", "same size")
            # The receiver survives the refusal and waits on at the same port.
            self.refused(lab, source, f"127.0.0.1:{port}", "same size")
            self.assertIsNone(receiver.poll())
            receiver.kill()
            small = lab.b.vm("small", incoming=True, **IDLE)
            receiver, port = lab.b.receive("small")
            self.refused(lab, source, f"127.0.0.1:{port}", "does not wait for this guest")
            receiver.kill()
            small.kill()
            other = lab.b.vm("named", incoming=True, ram_mib=64, guest=False, paused=True,
                             extra=["-object", "memory-backend-file,id=more,size=16M,share=on,mem-path=/dev/shm/gw-"
                                    f"{os.getpid()}-more.ram"])
            lab.files.append(Path(f"/dev/shm/gw-{os.getpid()}-more.ram"))
            receiver, port = lab.b.receive("named", "--guest", "guest")
            self.refused(lab, source, f"127.0.0.1:{port}", "regions of RAM")
            self.assertEqual(other.status(), "inmigrate")

    def test_a_destination_that_already_runs(self):
        with vmlab.Lab() as lab:
            lab.b.vm(**IDLE)
            done = lab.b.godwit("receive", "--name", "guest", "--listen", "127.0.0.1:0")
            self.assertEqual(done.returncode, 5)
            self.assertIn("-incoming defer", done.stderr)

    def test_remote_addresses_need_insecure(self):
        with vmlab.Lab() as lab:
            lab.b.vm(incoming=True, **IDLE)
            done = lab.b.godwit("receive", "--name", "guest", "--listen", "0.0.0.0:0")
            self.assertEqual(done.returncode, 1)
            self.assertIn("--insecure", done.stderr)

    def test_migrate_twice_at_once(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(append="GW_MIB=16")
            destination = lab.b.vm(append="GW_MIB=16", incoming=True)
            source.wait_count(3)
            receiver, port = lab.b.receive()
            sender = lab.a.start("migrate", "--json", "--bandwidth", "20M", "guest", f"127.0.0.1:{port}")
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 10, "bulk")
            second = lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
            self.assertEqual(second.returncode, 5)
            self.assertIn("another godwit", second.stderr)
            self.assertEqual(sender.wait(timeout=60), 0)
            self.assertEqual(receiver.wait(timeout=10), 0)
            destination.counts_on()

    def test_nobody_reads_what_is_said(self):
        """A full pipe blocks neither end: lines are left out, and the summary comes when somebody
        reads."""
        with vmlab.Lab() as lab:
            source = lab.a.vm(append="GW_MIB=16")
            destination = lab.b.vm(append="GW_MIB=16", incoming=True)
            source.wait_count(3)
            receiver, port = lab.b.receive()
            sender = lab.a.start("migrate", "--json", "-v", "--bandwidth", "20M", "guest", f"127.0.0.1:{port}")
            for pipe in (sender.stdout, sender.stderr, receiver.stdout, receiver.stderr):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
            vmlab.wait_for(lambda: destination.status() == "running", 60, "the guest over there")
            destination.counts_on()
            out, _ = sender.communicate(timeout=10)
            self.assertEqual((sender.returncode, vmlab.summary(out)["state"]), (0, "done"))
            receiver.communicate(timeout=10)
            self.assertEqual(receiver.returncode, 0)

    def test_a_vmm_with_no_room_for_files(self):
        """One descriptor more at each attempt.  Until there are enough, each attempt is an error
        and leaves the guest untouched."""
        with vmlab.Lab() as lab:
            source = lab.a.vm(append="GW_MIB=16")
            destination = lab.b.vm(append="GW_MIB=16", incoming=True)
            source.wait_count(3)
            pid, codes = source.process.pid, []
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
            free = [n for n in range(len(used) + 20) if n not in used]
            for limit in free[2:14]:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
                receiver, port = lab.b.receive()
                done = lab.a.godwit("migrate", "--quiet", "guest", f"127.0.0.1:{port}", timeout=60)
                codes.append(done.returncode)
                if done.returncode == 0:
                    break
                self.assertRegex(done.stderr, "[Tt]oo many (open files|files open)")
                receiver.kill()
                receiver.wait()
                source.counts_on()
            self.assertGreater(len(codes), 3)
            self.assertEqual(codes[-1], 0)
            receiver.communicate(timeout=20)
            destination.counts_on()
            self.assertEqual(destination.wrong(), "")

    def test_devices_that_write_unseen(self):
        with vmlab.Lab() as lab:
            image, sock = lab.folder / "vub.img", lab.folder / "vub.sock"
            with open(image, "wb") as file:
                file.truncate(16 << 20)
            server = subprocess.Popen(["qemu-storage-daemon", "--blockdev", f"driver=file,filename={image},node-name=disk",
                                       "--export", f"type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,"
                                       f"addr.path={sock}"])
            lab.processes.append(server)
            vmlab.wait_for(sock.exists, 20, "the back end")
            shared = f"/dev/shm/gw-{os.getpid()}-shared.ram"
            lab.files.append(Path(shared))
            devices = ["-chardev", f"socket,id=c,path={sock}", "-device", "vhost-user-blk-pci,chardev=c,id=far"]
            source = lab.a.vm(append="GW_MIB=16", extra=devices)
            source.wait_count(3)
            self.refused(lab, source, "127.0.0.1:1", "device 'far' (vhost-user-blk-pci)", code=5)
            done = lab.a.godwit("migrate", "--allow-untracked", "other,far", "guest", "127.0.0.1:1")
            self.assertNotIn("far", done.stderr)
            self.assertEqual(done.returncode, 1, "it got as far as connecting")
        with vmlab.Lab() as lab:
            lab.files.append(Path(shared))
            source = lab.a.vm(append="GW_MIB=16", extra=[
                "-object", f"memory-backend-file,id=shm,share=on,mem-path={shared},size=1M", "-device",
                "ivshmem-plain,memdev=shm,id=window"])
            source.wait_count(3)
            self.refused(lab, source, "127.0.0.1:1", "device 'window' (ivshmem-plain)", code=5)
        with vmlab.Lab() as lab:
            sock = lab.folder / "crypto.sock"
            source = lab.a.vm(append="GW_MIB=16", extra=["-chardev", f"socket,id=c,path={sock},server=on,wait=off", "-object",
                                                         "cryptodev-vhost-user,id=crypto,chardev=c"])
            source.wait_count(3)
            self.refused(lab, source, "127.0.0.1:1", "device 'crypto' (cryptodev-vhost-user)", code=5)

    def test_a_device_that_writes_unseen_is_plugged_in_meanwhile(self):
        with vmlab.Lab() as lab:
            def port(side):
                shared = Path(f"/dev/shm/gw-{os.getpid()}-window-{side}.ram")
                lab.files.append(shared)
                return ["-device", "pcie-root-port,id=rp0,slot=1", "-object",
                        f"memory-backend-file,id=shm,share=on,mem-path={shared},size=1M"]

            source = lab.a.vm(append="GW_MIB=32", extra=port("a"))
            lab.b.vm(append="GW_MIB=32", incoming=True, extra=port("b"))
            source.wait_count(3)
            receiver, number = lab.b.receive()
            sender = lab.a.start("migrate", "--quiet", "--bandwidth", "20M", "guest", f"127.0.0.1:{number}")
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 10, "bulk")
            source.qmp("device_add", driver="ivshmem-plain", id="window", memdev="shm", bus="rp0")
            _, err = sender.communicate(timeout=120)
            receiver.communicate(timeout=60)
            self.assertEqual(sender.returncode, 1)
            self.assertIn("device 'window' (ivshmem-plain)", err)
            source.counts_on()

    def test_memory_that_is_plugged_in_meanwhile(self):
        more = f"/dev/shm/gw-{os.getpid()}-plugged.ram"
        with vmlab.Lab() as lab:
            lab.files.append(Path(more))
            source = lab.a.vm(append="GW_MIB=32", extra=["-m", "256M,slots=2,maxmem=1G"])
            lab.b.vm(append="GW_MIB=32", incoming=True, extra=["-m", "256M,slots=2,maxmem=1G"])
            source.wait_count(3)
            receiver, port = lab.b.receive()
            sender = lab.a.start("migrate", "--quiet", "--bandwidth", "20M", "guest", f"127.0.0.1:{port}")
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 10, "bulk")
            source.qmp("object-add", **{"qom-type": "memory-backend-file", "id": "more", "size": 128 << 20, "mem-path": more,
                                        "share": True})
            source.qmp("device_add", driver="pc-dimm", id="dimm", memdev="more")
            _, err = sender.communicate(timeout=120)
            receiver.communicate(timeout=60)
            self.assertEqual(sender.returncode, 1)
            self.assertIn("memory was plugged in or out in mid-migration", err)
            source.counts_on()

    def test_destination_out_of_memory(self):
        with vmlab.Lab() as lab:
            small = lab.folder / "small"
            small.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(small)],
                              capture_output=True).returncode:
                self.skipTest("a tmpfs cannot be mounted here")
            try:
                source = lab.a.vm(append="GW_MIB=32")
                lab.b.vm(append="GW_MIB=32", incoming=True, ram=small / "ram")
                source.wait_count(3)
                receiver, port = lab.b.receive()
                done = lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
                self.assertEqual(done.returncode, 1)
                self.assertIn("no memory left", done.stderr)
                self.assertEqual(receiver.wait(timeout=10), 1)
                source.counts_on()
                self.assertEqual(source.wrong(), "")
            finally:
                lab.close()
                subprocess.run(["umount", str(small)], check=False)


if __name__ == "__main__":
    runner.main()
