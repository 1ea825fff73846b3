# SPDX-License-Identifier: Apache-2.0
"""The demo: what ./demo runs once everything is built."""

import subprocess
import sys
import threading

import vmlab

WORK = "GW_MIB=64 GW_RATE_MIB=8"


def say(text):
    print(f"\n== {text}", flush=True)


def follow(stream, prefix):
    for line in stream:
        print(prefix + line.rstrip(), flush=True)


def demo(lab):
    say("A Debian kernel and a guest that checks every byte of 64 MiB, over and over (QEMU, TCG)")
    vmlab.Lab.guest_images()
    source = lab.a.vm("demo", ram_mib=256, append=WORK)
    destination = lab.b.vm("demo", ram_mib=256, append=WORK, incoming=True)
    source.wait_count(10)
    print("   " + source.lines()[-1], flush=True)

    compare = vmlab.BUILD / "perf" / "ramcmp"
    hook = f"{compare} {source.ram} {destination.ram} && echo equal >{lab.folder}/compared"
    say("host b$ godwit receive --name demo --listen 127.0.0.1:0 --hook 'compare RAM byte by byte'")
    receiver = lab.b.start("receive", "--name", "demo", "--listen", "127.0.0.1:0", "--hook", hook,
                           stderr=subprocess.STDOUT)
    line = receiver.stdout.readline()
    print("   b| " + line.rstrip())
    port = line.rsplit(":", 1)[-1].strip()
    thread = threading.Thread(target=follow, args=(receiver.stdout, "   b| "), daemon=True)
    thread.start()

    say(f"host a$ godwit migrate demo 127.0.0.1:{port}")
    terminal = sys.stdout.isatty()
    sender = subprocess.run([vmlab.GODWIT, "migrate", "demo", f"127.0.0.1:{port}"], env=lab.a.env, timeout=60,
                            stdout=None if terminal else subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not terminal:
        print("".join(f"   a| {line}\n" for line in sender.stdout.splitlines()), end="", flush=True)
    receiver.wait(timeout=30)
    thread.join(timeout=5)
    if sender.returncode or receiver.returncode:
        raise vmlab.LabError("the migration failed")

    say("The guest counts on at host b")
    left_at = source.count()
    destination.wait_count(left_at + 3)
    print(f"   a| {source.lines()[-1]}   (its last word there)")
    for line in [text for text in destination.lines() if "COUNT" in text][:3]:
        print(f"   b| {line}")
    # A whole pass over its memory: each page written at host a is checked at host b.
    destination.wait_count(left_at + 10 * 64 // 8 + 5)
    print(f"   b| {destination.lines()[-1]}   (every page checked)")
    if destination.wrong() or source.count() != left_at:
        raise vmlab.LabError(destination.wrong() or "the guest runs twice")
    if not (lab.folder / "compared").exists():
        raise vmlab.LabError("the RAM was not compared")
    say("Good: RAM equal byte by byte when it changed hands, and the guest found no wrong byte in its own check")


def main():
    try:
        with vmlab.Lab() as lab:
            demo(lab)
    except (vmlab.LabError, subprocess.SubprocessError) as reason:
        print(f"\n== FAILED: {reason}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
