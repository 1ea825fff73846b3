#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A network that silently loses packets: one way, both ways, for good, or for eight seconds.

Each end runs in a network namespace of its own.  All guests move at once.  Each has a port of its
own, and so its own rules.
"""

import json
import mmap
import os
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

MIB = 1 << 20
PLACE = (16 * MIB, 40 * MIB)  # of a guest of 64 MiB; its firmware uses the memory before and after
ADDRESSES = {"a": "10.117.0.1", "b": "10.117.0.2"}
AWAY_S = 8
LIMIT_S = 60  # by then everything has ended: TCP gives a silent peer up after 15 s


def run(*args):
    done = subprocess.run([*map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise vmlab.LabError(f"{' '.join(map(str, args))}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Two namespaces joined by a cable, and rules that drop packets."""

    def __init__(self):
        self.names = {side: f"gw-{os.getpid()}-{side}" for side in "ab"}
        try:
            for name in self.names.values():
                run("ip", "netns", "add", name)
            run("ip", "link", "add", "veth0", "netns", self.names["a"], "type", "veth", "peer", "name", "veth0", "netns",
                self.names["b"])
            for side, name in self.names.items():
                run("ip", "-n", name, "address", "add", f"{ADDRESSES[side]}/24", "dev", "veth0")
                run("ip", "-n", name, "link", "set", "veth0", "up")
                self.nft(side, "add table inet lost; add chain inet lost in { type filter hook input priority 0; }")
        except (OSError, vmlab.LabError):
            self.close()
            raise

    def nft(self, side, *words):
        return run("ip", "netns", "exec", self.names[side], "nft", *words)

    def lose(self, to, port):
        """Drops packets to one side of the connections with a port."""
        self.nft(to, f"add rule inet lost in tcp {'dport' if to == 'b' else 'sport'} {port} counter drop comment \"{port}\"")

    def rules(self, side):
        found = [item["rule"] for item in json.loads(self.nft(side, "-j", "list chain inet lost in"))["nftables"] if "rule" in item]
        return {int(rule["comment"]): (rule["handle"], rule["expr"][1]["counter"]["packets"]) for rule in found}

    def dropped(self, to, port):
        return self.rules(to)[port][1]

    def mend(self, to, port):
        self.nft(to, f"delete rule inet lost in handle {self.rules(to)[port][0]}")

    def close(self):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Case:
    """One guest whose migration is cut in a phase: packets to the sides in .lost are dropped, for a
    while if .away is set."""

    def __init__(self, network, lab, phase, lost, away):
        self.network, self.lab, self.phase, self.lost, self.away = network, lab, phase, lost, away
        self.name = f"{phase}-{'away' if away else 'to-' + lost}"
        self.source, self.destination = (host.vm(self.name, guest=False, ram_mib=64, incoming=host is lab.b)
                                         for host in (lab.a, lab.b))
        with open(self.source.ram, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[PLACE[0]:PLACE[1]] = os.urandom(PLACE[1] - PLACE[0])
            self.content = memory[PLACE[0]:PLACE[1]]
        self.gate = lab.folder / f"{self.name}.gate"
        self.cut_at, self.dropped = 0, []

    def godwit(self, side, *args):
        process = subprocess.Popen(["ip", "netns", "exec", self.network.names[side], str(vmlab.GODWIT), *args],
                                   env=(self.lab.a if side == "a" else self.lab.b).env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.lab.processes.append(process)
        return process

    def begin_and_cut(self):
        hook = ["--hook", f"while [ ! -e {self.gate} ]; do sleep 0.1; done"] if self.phase == "blackout" else []
        self.receiver = self.godwit("b", "receive", "--name", self.name, "--listen", f"{ADDRESSES['b']}:0", "--insecure", "--tcp",
                                    "--json", *hook)
        self.port = int(json.loads(self.receiver.stdout.readline())["address"].rsplit(":", 1)[1])
        limit = ["--bandwidth", "8M"] if self.phase == "bulk" else []
        self.sender = self.godwit("a", "migrate", "--quiet", "--no-rehearsal", *limit, self.name, f"tcp:{ADDRESSES['b']}:{self.port}")
        if self.phase == "bulk":
            vmlab.wait_for(lambda: self.lab.a.status(self.name).get("put_bytes", 0) > MIB, 20, "bulk")
        else:
            vmlab.wait_for(lambda: self.source.status() != "running", 20, "blackout")
            time.sleep(0.3)  # into the hook
        for side in self.lost:
            self.network.lose(side, self.port)
        self.cut_at = time.monotonic()
        self.gate.touch()

    def mend(self):
        self.count()
        for side in self.lost:
            self.network.mend(side, self.port)

    def count(self):
        self.dropped = self.dropped or [self.network.dropped(side, self.port) for side in self.lost]

    def end(self):
        _, self.err = self.sender.communicate(timeout=LIMIT_S)
        self.receiver.communicate(timeout=LIMIT_S)
        self.count()
        self.seconds = time.monotonic() - self.cut_at
        self.codes = self.sender.returncode, self.receiver.returncode
        self.states = self.source.status(), self.destination.status()

    def arrived(self):
        with open(self.destination.ram, "rb") as file:
            file.seek(PLACE[0])
            return file.read(len(self.content)) == self.content


class Links(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        try:
            self.network = Network()
        except (OSError, vmlab.LabError) as why:
            self.skipTest(f"no network namespaces with nftables: {why}")
        self.addCleanup(self.network.close)

        self.cases = []

    def cut(self, phase, lost, away=False):
        case = Case(self.network, self.lab, phase, lost, away)
        case.begin_and_cut()
        self.cases.append(case)

    def test_packets_that_are_lost_without_a_word(self):
        for phase in ("bulk", "blackout"):
            for lost in ("a", "b", "ab"):
                self.cut(phase, lost)
            self.cut(phase, "ab", away=True)
        for case in self.cases:
            if case.away:
                time.sleep(max(0, case.cut_at + AWAY_S - time.monotonic()))
                case.mend()
        for case in self.cases:
            with self.subTest(case.name):
                case.end()
                print(f"  {case.name}: exit {case.codes}, {case.states}, {case.seconds:.1f} s, {case.dropped} dropped")
                self.assertGreater(min(case.dropped), 0, "no packet was dropped")
                {("bulk", False): self.stayed, ("bulk", True): self.moved, ("blackout", False): self.stayed_or_uncertain,
                 ("blackout", True): self.moved_or_stayed}[case.phase, case.away](case)

    def stayed(self, case):
        self.assertEqual((case.codes[0], case.states[0]), (1, "running"), case.err)
        self.assertNotEqual(case.codes[1], 0)
        self.assertNotEqual(case.states[1], "running")
        if case.phase == "bulk":
            self.assertNotIn("STOP", [event["event"] for event in case.source.qmp.events])

    def moved(self, case):
        self.assertEqual((case.codes, case.states), ((0, 0), ("postmigrate", "running")), case.err)
        self.assertTrue(case.arrived(), "wrong bytes")

    def moved_or_stayed(self, case):
        """A pause of eight seconds may be allowed or not."""
        (self.moved if case.states[1] == "running" else self.stayed)(case)

    def stayed_or_uncertain(self, case):
        """COMMIT is lost: both ends say that the owner is uncertain, and their advice leads to a
        running guest."""
        if case.codes[0] != 4:
            self.stayed(case)
            return
        self.assertEqual(case.lost, "b", "the destination's word never came: nothing was committed")
        self.assertNotIn("running", case.states)
        self.assertIn("uncertain", self.lab.a.godwit("status", case.name).stdout)
        self.assertIn(f"godwit resume --force {case.name}", self.lab.a.godwit("status", case.name).stdout)
        self.assertFalse(self.lab.b.status(case.name)["owns_guest"])
        case.destination.kill()
        resumed = self.lab.a.godwit("resume", "--force", case.name)
        self.assertEqual((resumed.returncode, case.source.status()), (0, "running"), resumed.stderr)


if __name__ == "__main__":
    runner.main()
