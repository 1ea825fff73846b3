# SPDX-License-Identifier: Apache-2.0
"""Guests, hosts and migrations for the end-to-end tests and the comparisons.

A Host is a run folder: two of them on one machine stand for two hosts.  A Vm is a QEMU started by
`godwit run` (or bare, for comparisons) with a control connection of the test's own.  Everything that is
started is ended by its process id in Lab.close(), whatever happens in between.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("GODWIT_BUILD", ROOT / "build"))
GODWIT = BUILD / "bin" / "godwit"
QEMU = os.environ.get("GODWIT_QEMU", "qemu-system-x86_64")
ACCEL = os.environ.get("GODWIT_ACCEL", "tcg")
# On a busy machine saving a guest takes long in a lab.  So migrations that must succeed may have a
# longer blackout.
SLOW_LAB = ("--downtime", "1500")
ADDRESS = os.environ.get("GODWIT_ADDRESS", "127.0.0.1")  # where receivers listen
SLOW = float(os.environ.get("GODWIT_SLOW", "1"))  # stretches time-outs, for a lab


class LabError(Exception):
    """Something failed that a test does not expect to."""


def wait_for(condition, timeout=30.0, what="condition", interval=0.01):
    """Polls until condition() is true.  Return: its value; raises LabError after the timeout."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {timeout} s")
        time.sleep(interval)


def cpu_seconds(pid):
    """User and system time that a living process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Qmp:
    """A QMP connection of the test's own."""

    def __init__(self, path, timeout=20):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        wait_for(lambda: self._try(path), timeout, f"QMP at {path}")
        self.file = self.sock.makefile("rw")
        self.events = []
        json.loads(self.file.readline())
        self("qmp_capabilities")

    def _try(self, path):
        try:
            self.sock.connect(str(path))
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise LabError(f"QMP closed during {command}")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"{command}: {answer['error']['desc']}")
            self.events.append(answer)

    def close(self):
        try:
            self.file.close()
        except OSError:
            pass  # QEMU is gone, with all unflushed output
        self.sock.close()


class Vm:
    """One QEMU.  ram: the path of its RAM file; memory: arguments for other memory than that one file."""

    def __init__(self, lab, host, name, ram_mib=256, incoming=False, guest=True, paused=False, ram=None,
                 append="", with_godwit=True, extra=(), share=True, huge=False, prealloc=False, patience=20,
                 run=(), memory=None):
        self.lab, self.host, self.name = lab, host, name
        self.ram = Path(ram) if ram else Path("/dev/shm") / f"gw-{os.getpid()}-{host.name}-{name}.ram"
        self.folder = host.folder / f"vm-{name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.serial = self.folder / "serial"
        self.control = self.folder / "control.sock"
        self.log = open(self.folder / "log", "wb")
        lab.files.append(self.ram)
        memory = memory or ["-machine", "q35,memory-backend=ram0", "-m", f"{ram_mib}M", "-object",
                            f"memory-backend-file,id=ram0,size={ram_mib}M,mem-path={self.ram},"
                            f"share={'on' if share else 'off'}{',prealloc=on' if prealloc else ''}"]
        args = [QEMU, "-accel", ACCEL, *memory, "-nodefaults", "-display", "none", "-serial", f"file:{self.serial}",
                "-qmp", f"unix:{self.control},server=on,wait=off"]
        if guest:
            images = lab.guest_images()
            args += ["-kernel", str(images / "vmlinuz"), "-initrd", str(images / "initrd"),
                     "-append", f"console=ttyS0 quiet {append}"]
        if incoming:
            args += ["-incoming", "defer"]
        if paused:
            args += ["-S"]
        args += list(extra)
        if with_godwit:
            args = [str(GODWIT), "run", "--name", name, *run, "--"] + args
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env=host.env)
        lab.processes.append(self.process)
        try:
            self.qmp = Qmp(self.control, patience)
        except (OSError, LabError) as why:
            raise LabError(f"{why}: {(self.folder / 'log').read_text()}") from why
        lab.vms.append(self)

    def lines(self):
        try:
            return self.serial.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def count(self):
        """The guest's counter, 0 before it counts."""
        for line in reversed(self.lines()):
            if line.startswith("GUEST COUNT") and len(line.split()) == 5:
                return int(line.split()[2])
        return 0

    def wrong(self):
        """The guest's complaint, or an empty string."""
        return "\n".join(line for line in self.lines() if "WRONG" in line or "panic" in line)

    def wait_verified(self, timeout=60):
        """Waits until the guest has read all records on its disk, from the first to the last."""
        def passes():
            return sum(line.startswith("GUEST VERIFIED") for line in self.lines())
        before = passes()
        wait_for(lambda: passes() > before + 1 or self.wrong(), timeout, "all records verified")

    def wait_count(self, at_least, timeout=60):
        def counted():
            if self.wrong():
                raise LabError(self.wrong())
            if self.process.poll() is not None:
                raise LabError(f"QEMU ended: {(self.folder / 'log').read_text()}")
            return self.count() >= at_least
        wait_for(counted, timeout, f"guest counting to {at_least}")
        return self.count()

    def counts_on(self, timeout=20):
        """Whether the guest goes on counting from its present count."""
        self.wait_count(self.count() + 3, timeout)

    def status(self):
        return self.qmp("query-status")["status"]

    def kill(self):
        self.process.kill()
        self.process.wait()


class Host:
    """A run folder."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.env = dict(os.environ, GODWIT_RUN_DIR=str(self.folder / "run"))

    def vm(self, name="guest", **options):
        return Vm(self.lab, self, name, **options)

    def godwit(self, *args, timeout=120):
        """Runs a godwit command to its end."""
        words = [word if isinstance(word, bytes) else str(word) for word in args]
        return subprocess.run([str(GODWIT), *words], env=self.env, capture_output=True, text=True, errors="replace",
                              timeout=timeout)

    def start(self, *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        """Starts a godwit command in the background."""
        process = subprocess.Popen([str(GODWIT), *map(str, args)], env=self.env, stdout=stdout, stderr=stderr, text=True)
        self.lab.processes.append(process)
        return process

    def receive(self, name="guest", *options, listen=f"{ADDRESS}:0"):
        """Starts a receiver and returns it and its port."""
        if not listen.startswith(("127.", "[::1]")):
            options = ("--insecure", *options)
        process = self.start("receive", "--name", name, "--listen", listen, "--json", *options)
        line = process.stdout.readline()
        if "address" not in line:
            raise LabError(f"receive: {process.stderr.read()}")
        return process, int(json.loads(line)["address"].rsplit(":", 1)[1])

    def status(self, name="guest"):
        return json.loads(self.godwit("status", "--json", name).stdout)


class HugePages:
    """A hugetlbfs of our own with a pool of at least so many MiB; released by close()."""

    def __init__(self, mib):
        self.pool = Path("/proc/sys/vm/nr_hugepages")
        self.before = int(self.pool.read_text())
        want = mib // 2 + 16
        self.pool.write_text(str(self.before + want))
        got = int(self.pool.read_text()) - self.before
        if got < want:
            self.pool.write_text(str(self.before))
            raise LabError(f"only {got} of {want} huge pages to be had")
        self.folder = Path(tempfile.mkdtemp(prefix="gw-huge-"))
        if subprocess.run(["mount", "-t", "hugetlbfs", "none", str(self.folder)], capture_output=True).returncode:
            self.close()
            raise LabError("a hugetlbfs cannot be mounted here")

    def close(self):
        subprocess.run(["umount", str(self.folder)], capture_output=True)
        self.folder.rmdir()
        self.pool.write_text(str(self.before))


class Lab:
    """Two hosts, and everything that must be ended.  Use it with `with`."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gw-lab-"))
        self.processes, self.files, self.vms = [], [], []
        self.a, self.b = Host(self, "a"), Host(self, "b")

    @staticmethod
    def guest_images():
        path = os.environ.get("GODWIT_GUEST")
        if not path:
            path = subprocess.run([ROOT / "tests/guest/make-guest"], capture_output=True, text=True,
                                  check=True).stdout.strip().splitlines()[-1]
            os.environ["GODWIT_GUEST"] = path
        return Path(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        for vm in self.vms:
            vm.qmp.close()
            vm.log.close()
        for file in self.files:
            file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def ended(receiver, timeout=60):
    """How a receiver ended, by its exit code, and its error text.  "waits": it goes on waiting, and
    is ended here."""
    for line in receiver.stdout:
        if '"listening"' in line:
            receiver.kill()
            return "waits", receiver.communicate()[1]
    _, err = receiver.communicate(timeout=timeout)
    return receiver.returncode, err


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def summary(text):
    """The last summary among JSON lines."""
    found = [line for line in json_lines(text) if line.get("event") == "summary"]
    if not found:
        raise LabError(f"no summary in: {text!r}")
    return found[-1]
