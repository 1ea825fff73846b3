#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command line of `godwit run`: the VMM itself, movable, or with one warning that says why it
cannot be moved."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

QUIET = ["-accel", vmlab.ACCEL, "-nodefaults", "-display", "none", "-S"]


def ram(lab, word):
    """Arguments for 64 MiB of RAM in a shared file."""
    path = Path(f"/dev/shm/gw-{os.getpid()}-{word}.ram")
    lab.files.append(path)
    return ["-machine", "q35,memory-backend=ram0", "-m", "64M", "-object",
            f"memory-backend-file,id=ram0,size=64M,mem-path={path},share=on"]


def judged(host, name):
    """Waits until the observer of a VM has ended: until then it holds a lock."""
    def is_free():
        try:
            with open(host.folder / "run" / name / "judge", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return True
        except (FileNotFoundError, BlockingIOError):
            return False
    vmlab.wait_for(is_free, 90, f"{name} judged")


def children(pid):
    """Processes whose parent is pid, zombies too."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(stat.parent.name)
        except (OSError, ValueError):
            pass
    return found


def listed(host, name):
    return [vm for vm in json.loads(host.godwit("list", "--json").stdout) if vm["name"] == name]


class Judged(unittest.TestCase):
    """A VMM that cannot be moved starts all the same, and one line says why.  One that can be moved
    prints nothing."""

    def start(self, lab, name, words, run=(), shim=None):
        env = dict(lab.a.env, GODWIT_SHIM=str(shim)) if shim else lab.a.env
        with open(lab.folder / f"{name}.err", "wb") as log:
            process = subprocess.Popen([vmlab.GODWIT, "run", "--name", name, *run, "--", vmlab.QEMU, *QUIET, *words],
                                       env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        lab.processes.append(process)
        return process

    def cases(self, lab):
        """Name, words of the command line, the words of that line, the shim."""
        shared, config, jail = ram(lab, "dimm")[-1].replace("ram0", "d0"), lab.folder / "config", lab.folder / "jail"
        jail.mkdir()
        config.write_text('[memory]\n  size = "64M"\n')
        odd = [lab.folder / "a space" / "libgodwit-shim.so", lab.folder / "a:colon" / "libgodwit-shim.so"]
        for path in odd:
            path.parent.mkdir()
            path.symlink_to(vmlab.BUILD / "lib" / "libgodwit-shim.so")
        return [("movable", ram(lab, "movable"), None, None),
                ("config", [*ram(lab, "config"), "-readconfig", config], None, None),
                ("configram", ["-readconfig", config], "pc.ram", None),
                ("plain", ["-m", "64M"], "memory-backend-file,id=ram0,size=64M", None),
                ("memfd", ["-m", "64M", "-machine", "q35,memory-backend=m", "-object",
                           "memory-backend-memfd,id=m,size=64M,share=on"], "memory-backend-memfd", None),
                ("private", [word.replace("share=on", "share=off") for word in ram(lab, "private")], "share=on", None),
                ("dimm", ["-m", "64M,slots=2,maxmem=1G", "-object", shared.replace("64M", "128M"), "-device",
                          "pc-dimm,memdev=d0"], "pc.ram", None),
                ("runas", [*ram(lab, "runas"), "-runas", "nobody"], "-runas", None),
                ("chroot", [*ram(lab, "chroot"), "-chroot", jail], "-chroot", None),
                ("ivshmem", [*ram(lab, "ivshmem"), "-object", f"{ram(lab, 'peer')[-1].replace('ram0', 'peer')}",
                             "-device", "ivshmem-plain,memdev=peer,id=iv"], "--allow-untracked iv", None),
                ("space", ram(lab, "space"), "GODWIT_SHIM", odd[0]),
                ("colon", ram(lab, "colon"), "GODWIT_SHIM", odd[1])]

    def test_a_vmm_that_cannot_be_moved_starts_with_one_warning(self):
        with vmlab.Lab() as lab:
            cases = self.cases(lab)
            processes = {case[0]: self.start(lab, case[0], case[1], shim=case[3]) for case in cases}
            for name, _, says, shim in cases:
                if not shim:
                    judged(lab.a, name)
                lines = vmlab.wait_for((lab.folder / f"{name}.err").read_text, 30, name) if says else \
                    (lab.folder / f"{name}.err").read_text()
                with self.subTest(name=name, lines=lines):
                    self.assertEqual(lines.count("\n"), 1 if says else 0)
                    self.assertIn(f"godwit run: '{name}' runs, but cannot be moved: " if says else "", lines)
                    self.assertIn(says or "", lines)
                    self.assertIsNone(processes[name].poll())
                    self.assertEqual(Path(f"/proc/{processes[name].pid}/comm").read_text()[:11], "qemu-system")
                    self.assertEqual(children(processes[name].pid), [])
                    processes[name].terminate()
            for name, process in processes.items():
                self.assertEqual(process.wait(60), 0, name)

    def test_a_vmm_that_ends_takes_its_observer_along(self):
        with vmlab.Lab() as lab:
            process = self.start(lab, "short", [*ram(lab, "short"), "-device", "no-such-device"])
            self.assertEqual(process.wait(60), 1)
            judged(lab.a, "short")
            self.assertNotIn("godwit", (lab.folder / "short.err").read_text())

    def test_strict_starts_no_guest_that_cannot_be_moved(self):
        with vmlab.Lab() as lab:
            QUIET.remove("-S")
            try:
                good = self.start(lab, "good", ram(lab, "good"), run=["--strict"])
                vmlab.wait_for(lambda: listed(lab.a, "good") and listed(lab.a, "good")[0]["state"] == "running", 90,
                               "the movable guest runs")
                peer = ram(lab, "peer2")[-1].replace("ram0", "peer")
                bad = self.start(lab, "bad", [*ram(lab, "bad"), "-object", peer, "-device", "ivshmem-plain,memdev=peer"],
                                 run=["--strict"])
                self.assertNotEqual(bad.wait(90), 0)
                self.assertIn("is not started", (lab.folder / "bad.err").read_text())
                self.assertIsNone(good.poll())
            finally:
                QUIET.append("-S")
            for dash in ("-daemonize", "--daemonize"):
                self.assertEqual(self.start(lab, "daemon", [*ram(lab, "daemon"), dash], run=["--strict"]).wait(60), 2)
                self.assertIn("--strict does not go with -daemonize", (lab.folder / "daemon.err").read_text())
            for words in (["-m", "64M"], [*ram(lab, "x"), "-runas", "nobody"], [*ram(lab, "x"), "-readconfig", "y"],
                          [*ram(lab, "x"), "-run-with", "user=nobody"], [*ram(lab, "x"), "-chroot", "/"]):
                for option in ("--strict", "--check"):
                    with self.subTest(words=words, option=option):
                        self.assertEqual(self.start(lab, "never", words, run=[option]).wait(60), 2)
                        self.assertIn("add or change:", (lab.folder / "never.err").read_text())

    def test_a_vmm_that_is_slow_to_answer_is_no_vmm_that_cannot_be_moved(self):
        """It waits for a client of a socket before it has QMP; meanwhile the observers' clock jumps
        an hour ahead."""
        with vmlab.Lab() as lab:
            late, door = lab.folder / "late", lab.folder / "door"
            lab.a.env.update(LD_PRELOAD=str(vmlab.BUILD / "tests" / "liblate.so"), LATE_IF=str(late))
            wait = ["-chardev", f"socket,id=wait,path={door},server=on,wait=on"]
            QUIET.remove("-S")
            try:
                strict = self.start(lab, "patient", [*ram(lab, "patient"), *wait], run=["--strict"])
                vmlab.wait_for(door.exists, 60, "the VMM waits for a client")
                self.start(lab, "hasty", [*ram(lab, "hasty"), *(word.replace("/door", "/other") for word in wait)])
                vmlab.wait_for((lab.folder / "other").exists, 60, "the other one waits too")
            finally:
                QUIET.append("-S")
            late.touch()
            judged(lab.a, "hasty")
            self.assertEqual((lab.folder / "hasty.err").read_text().splitlines()[-1],
                             "godwit run: 'hasty' was not judged: its VMM did not answer for 60 s")
            time.sleep(0.2)
            self.assertIsNone(strict.poll())
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(door))
                del lab.a.env["LD_PRELOAD"]
                vmlab.wait_for(lambda: [vm["state"] for vm in listed(lab.a, "patient")] == ["running"], 90, "the guest runs")
                self.assertNotIn("godwit run", (lab.folder / "patient.err").read_text())

    def test_as_process_1_the_words_are_judged(self):
        """An observer would become a child of the VMM there, and a zombie in the end."""
        if os.geteuid():
            self.skipTest("only root makes a namespace of processes")
        with vmlab.Lab() as lab:
            words = [vmlab.GODWIT, "run", "--name", "first", "--", vmlab.QEMU, *QUIET, "-m", "64M"]
            with open(lab.folder / "first.err", "wb") as log:
                lab.processes.append(subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *words],
                                                      env=lab.a.env, stdin=subprocess.DEVNULL, stderr=log))
            vmlab.wait_for(lambda: listed(lab.a, "first"), 60, "listed")
            vmlab.wait_for(lambda: listed(lab.a, "first")[0]["state"] == "prelaunch", 60, "it answers")
            self.assertEqual(len((lab.folder / "first.err").read_text().splitlines()), 1)
            vmm = children(lab.processes[-1].pid)
            self.assertEqual(children(int(vmm[0])), [])

    def test_commands_wait_for_the_observer(self):
        """The agent has one client at a time.  The first command after `godwit run` does not find
        it busy."""
        with vmlab.Lab() as lab:
            lab.b.vm(guest=False, ram_mib=64, incoming=True)
            for _ in range(5):
                receiver, _ = lab.b.receive("guest")
                receiver.kill()
                receiver.wait()


class Looks(unittest.TestCase):
    """A command that looks for a running VM holds a shared lock of its folder for a moment."""

    def run_beside(self, lab, path, kind):
        """Starts a VMM with a name that has run before, while a lock is held.  Return: its exit
        code, and its output."""
        run = ("run", "--name", "seen", "--", "/bin/true")
        self.assertEqual(lab.a.godwit(*run).returncode, 0)
        with open(path, "rb") as lock:
            fcntl.flock(lock, kind)
            process = lab.a.start(*run)
            try:
                process.wait(0.5 if kind == fcntl.LOCK_SH else 60)
            except subprocess.TimeoutExpired:
                pass
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def test_a_start_waits_for_one_that_looks_and_for_no_vmm(self):
        with vmlab.Lab() as lab:
            self.assertEqual(lab.a.godwit("run", "--name", "seen", "--", "/bin/true").returncode, 0)
            lock = lab.a.folder / "run" / "seen" / "lock"
            self.assertEqual(self.run_beside(lab, lock, fcntl.LOCK_SH), (0, ""))
            code, said = self.run_beside(lab, lock, fcntl.LOCK_EX)
            self.assertEqual(code, 5, said)
            self.assertIn("runs already", said)


class Names(unittest.TestCase):
    """Names that libvirt allows: up to 255 bytes, without '/' and control characters."""

    NAMES = ["x" * 255, "x" * 254 + "y", "a b", "a  b", ".a", "..", "-a", 'q"\'\\,:%s$(x)', "gäst – 1", "g\u200bst"]

    def test_vms_with_any_names_are_listed_and_move(self):
        with vmlab.Lab() as lab:
            vms = {}
            for i, name in enumerate(self.NAMES):
                words = [vmlab.GODWIT, "run", "--name", name, "--", vmlab.QEMU, *QUIET, *ram(lab, f"name{i}")]
                vms[name] = subprocess.Popen(words, env=lab.a.env, stdin=subprocess.DEVNULL)
                lab.processes.append(vms[name])
            vmlab.wait_for(lambda: sorted(vm["name"] for vm in json.loads(lab.a.godwit("list", "--json").stdout)
                                          if vm["state"] == "prelaunch") == sorted(self.NAMES), 90, "all names listed")
            again = lab.a.godwit("run", "--name", self.NAMES[0], "--", vmlab.QEMU)
            self.assertEqual(again.returncode, 5)
            self.assertIn("runs already", again.stderr)
            for i in (0, 6, 7):
                name = self.NAMES[i]
                hook = 'test "$GODWIT_NAME" = "$NAME"'
                lab.b.env["NAME"] = name
                self.move(lab, name, i, hook)
                self.assertEqual(vms[name].wait(60), 0, name)

    def move(self, lab, name, i, hook):
        waiting = subprocess.Popen([vmlab.GODWIT, "run", "--name", name, "--", vmlab.QEMU, *QUIET,
                                    *ram(lab, f"there{i}"), "-incoming", "defer"], env=lab.b.env,
                                   stdin=subprocess.DEVNULL)
        lab.processes.append(waiting)
        vmlab.wait_for(lambda: listed(lab.b, name) and listed(lab.b, name)[0]["state"] == "inmigrate", 60, "it waits")
        receiver, port = lab.b.receive(name, "--hook", hook)
        done = lab.a.godwit("migrate", "--quit", "--json", "--", name, f"127.0.0.1:{port}")
        self.assertEqual(done.returncode, 0, (name, done.stderr))
        self.assertEqual(vmlab.summary(done.stdout)["name"], name)
        self.assertEqual(receiver.wait(60), 0, name)
        self.assertEqual(json.loads(lab.b.godwit("status", "--json", "--", name).stdout)["name"], name)


class Daemon(unittest.TestCase):
    """-daemonize: the started process ends, and its grandchild is the VMM."""

    def start(self, lab, host, *more):
        pid = host.folder / "pid"
        done = host.godwit("run", "--name", "guest", "--", vmlab.QEMU, *QUIET, *ram(lab, host.name), "-daemonize",
                           "-pidfile", pid, *more)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return int(pid.read_text())

    def test_a_daemon_is_listed_and_moves(self):
        with vmlab.Lab() as lab:
            pids = []
            lab.a.env["GODWIT_RUN_DIR"] = os.path.relpath(lab.a.folder / "r,un")  # a daemon's folder is /
            try:
                pids.append(self.start(lab, lab.a))
                pids.append(self.start(lab, lab.b, "-incoming", "defer"))
                self.assertEqual(listed(lab.a, "guest")[0]["state"], "prelaunch")
                self.assertIn("prelaunch", lab.a.godwit("status", "guest").stdout)
                receiver, port = lab.b.receive("guest")
                done = lab.a.godwit("migrate", "--quit", "guest", f"127.0.0.1:{port}")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(receiver.wait(60), 0)
                vmlab.wait_for(lambda: not listed(lab.a, "guest"), 60, "the daemon at the source has ended")
            finally:
                for pid in pids:
                    subprocess.run(["kill", "-9", str(pid)], capture_output=True, check=False)


if __name__ == "__main__":
    runner.main()
