# SPDX-License-Identifier: Apache-2.0
"""The demo: ./demo runs it once everything is built."""

import os
import re
import subprocess
import sys
import threading

import vmlab

WORK = "GW_MIB=64 GW_RATE_MIB=8 GW_DISK_MIB=32 GW_DISK_RATE=100"
DISK_MIB, DATA_MIB = 256, 64


def say(text):
    print(f"\n== {text}", flush=True)


def follow(stream, prefix):
    for line in stream:
        print(prefix + line.rstrip(), flush=True)


def records(vm):
    """The number of the last record that the guest saw on its disk."""
    numbers = [line.split()[2] for line in vm.lines() if line.startswith("GUEST DISK") and len(line.split()) == 3]
    return int(numbers[-1]) if numbers else 0


def counted(vm):
    """The last line of the guest's counter."""
    return [line for line in vm.lines() if line.startswith("GUEST COUNT")][-1]


def make_disks(lab, incremental):
    """One image a host.  Return: their paths and format."""
    base = lab.folder / "a-base.img"
    with open(base, "wb") as file:
        file.truncate(DISK_MIB << 20)
        file.seek(DISK_MIB // 2 << 20)
        file.write(os.urandom(DATA_MIB << 20))
    there = lab.folder / "b-base.img"
    if not incremental:
        with open(there, "wb") as file:
            file.truncate(DISK_MIB << 20)
        return (base, there), "raw"
    subprocess.run(["cp", "--sparse=always", base, there], check=True)
    tops = []
    for under, top in ((base, "a-top.qcow2"), (there, "b-top.qcow2")):
        tops.append(lab.folder / top)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", under, "-F", "raw", tops[-1]], check=True)
    return tuple(tops), "qcow2"


def demo(lab, incremental):
    say("A Debian kernel and a guest that checks 64 MiB of memory and the records it writes to its disk (QEMU, TCG)")
    vmlab.Lab.guest_images()
    disks, fmt = make_disks(lab, incremental)
    drives = [["-drive", f"file={path},format={fmt},if=virtio,id=disk0"] for path in disks]
    source = lab.a.vm("demo", ram_mib=256, append=WORK, extra=drives[0])
    destination = lab.b.vm("demo", ram_mib=256, append=WORK, incoming=True, extra=drives[1])
    source.wait_count(10)
    vmlab.wait_for(lambda: records(source) > 100, 60, "records on the disk")
    print(f"   a| {DISK_MIB} MiB disk, {fmt}" + (", over a base that both hosts have" if incremental else "")
          + f"; {records(source)} records are on it", flush=True)
    print("   a| " + counted(source), flush=True)

    compare = vmlab.BUILD / "perf" / "ramcmp"
    same_disk = "true" if incremental else f"cmp {disks[0]} {disks[1]}"
    hook = f"{compare} {source.ram} {destination.ram} && {same_disk} && echo equal >{lab.folder}/compared"
    say("host b$ godwit receive --name demo --listen 127.0.0.1:0 --hook 'compare RAM and disk byte by byte'")
    receiver = lab.b.start("receive", "--name", "demo", "--listen", "127.0.0.1:0", "--hook", hook,
                           stderr=subprocess.STDOUT)
    line = receiver.stdout.readline()
    print("   b| " + line.rstrip())
    port = re.search(r" on \S*:(\d+)", line).group(1)
    thread = threading.Thread(target=follow, args=(receiver.stdout, "   b| "), daemon=True)
    thread.start()

    flag = "-i" if incremental else "-b"
    say(f"host a$ godwit migrate {flag} demo 127.0.0.1:{port}")
    terminal = sys.stdout.isatty()
    sender = subprocess.run([vmlab.GODWIT, "migrate", flag, "demo", f"127.0.0.1:{port}"], env=lab.a.env, timeout=60,
                            stdout=None if terminal else subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not terminal:
        print("".join(f"   a| {line}\n" for line in sender.stdout.splitlines()), end="", flush=True)
    if sender.returncode:
        raise vmlab.LabError("the migration failed")
    receiver.wait(timeout=30)
    thread.join(timeout=5)
    if receiver.returncode:
        raise vmlab.LabError("the migration failed")

    say("The guest counts on at host b")
    left_at, last_record = source.count(), records(source)
    destination.wait_count(left_at + 3)
    print(f"   a| {counted(source)}   (its last word there)")
    for line in [text for text in destination.lines() if "COUNT" in text][:3]:
        print(f"   b| {line}")
    # One pass over its whole memory: each page written at host a is checked at host b.
    destination.wait_count(left_at + 10 * 64 // 8 + 5)
    print(f"   b| {counted(destination)}   (every page checked)")
    vmlab.wait_for(lambda: records(destination) > last_record + 200 or destination.wrong(), 60, "records at host b")
    destination.wait_verified()
    print(f"   b| record {records(destination)} is on the disk; {last_record} was the last one at host a; it has read them all")
    if destination.wrong() or source.count() != left_at or records(source) != last_record:
        raise vmlab.LabError(destination.wrong() or "the guest runs twice")
    if not (lab.folder / "compared").exists():
        raise vmlab.LabError("RAM and disk were not compared")
    say(f"Good: RAM{'' if incremental else ' and disk'} equal byte by byte when they changed hands, and the guest found no wrong "
        "byte in its own checks")


def main():
    try:
        with vmlab.Lab() as lab:
            demo(lab, "--incremental" in sys.argv[1:])
    except (vmlab.LabError, subprocess.SubprocessError) as reason:
        print(f"\n== FAILED: {reason}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
