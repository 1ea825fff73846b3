#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots the full lab: one or two guests of Debian 13, or 12, with real QEMU, nested KVM and rxe, and runs a command in each.

    full.py --hosts N [--debian 12] [--shell] COMMAND

The tree is seen in the guests at its own path, read only; each guest's output is printed (the second's with "host 2: "
in front), and the exit status is the first's that is not 0.  Two hosts are joined by three networks; a guest cuts one by
writing "link NUMBER off" (or "on"), or ends the other by "kill HOST", to a file named order.* in its job's folder.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
MEMORY = os.environ.get("LAB_MEMORY", "3G")
TIMEOUT = int(os.environ.get("LAB_TIMEOUT", "1200"))
BROKE_DOWN = -1
WAKE_S = 2


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


class Guest:
    def __init__(self, image, job, number, hosts, accel, ports, shell):
        self.number, self.monitor, self.job = number, job / f"monitor{number}", job
        self.image, self.accel = image, accel
        (job / f"h{number}").mkdir()
        shared = job / f"h{number}"
        for file in job.iterdir():
            if file.is_file():
                shutil.copy(file, shared)
        with open(shared / "environment", "a") as file:
            file.write(f"LAB_HOST={number if hosts > 1 else ''}\n")
        self.shared = shared
        command = [
            "qemu-system-x86_64", *accel, "-machine", "q35", "-m", MEMORY, "-nodefaults", "-display", "none",
            "-no-reboot", "-serial", "stdio", "-qmp", f"unix:{self.monitor},server=on,wait=off",
            "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"),
            "-append", "root=/dev/vda rw init=/full-init console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off",
            "-drive", f"file={image / 'disk.img'},if=virtio,snapshot=on,format=raw",
            "-virtfs", f"local,path={TOP},mount_tag=tree,security_model=none,readonly=on",
            "-virtfs", f"local,path={shared},mount_tag=job,security_model=none",
            "-device", "virtio-rng-pci"]
        for net, port in enumerate(ports if hosts > 1 else ()):
            side = "listen" if number == 1 else "connect"
            command += ["-netdev", f"socket,id=net{net},{side}=127.0.0.1:{port}",
                        "-device", f"virtio-net-pci,id=nic{net},netdev=net{net},mac=52:54:00:00:{net:02x}:{number:02x},"
                                   "host_mtu=9000"]
        self.process = subprocess.Popen(command, stdin=None if shell else subprocess.DEVNULL,
                                        stdout=None if shell else subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = None
        if not shell:
            self.reader = threading.Thread(target=self.relay, daemon=True)
            self.reader.start()

    def relay(self):
        prefix = "" if self.number == 1 else f"host {self.number}: "
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip("\r\n")
            if text:
                print(prefix + text, flush=True)

    def qmp(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(str(self.monitor))
            stream = s.makefile("rw")
            stream.readline()
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                while "event" in json.loads(stream.readline()):
                    pass

    def status(self):
        for file in self.shared.glob("status*"):
            text = file.read_text().strip()
            if text:
                return int(text)
        return None


def obey(guests):
    """Obeys the guests' orders.  The file of an order that is done is deleted."""
    for guest in guests:
        for order in guest.shared.glob("order.*"):
            words = order.read_text().split()
            if len(words) < 2:
                continue  # still being written
            if words[0] == "link":
                for one in guests:
                    one.qmp("set_link", name=f"nic{words[1]}", up=words[2] == "on")
            elif words[0] == "kill":
                guests[int(words[1]) - 1].process.kill()
            order.unlink()


def wake(guests):
    """Presses a key.  QEMU's TCG now and then forgets a timer's interrupt (seen: pending in the APIC, the processor halted for
    good); any other interrupt reminds it."""
    for guest in guests:
        try:
            guest.qmp("send-key", keys=[{"type": "qcode", "data": "shift"}])
        except (OSError, ValueError):
            pass  # it has not begun, or has ended


def accelerators(image):
    """KVM if it boots the image, which is tested once a boot of this machine; else TCG.

    One processor under TCG, if LAB_CPUS does not say 2: with two, a kernel that patches its own code, as it does for nested
    KVM, panics now and then (int3 in schedule()).  Without what TCG does slowly, one byte or bit at a time, rxe is 1.5 times
    as fast: its checksums are then computed with tables, its pages copied by words.
    """
    tcg = ["-accel", "tcg", "-cpu", "max,-pclmulqdq,-erms,-fsrm", "-smp", os.environ.get("LAB_CPUS", "1")]
    kvm = ["-accel", "kvm", "-cpu", "host", "-smp", "2"]
    wish = os.environ.get("LAB_ACCEL")
    if wish:
        return kvm if wish == "kvm" else tcg
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return tcg
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = image / "accel"
    if known.exists() and known.read_text().split()[0] == boot_id:
        return kvm if known.read_text().split()[1] == "kvm" else tcg
    trial = subprocess.Popen(["qemu-system-x86_64", *kvm, "-machine", "q35", "-m", "512M", "-nodefaults", "-display",
                              "none", "-no-reboot", "-serial", "stdio", "-kernel", str(image / "vmlinuz"), "-append",
                              "console=ttyS0 panic=-1"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
    timer = threading.Timer(8, trial.kill)
    timer.start()
    works = b"Linux version" in trial.stdout.read()
    timer.cancel()
    trial.kill()
    trial.wait()
    known.write_text(f"{boot_id} {'kvm' if works else 'tcg'}\n")
    return kvm if works else tcg


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def quote(text):
    return "'" + str(text).replace("'", "'\\''") + "'"


def run(image, job, args):
    (job / "environment").write_text("".join(f"{key}={quote(value)}\n" for key, value in {
        "LAB_COMMAND": " ".join(args.command), "LAB_FOLDER": os.getcwd(), "LAB_TOP": TOP, "LAB_TESTS": TOP / "tests",
        "GODWIT_BUILD": os.environ.get("GODWIT_BUILD", TOP / "build")}.items()))
    made = subprocess.run([TOP / "tests/guest/make-guest"], stdout=subprocess.PIPE, text=True)
    for name in ("vmlinuz", "initrd") if made.returncode == 0 else ():
        shutil.copy(Path(made.stdout.strip().splitlines()[-1]) / name, job)
    accel, ports, guests = accelerators(image), free_ports(3), []
    try:
        for number in range(1, args.hosts + 1):
            guests.append(Guest(image, job, number, args.hosts, accel, ports, args.shell))
            if number < args.hosts:
                time.sleep(1)  # the first listens
        end, woken = time.monotonic() + TIMEOUT, 0
        while any(g.process.poll() is None for g in guests):
            obey(guests)
            if time.monotonic() > woken + WAKE_S:
                wake(guests)
                woken = time.monotonic()
            time.sleep(0.1)
            if time.monotonic() > end and not args.shell:
                print(f"the lab has run for {TIMEOUT} s: ended")
                return 1
        codes = [g.status() for g in guests]  # None: killed, or failed
        for guest in guests:
            if guest.reader:
                guest.reader.join(5)
        return next((c for c in codes if c), 0) if codes[0] is not None else BROKE_DOWN
    finally:
        for guest in guests:
            if guest.process.poll() is None:
                guest.process.kill()
            guest.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--debian", default="13")
    parser.add_argument("--shell", action="store_true")
    parser.add_argument("command", nargs="*")
    args = parser.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        skip("qemu-system-x86_64 is not installed")
    made = subprocess.run([HERE / "make-full", args.debian], stdout=subprocess.PIPE, text=True)
    if made.returncode:
        skip("the full lab's image cannot be made (see above)")
    image = Path(made.stdout.strip().splitlines()[-1])
    for attempt in (1, 2):
        job = Path(tempfile.mkdtemp(prefix="job-", dir=image.parent))
        try:
            code = run(image, job, args)
        finally:
            shutil.rmtree(job, ignore_errors=True)
        if code != BROKE_DOWN:
            sys.exit(code)
        print(f"the lab's own machine broke down, it ended without a status (attempt {attempt} of 2)", flush=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
