#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest in a real QEMU moves while it runs.  The guest checks its own memory."""

import json
import subprocess
import sys
import time
import unittest
import unittest.mock
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

WORK = "GW_MIB=32 GW_RATE_MIB=8"
COMPARE = vmlab.BUILD / "perf" / "ramcmp"


def move(lab, source, destination, *options, receiver_options=(), source_host=None, destination_host=None):
    """Runs one migration to its end.  Return: the source's summary, and the results of both
    processes."""
    a, b = source_host or lab.a, destination_host or lab.b
    receiver, port = b.receive("guest", *receiver_options)
    sender = a.godwit("migrate", "--json", *options, "guest", f"127.0.0.1:{port}")
    out, err = receiver.communicate(timeout=60)
    return sender, receiver.returncode, out, err


def resident_bytes(vm):
    """The part of the guest's memory that the VMM has mapped."""
    bytes_of, ours = 0, False
    for line in Path(f"/proc/{vm.process.pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            ours = str(vm.ram) in line
        elif ours and words[0] == "Rss:":
            bytes_of += int(words[1]) << 10
    return bytes_of


class Live(unittest.TestCase):
    def pair(self, lab, **options):
        source = lab.a.vm(append=WORK, **options)
        destination = lab.b.vm(append=WORK, incoming=True, **options)
        source.wait_count(5)
        return source, destination

    def test_guest_counts_on_with_every_byte(self):
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            hook = f"{COMPARE} {source.ram} {destination.ram}"
            sender, code, _, err = move(lab, source, destination, receiver_options=["--hook", hook])
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            left_at = source.count()
            destination.wait_count(left_at + 25)
            self.assertEqual(destination.wrong(), "")
            self.assertEqual(source.count(), left_at, "the source went on")
            self.assertEqual(source.status(), "postmigrate")
            end = vmlab.summary(sender.stdout)
            blackout = end["blackout"]
            self.assertEqual(end["state"], "done")
            self.assertLess(blackout["total_ns"] - blackout["handover_ns"], 200e6)
            parts = sum(v for k, v in blackout.items() if k != "total_ns")
            self.assertAlmostEqual(parts, blackout["total_ns"], delta=3e6)
            self.assertIn("owns", lab.b.godwit("status", "guest").stdout)
            self.assertIn("does not own", lab.a.godwit("status", "guest").stdout)
            again = lab.a.godwit("migrate", "guest", "127.0.0.1:1")
            self.assertEqual(again.returncode, 5, "a guest that is elsewhere must not be moved again")
            self.assertIn("handed over once", again.stderr)

    def test_a_vmm_that_a_script_becomes(self):
        """QEMU behind a wrapper, as distributions and users of libvirt have it: the process that
        godwit starts execs QEMU."""
        with vmlab.Lab() as lab, unittest.mock.patch("vmlab.QEMU", str(lab.folder / "qemu")):
            (lab.folder / "qemu").write_text('#!/bin/sh\nexec qemu-system-x86_64 "$@"\n')
            (lab.folder / "qemu").chmod(0o755)
            source = lab.a.vm(append="GW_MIB=16")
            destination = lab.b.vm(append="GW_MIB=16", incoming=True)
            source.wait_count(3)
            receiver, port = lab.b.receive()
            sender = lab.a.godwit("migrate", "--quiet", "guest", f"127.0.0.1:{port}")
            self.assertEqual((sender.returncode, receiver.wait(timeout=10)), (0, 0), sender.stderr)
            destination.counts_on()

    def test_there_and_back_again(self):
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            sender, code, _, err = move(lab, source, destination)
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            destination.counts_on()
            source.process.kill()
            source.process.wait()
            # The RAM file keeps its old bytes, which must not mislead the receiver.
            back = lab.a.vm(append=WORK, incoming=True, ram=source.ram)
            sender, code, _, err = move(lab, destination, back, source_host=lab.b, destination_host=lab.a)
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            back.wait_count(destination.count() + 45)  # one pass over its whole memory
            self.assertEqual(back.wrong(), "")

    def test_what_came_is_mapped_before_the_guest_runs(self):
        """Pages are mapped in a VMM that has not touched them; and holes stay holes."""
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            self.assertLess(resident_bytes(destination), 1 << 20, "a VMM that waits has touched its memory")
            sender, code, _, err = move(lab, source, destination, "--bandwidth", "64M", receiver_options=["--paused"])
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            self.assertEqual(destination.status(), "paused")
            came, had = (vm.ram.stat().st_blocks * 512 for vm in (destination, source))
            self.assertGreater(resident_bytes(destination), came * 0.8)
            self.assertLess(came, had * 1.05)
            destination.qmp("cont")
            destination.counts_on()
            self.assertEqual(destination.wrong(), "")

    def test_busy_guest_every_way_of_sending(self):
        for options in (["--zero-copy", "--channels", "4"], ["--channels", "1"], ["--bandwidth", "200M"]):
            with self.subTest(options=options), vmlab.Lab() as lab:
                source = lab.a.vm(append="GW_MIB=48 GW_RATE_MIB=24")
                destination = lab.b.vm(append="GW_MIB=48 GW_RATE_MIB=24", incoming=True)
                source.wait_count(5)
                sender, code, _, err = move(lab, source, destination, *options)
                self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
                destination.wait_count(source.count() + 25)
                self.assertEqual(destination.wrong(), "")

    def test_each_tracker_that_works_without_kvm(self):
        for tracker in ("wp_sync", "wp_async"):
            with self.subTest(tracker=tracker), vmlab.Lab() as lab:
                source, destination = self.pair(lab)
                hook = f"{COMPARE} {source.ram} {destination.ram}"
                sender, code, _, err = move(lab, source, destination, "--tracker", tracker, receiver_options=["--hook", hook])
                self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
                self.assertEqual(vmlab.summary(sender.stdout)["tracker"], tracker)
                destination.counts_on()
                self.assertEqual(destination.wrong(), "")
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            receiver, port = lab.b.receive()
            sender = lab.a.godwit("migrate", "--tracker", "kvm_log+wp_async", "guest", f"127.0.0.1:{port}")
            self.assertEqual((sender.returncode, vmlab.ended(receiver)[0]), (1, "waits"))
            self.assertIn("KVM has no memory slot", sender.stderr)
            source.counts_on()

    def test_a_guest_that_is_too_fast_is_slowed_and_let_go(self):
        """The guest rewrites some 40 MiB a second, the link has 24, and 60 ms of blackout are
        allowed."""
        work = "GW_MIB=32 GW_RATE_MIB=40"
        limits = ["--bandwidth", "24M", "--downtime", "60"]

        def ticks(vm, seconds=2):
            first = vm.count()
            time.sleep(seconds)
            return vm.count() - first

        with vmlab.Lab() as lab:
            options = {"append": work, "ram_mib": 128}
            source, destination = lab.a.vm(**options), lab.b.vm(incoming=True, **options)
            source.wait_count(5)
            full = ticks(source)
            sender, code, _, _ = move(lab, source, destination, *limits, "--on-limit", "give-up", "--rounds", "4")
            self.assertEqual((sender.returncode, code), (1, 1))
            self.assertIn("does not converge", sender.stderr)
            # Slowed, then cancelled; slowed, then its godwit killed: the guest goes on at full
            # speed.
            for way in ("cancel", "kill"):
                destination.kill()
                destination = lab.b.vm(incoming=True, **options)
                receiver, port = lab.b.receive("guest")
                running = lab.a.start("migrate", "--quiet", *limits, "guest", f"127.0.0.1:{port}")
                vmlab.wait_for(lambda: lab.a.status().get("throttle_percent", 0) > 0, 60, "the throttle")
                if way == "cancel":
                    self.assertEqual(lab.a.godwit("cancel", "guest").returncode, 0)
                else:
                    running.kill()
                running.communicate(timeout=30)
                receiver.communicate(timeout=30)
                self.assertGreater(ticks(source), full / 2, way)
            destination.kill()
            destination = lab.b.vm(incoming=True, **options)
            sender, code, _, err = move(lab, source, destination, *limits)
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            end = vmlab.summary(sender.stdout)
            self.assertGreater(end["throttled_percent"], 0)
            self.assertEqual((end["throttle_percent"], end["on_limit"]), (0, "throttle"))
            destination.wait_count(source.count() + 30)
            self.assertEqual(destination.wrong(), "")
            print(f"  {end['round']} rounds, slowed by {end['throttled_percent']} % for {end['throttled_ns'] / 1e9:.1f} s, "
                  f"blackout {end['blackout']['total_ns'] / 1e6:.0f} ms, last round {end['last_round_bytes'] >> 10} KiB")

    def test_status_says_how_it_goes_and_the_time_is_kept(self):
        work = "GW_MIB=32 GW_RATE_MIB=40"
        with vmlab.Lab() as lab:
            options = {"append": work, "ram_mib": 128}
            source, destination = lab.a.vm(**options), lab.b.vm(incoming=True, **options)
            source.wait_count(5)
            receiver, port = lab.b.receive("guest")
            sender = lab.a.start("migrate", "--quiet", "--bandwidth", "20M", "--downtime", "100", "--rounds", "1000", "guest",
                                 f"127.0.0.1:{port}")
            vmlab.wait_for(lambda: lab.a.status().get("put_bytes", 0) > 4 << 20, 20, "some of the bulk")
            bulk, text = lab.a.status(), lab.a.godwit("status", "guest").stdout
            self.assertEqual(bulk["state"], "bulk")
            self.assertTrue(10 << 20 < bulk["sent_bytes_per_s"] < 30 << 20, bulk["sent_bytes_per_s"])
            self.assertRegex(text, r"round 0, \d+ of 128 MiB left, sent [1-9]\d* MiB at [1-9]\d* MiB/s, tracked by ")
            vmlab.wait_for(lambda: lab.a.status().get("throttle_percent", 0) > 0, 60, "the throttle")
            rounds, text = lab.a.status(), lab.a.godwit("status", "guest").stdout
            self.assertGreater(rounds["dirty_bytes_per_s"], 1 << 20, rounds)
            self.assertGreater(rounds["regions"][0]["dirty_bytes_per_s"], 1 << 20)
            self.assertGreater(rounds["predicted_blackout_ns"], 1e6)
            self.assertRegex(text, r"dirty [1-9]\d* MiB/s, blackout would be [1-9]\d* ms, tracked by wp_\w+, slowed by \d+ %")
            self.assertEqual(lab.a.godwit("cancel", "guest").returncode, 0)
            sender.communicate(timeout=60)
            receiver.communicate(timeout=60)
            destination.kill()
            # In the bulk phase too: half of it would take four seconds.
            for policy, codes in (("give-up", (1, 1)), ("stop-copy", (0, 0))):
                destination = lab.b.vm(incoming=True, **options)
                sender, code, _, _ = move(lab, source, destination, "--bandwidth", "10M", "--downtime", "100", "--max-time", "1",
                                          "--on-limit", policy)
                self.assertEqual((sender.returncode, code), codes, sender.stderr)
                if policy == "give-up":
                    self.assertIn("does not converge", sender.stderr)
                    source.counts_on()
                    destination.kill()
            end = vmlab.summary(sender.stdout)
            self.assertLess(end["elapsed_ns"], 3e9)
            self.assertGreater(end["last_round_bytes"], 8 << 20, "the rest of the bulk goes in the blackout")
            destination.counts_on()
            self.assertEqual(destination.wrong(), "")

    def test_memory_given_back_and_a_reboot_in_mid_migration(self):
        def balloon(vm):
            vm.qmp("balloon", value=128 << 20)
            vmlab.wait_for(lambda: vm.qmp("query-balloon")["actual"] <= 130 << 20, 30, "memory given back")

        # Most of the memory that is given back was sent before, and the guest does not clear it
        # first.  The destination must be told.
        for what, happens, sent_mib, rate in (("balloon", balloon, 190, "20M"), ("reset", lambda vm: vm.qmp("system_reset"), 20, "40M")):
            with self.subTest(what), vmlab.Lab() as lab:
                options = {"append": f"{WORK} GW_BALLOON=1 init_on_alloc=0", "extra": ["-device", "virtio-balloon-pci"]}
                source, destination = lab.a.vm(**options), lab.b.vm(incoming=True, **options)
                source.wait_count(5)
                full = source.ram.stat().st_blocks
                receiver, port = lab.b.receive("guest", "--hook", f"{COMPARE} {source.ram} {destination.ram}")
                sender = lab.a.start("migrate", "--json", "--bandwidth", rate, "guest", f"127.0.0.1:{port}")
                vmlab.wait_for(lambda: lab.a.status().get("put_bytes", 0) > sent_mib << 20, 40, "bulk")
                happens(source)
                self.assertIn(lab.a.status().get("state"), ("bulk", "rounds"), "it is in the midst of it")
                out, err = sender.communicate(timeout=60)
                self.assertEqual((sender.returncode, receiver.wait(timeout=20)), (0, 0), out[-500:] + err)
                if what == "balloon":
                    self.assertLess(source.ram.stat().st_blocks, full - (40 << 11), "much was given back")
                    self.assertLess(destination.ram.stat().st_blocks, full)
                destination.counts_on(60)
                self.assertEqual(destination.wrong(), "")

    def test_detached_with_status_and_list(self):
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            receiver, port = lab.b.receive()
            begun = lab.a.godwit("migrate", "-d", "--bandwidth", "40M", "guest", f"127.0.0.1:{port}")
            self.assertEqual(begun.returncode, 0, begun.stderr)
            status = lab.a.status()
            self.assertTrue(status["live"])
            self.assertEqual(status["role"], "source")
            self.assertEqual(lab.b.status()["role"], "destination")
            listed = json.loads(lab.a.godwit("list", "--json").stdout)
            self.assertEqual([(v["name"], v["activity"]) for v in listed], [("guest", "migrating")])
            self.assertEqual(receiver.wait(timeout=60), 0)
            vmlab.wait_for(lambda: not lab.a.status()["live"], 10, "end of the migration")
            self.assertEqual(lab.a.status()["state"], "done")
            destination.counts_on()

    def test_paused_guest_stays_paused_and_resumes(self):
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            source.qmp("stop")
            sender, code, _, err = move(lab, source, destination)
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            self.assertEqual(destination.status(), "paused")
            self.assertEqual(lab.b.godwit("resume", "guest").returncode, 0)
            destination.counts_on()

    def test_receive_paused_and_quit_source(self):
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            sender, code, _, err = move(lab, source, destination, "--quit", receiver_options=["--paused"])
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            source.process.wait(timeout=10)
            self.assertEqual(destination.status(), "paused")
            self.assertEqual(lab.b.godwit("resume", "guest").returncode, 0)
            destination.counts_on()

    def test_qemus_own_migrate_still_works_after_a_cancelled_one(self):
        """The guest is stopped: QEMU before 9.0 loses writes of a running one under TCG, without
        godwit too.  tests/lab/kvm.py tests a running one under KVM."""
        with vmlab.Lab() as lab:
            source, destination = self.pair(lab)
            _, port = lab.b.receive()
            sender = lab.a.start("migrate", "--bandwidth", "10M", "--json", "guest", f"127.0.0.1:{port}")
            vmlab.wait_for(lambda: lab.a.status().get("state") == "bulk", 10, "bulk")
            self.assertEqual(lab.a.godwit("cancel", "guest").returncode, 0)
            self.assertEqual(sender.wait(timeout=10), 3)
            source.counts_on()
            target = lab.b.vm("other", append=WORK, incoming=True, with_godwit=False)
            uri = f"unix:{lab.folder}/own.sock"
            target.qmp("migrate-incoming", uri=uri)
            source.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            source.qmp("stop")
            source.qmp("migrate", uri=uri)
            vmlab.wait_for(lambda: source.qmp("query-migrate")["status"] == "completed", 60, "QEMU's own migrate")
            vmlab.wait_for(lambda: target.status() == "paused", 20, "all of it there")
            subprocess.run([COMPARE, source.ram, target.ram], check=True)
            target.qmp("cont")
            target.wait_count(source.count() + 5)
            self.assertEqual(target.wrong(), "")

    def test_sparse_guest_stays_sparse(self):
        with vmlab.Lab() as lab:
            options = {"ram_mib": 1024, "append": WORK}
            source, destination = lab.a.vm(**options), lab.b.vm(incoming=True, **options)
            source.wait_count(5)
            before = source.ram.stat().st_blocks * 512
            sender, code, _, err = move(lab, source, destination)
            self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
            end = vmlab.summary(sender.stdout)
            after, there = source.ram.stat().st_blocks * 512, destination.ram.stat().st_blocks * 512
            self.assertLess(after - before, 4 << 20, "the source's file grew")
            self.assertLess(there, before + (8 << 20))
            self.assertLess(end["wire_bytes"], before + (64 << 20))
            destination.counts_on()

    def test_guest_on_huge_pages(self):
        try:
            huge = vmlab.HugePages(512)
        except (OSError, vmlab.LabError) as reason:
            self.skipTest(f"no huge pages: {reason}")
        try:
            with vmlab.Lab() as lab:
                source = lab.a.vm(append=WORK, ram=huge.folder / "a.ram")
                # The folder alone, as users write it: QEMU creates a file there and unlinks it.
                destination = lab.b.vm(append=WORK, incoming=True, ram=huge.folder)
                lab.files.remove(huge.folder)
                source.wait_count(5)
                sender, code, _, err = move(lab, source, destination)
                self.assertEqual((sender.returncode, code), (0, 0), sender.stderr + err)
                destination.wait_count(source.count() + 45)
                self.assertEqual(destination.wrong(), "")
        finally:
            huge.close()

    def test_godwit_itself_is_small(self):
        with vmlab.Lab() as lab:
            options = {"ram_mib": 4096, "guest": False, "paused": True}
            lab.a.vm(**options)
            lab.b.vm(incoming=True, **options)
            receiver, port = lab.b.receive("guest", "--hook", "sleep 1")
            sender = lab.a.start("migrate", "--json", "guest", f"127.0.0.1:{port}")
            own = 0
            while sender.poll() is None:
                for process in (sender, receiver):
                    try:
                        text = Path(f"/proc/{process.pid}/status").read_text()
                        own = max(own, *(int(line.split()[1]) << 10 for line in text.splitlines()
                                         if line.startswith("RssAnon")))
                    except (OSError, TypeError, ValueError):
                        pass
                time.sleep(0.02)
            self.assertEqual(sender.returncode, 0, sender.stderr.read())
            self.assertTrue(0 < own < 64 << 20, f"{own >> 20} MiB")


if __name__ == "__main__":
    runner.main()
