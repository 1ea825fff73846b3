#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tracking by KVM's dirty log, in a real QEMU with a Linux guest under nested KVM.  For the full
lab, on one host, of Debian 13 or of Debian 12, whose kernel has no asynchronous write protection.

Each migration compares the RAM of both sides byte by byte when all of it is there, and the guest
checks its own.
"""

import ctypes
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import unittest
import unittest.mock
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

COMPARE = vmlab.BUILD / "perf" / "ramcmp"
ASYNC = tuple(int(n) for n in os.uname().release.split(".")[:2]) >= (6, 7)
WP = "wp_async" if ASYNC else "wp_sync"
WORK = "GW_MIB=8 GW_RATE_MIB=2 GW_DISK_MIB=4 GW_DISK_RATE=20 GW_NET=1"


def packets(vm):
    """How many the guest has received."""
    return max((int(line.split()[2]) for line in vm.lines() if line.startswith("GUEST PACKETS") and len(line.split()) == 3),
               default=0)


class Flood:
    """Broadcasts frames of random bytes behind a tap, some hundred a second."""

    def __init__(self, tap):
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.send, args=(tap,), daemon=True)
        self.thread.start()

    def send(self, tap):
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind((tap, 0))
            while not self.ends.wait(0.005):
                try:
                    out.send(b"\xff" * 6 + b"\x02" + bytes(5) + b"\x88\xb5" + os.urandom(1400))
                except OSError:
                    pass  # the card is not up yet, or its queue is full

    def close(self):
        self.ends.set()
        self.thread.join()


def dirty_rate(vm, mode="dirty-bitmap"):
    """QEMU's own dirty rate, by KVM's log or its rings, in MiB a second."""
    vm.qmp("calc-dirty-rate", **{"calc-time": 1, "mode": mode})
    vmlab.wait_for(lambda: vm.qmp("query-dirty-rate")["status"] == "measured", 60, "QEMU's dirty rate")
    return vm.qmp("query-dirty-rate")["dirty-rate"]


class Kvm(unittest.TestCase):
    def devices(self, side, vhost="on"):
        """A virtio disk, on shared storage as godwit sees it; a display; a network card, by vhost
        or not."""
        image = Path(f"/var/tmp/kvm-{side}.img")
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        self.addCleanup(lambda: image.unlink(missing_ok=True))
        tap = f"gwtap{side}"
        subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap"], check=True)
        self.addCleanup(subprocess.run, ["ip", "link", "del", tap], capture_output=True)
        subprocess.run(["ip", "link", "set", tap, "up"], check=True)
        net = f"tap,id=net0,ifname={tap},script=no,downscript=no,vhost={vhost}"
        return ["-vga", "std", "-netdev", net, "-device", "virtio-net-pci,netdev=net0", "-drive",
                f"file={image},format=raw,if=virtio,id=disk0,cache=writeback"]

    def check_move(self, lab, scheme, *options, run=(), devices=True, work=WORK, vhost="on", beside=None):
        extra = {side: self.devices(side, vhost) if devices else () for side in "ab"}
        source = lab.a.vm(append=work, ram_mib=128, extra=extra["a"], run=run)
        destination = lab.b.vm(append=work, ram_mib=128, incoming=True, extra=extra["b"], run=run)
        source.wait_count(3, timeout=240)
        if devices:
            vmlab.wait_for(lambda: any(line.startswith("GUEST DISK") for line in source.lines()), 240, "records")
            flood = Flood("gwtapa")
            self.addCleanup(flood.close)
            vmlab.wait_for(lambda: packets(source) > 50, 60, "packets")
        hook = f"{COMPARE} {source.ram} {destination.ram}"
        receiver, port = lab.b.receive("guest", "--hook", hook, "--overwrite")
        other = threading.Thread(target=beside, args=(lab, source)) if beside else None
        if other:
            other.start()
        sender = lab.a.godwit("migrate", "--json", *vmlab.SLOW_LAB, *(["-b"] if devices else []), *options, "guest",
                              f"{scheme}{vmlab.ADDRESS}:{port}", timeout=300)
        if other:
            other.join()
        _, err = receiver.communicate(timeout=60)
        self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr + err)
        destination.wait_count(source.count() + 10, timeout=120)
        self.assertEqual(destination.wrong(), "")
        end = vmlab.summary(sender.stdout)
        print(f"  {end['tracker']}, {end['link']}: {end['elapsed_ns'] / 1e9:.2f} s, {end['round']} rounds, slowed by "
              f"{end['throttled_percent']} %, last round {end['last_round_bytes'] >> 10} KiB, {packets(source)} packets",
              flush=True)
        return end

    def test_the_union_over_rdma_and_tcp(self):
        for scheme, vhost in (("rdma:", "on"), ("tcp:", "off")):
            with self.subTest(scheme), vmlab.Lab() as lab:
                self.assertEqual(self.check_move(lab, scheme, vhost=vhost)["tracker"], f"kvm_log+{WP}")
                self.doCleanups()

    def test_the_other_unions(self):
        for tracker in ("wp_async", "wp_sync", "kvm_log+wp_sync") if ASYNC else ("wp_sync",):
            with self.subTest(tracker), vmlab.Lab() as lab:
                self.assertEqual(self.check_move(lab, "tcp:", "--tracker", tracker)["tracker"], tracker)
                self.doCleanups()

    def test_without_the_alias(self):
        with vmlab.Lab() as lab:
            self.assertEqual(self.check_move(lab, "tcp:", run=["--no-alias"])["tracker"], WP)

    @unittest.skipIf(ASYNC, "this kernel has it")
    def test_what_the_kernel_lacks_is_named(self):
        with vmlab.Lab() as lab:
            source, _ = lab.a.vm(ram_mib=128), lab.b.vm(ram_mib=128, incoming=True)
            source.wait_count(3, timeout=240)
            receiver, port = lab.b.receive("guest")
            sender = lab.a.godwit("migrate", "--tracker", "wp_async", "guest", f"tcp:{vmlab.ADDRESS}:{port}", timeout=60)
            vmlab.ended(receiver)
            self.assertNotEqual(sender.returncode, 0)
            self.assertIn("Linux 6.7 or newer", sender.stderr)
            source.wait_count(source.count() + 3, timeout=60)

    def test_a_guest_that_is_too_fast_is_slowed(self):
        with vmlab.Lab() as lab:
            end = self.check_move(lab, "tcp:", "--bandwidth", "8M", "--downtime", "120", devices=False,
                                  work="GW_MIB=32 GW_RATE_MIB=16")
            self.assertGreater(end["throttled_percent"], 0)

    def test_qemu_reads_and_clears_the_log_beside_ours(self):
        """Pages that it clears are not lost for godwit: the memory of both sides is compared."""
        rates = []

        def measure(lab, source):
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 60, "bulk")
            rates.append(dirty_rate(source))

        with vmlab.Lab() as lab:
            end = self.check_move(lab, "tcp:", "--bandwidth", "8M", devices=False, work=WORK.split(" GW_DISK")[0], beside=measure)
            self.assertEqual(end["tracker"], f"kvm_log+{WP}")
            self.assertTrue(rates and 1 <= rates[0] <= 40, rates)

    def test_a_display_that_is_looked_at(self):
        """QEMU redraws the parts of its video memory that KVM's log names: each picture shows the
        guest's last drawing."""
        seen = []

        def picture(lab, vm):
            """The numbers drawn in sixteen lines, read at two places of each bit, with the guest's
            counts before and after."""
            path, before = lab.folder / "screen", vm.count()
            vm.qmp("screendump", filename=str(path))
            head, pixels = path.read_bytes().split(b"\n255\n", 1)
            self.assertEqual(head, b"P6\n800 600")
            return {sum((pixels[3 * (800 * line + 50 * bit + at)] > 0) << bit for bit in range(16))
                    for line in range(16) for at in (0, 49)}, before, vm.count() + 1

        def look(lab, vm):
            for _ in range(3):  # not while it is drawing
                drawn, first, last = picture(lab, vm)
                if first <= min(drawn) and max(drawn) <= last:
                    return max(drawn)
            self.fail(f"an old picture: of {drawn}, but it counted {first} to {last}")

        def look_on(lab, source):
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 60, "bulk")
            for _ in range(6):
                seen.append(look(lab, source))
                source.counts_on()
            seen.append(lab.a.status().get("state"))

        with vmlab.Lab() as lab:
            end = self.check_move(lab, "tcp:", "--bandwidth", "4M", beside=look_on,
                                  work=WORK + " GW_DISPLAY=1 vga=0x303 iomem=relaxed")
            self.assertEqual(end["tracker"], f"kvm_log+{WP}")
            self.assertEqual((len(set(seen)), seen[-1]), (7, "bulk"), "six pictures in the midst of it")
            look(lab, lab.vms[1])

    def test_a_vm_with_dirty_rings(self):
        """KVM keeps no log beside QEMU's rings.  So write protection alone is used, and QEMU reads
        its rings meanwhile."""
        rates = []

        def measure(lab, source):
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 60, "bulk")
            rates.append(dirty_rate(source, "dirty-ring"))

        with vmlab.Lab() as lab, unittest.mock.patch("vmlab.ACCEL", "kvm,dirty-ring-size=1024"):
            end = self.check_move(lab, "tcp:", "--bandwidth", "8M", devices=False, work=WORK.split(" GW_DISK")[0], beside=measure)
            self.assertEqual(end["tracker"], WP)
            self.assertTrue(rates and 1 <= rates[0] <= 40, rates)

    def test_a_guest_that_reboots_in_mid_migration(self):
        """Its firmware moves, deletes and makes memory slots."""
        def reset(lab, source):
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 60, "bulk")
            source.qmp("system_reset")

        for options in ((), ("--tracker", WP)):
            with self.subTest(options), vmlab.Lab() as lab:
                self.check_move(lab, "tcp:", "--bandwidth", "8M", *options, devices=False, work=WORK.split(" GW_DISK")[0],
                                beside=reset)

    def poison(self, vm, page):
        """Tells the kernel that a page of the guest's RAM is broken."""
        size = os.sysconf("SC_PAGESIZE")
        with open(vm.ram, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            byte = memory[page * size]
            memory[page * size] = byte  # so that it is mapped
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            with open("/proc/self/pagemap", "rb") as pagemap:
                pagemap.seek((address // size + page) * 8)
                frame = struct.unpack("Q", pagemap.read(8))[0] & ((1 << 55) - 1)
        Path("/sys/devices/system/memory/hard_offline_page").write_text(f"{frame * size}")
        return page * size

    def reported(self, vm):
        """The guest's addresses of memory errors, in QEMU's words."""
        words = r"QEMU addr 0x[0-9a-f]+ and GUEST addr 0x([0-9a-f]+)"
        return [int(at, 16) for at in re.findall(words, (vm.folder / "log").read_text())]

    def mappings(self, vm):
        return sum(str(vm.ram) in line for line in Path(f"/proc/{vm.process.pid}/maps").read_text().splitlines())

    def page_in_use(self, vm):
        """A page that the guest has just written to."""
        size, before = os.sysconf("SC_PAGESIZE"), vm.ram.read_bytes()
        vm.counts_on(120)
        after = vm.ram.read_bytes()
        changed = {at // size for at in range(0, len(before), size) if before[at:at + size] != after[at:at + size]}
        return next(page for page in sorted(changed) if all(page + n in changed for n in range(-8, 9)))

    def test_memory_errors_and_aliases(self):
        """An idle guest has no alias.  QEMU finds the address of a broken page that its guest
        touches, also in a migration."""
        for migrates in (False, True):
            with self.subTest(migrates), vmlab.Lab() as lab:
                lab.a.env["LD_PRELOAD"] = str(vmlab.BUILD / "tests" / "libaccess.so")
                source = lab.a.vm(append="GW_MIB=8 GW_RATE_MIB=4", ram_mib=128, paused=True)
                del lab.a.env["LD_PRELOAD"]
                idle = self.mappings(source)
                if migrates:
                    with open(source.ram, "r+b") as file:
                        file.seek(32 << 20)
                        file.write(os.urandom(80 << 20))
                    lab.b.vm("third", guest=False, ram_mib=128, incoming=True, paused=True)
                    receiver, port = lab.b.receive("third", "--guest", "guest")
                    sender = lab.a.start("migrate", "--quiet", *vmlab.SLOW_LAB, "--tracker", f"kvm_log+{WP}", "--bandwidth",
                                         "512K", "guest", f"tcp:{vmlab.ADDRESS}:{port}")
                    vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 240, "bulk")
                    self.assertGreater(self.mappings(source), idle)
                source.qmp("cont")
                source.wait_count(3, timeout=240)
                address = self.poison(source, self.page_in_use(source))
                vmlab.wait_for(lambda: address in self.reported(source), 60, f"a memory error at {address:#x}")
                self.assertIn(source.status(), ("running", "guest-panicked", "shutdown"))
                if migrates:
                    lab.a.godwit("cancel", "guest")
                    sender.communicate(timeout=240)
                    receiver.communicate(timeout=240)
                vmlab.wait_for(lambda: self.mappings(source) == idle, 30, "aliases to go")

    def test_qemus_own_migrate_and_dirty_rate(self):
        """QEMU reads KVM's log itself after a cancelled migration of godwit, with slots at aliases."""
        with vmlab.Lab() as lab:
            source = lab.a.vm(append=WORK.split(" GW_DISK")[0], ram_mib=128)
            destination = lab.b.vm(append=WORK.split(" GW_DISK")[0], ram_mib=128, incoming=True)
            source.wait_count(3, timeout=240)
            third = lab.b.vm("third", append=WORK.split(" GW_DISK")[0], ram_mib=128, incoming=True)
            receiver, port = lab.b.receive("third", "--guest", "guest")
            sender = lab.a.start("migrate", "--quiet", *vmlab.SLOW_LAB, "--bandwidth", "2M", "guest",
                                 f"tcp:{vmlab.ADDRESS}:{port}")
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 60, "bulk")
            # Both read the log at the same time.
            rate = dirty_rate(source)
            self.assertGreaterEqual(rate, 1, "the guest rewrites 2 MiB a second")
            self.assertLessEqual(rate, 40, "it has 128 MiB")
            self.assertEqual(lab.a.godwit("cancel", "guest").returncode, 0)
            sender.communicate(timeout=60)
            receiver.communicate(timeout=60)
            third.kill()
            destination.qmp("migrate-incoming", uri="tcp:127.0.0.1:7777")
            source.qmp("migrate", uri="tcp:127.0.0.1:7777")
            vmlab.wait_for(lambda: source.qmp("query-migrate").get("status") in ("completed", "failed"), 240, "QEMU's migrate")
            self.assertEqual(source.qmp("query-migrate")["status"], "completed")
            destination.wait_count(source.count() + 45, timeout=120)  # the guest has checked all of its memory
            self.assertEqual(destination.wrong(), "")
            print(f"  QEMU's own dirty rate beside ours: {rate} MiB/s", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
