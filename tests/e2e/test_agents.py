#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""godwit and agents of other versions; an agent without descriptors.

An archived agent of each version (tests/agents) takes the place of today's in real VMs, and godwit
moves the guest.  For the other tests today's agent runs in a `sleep`, and gets raw bytes.
"""

import importlib
import os
import resource
import socket
import struct
import subprocess
import sys
import time
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "lib"), str(TESTS / "agents")]
import runner  # noqa: E402
import vmlab  # noqa: E402

VERSIONS = [importlib.import_module(path.stem) for path in sorted((TESTS / "agents").glob("version_*.py"))]
OLDEST, NEWEST = min(v.VERSION for v in VERSIONS), max(v.VERSION for v in VERSIONS)
AGENT, LEASE = struct.pack("=I", 0x47574147), struct.pack("=I", 0x47574C31)
HELLO, STOCK = 1, 14


def hello(oldest, newest, more=b""):
    return AGENT + struct.pack("=HHHHHH", newest, HELLO, oldest, 0, 0, 0) + more


def share_wanted(pid, names, seconds=1.5):
    """The share of a time in which threads of those names ran or waited for a processor.  The load
    of the machine does not change it."""
    def wanted():
        tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() in names]
        return {task.name: sum(map(int, (task / "schedstat").read_text().split()[:2])) for task in tasks}
    before, start = wanted(), time.monotonic()
    time.sleep(seconds)
    after, took = wanted(), time.monotonic() - start
    return max((after[task] - before[task]) / 1e9 / took for task in before)


class Archived(unittest.TestCase):
    """A VM that was started before an update of godwit."""

    def move(self, lab, version):
        """Moves a paused guest between two VMs with that agent.  Return: the agents of source and
        destination."""
        name, agents = f"v{version.VERSION}", []
        for host, incoming in ((lab.a, False), (lab.b, True)):
            vm = host.vm(name, ram_mib=64, guest=False, paused=not incoming, incoming=incoming)
            agents.append(version.Agent(Path(host.env["GODWIT_RUN_DIR"]) / name, vm.process.pid, vm.ram))
            self.addCleanup(agents[-1].close)
            lab.paths.append(vm.ram)
        with open(lab.paths[-2], "r+b") as file:
            for at in range(0, 64 << 20, 1 << 20):
                file.seek(at + 512)
                file.write(os.urandom(64))
        receiver, port = lab.b.receive(name, "--quiet")
        sender = lab.a.godwit("migrate", "--quiet", name, f"127.0.0.1:{port}")
        _, err = receiver.communicate(timeout=60)
        self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr + err)
        return agents

    def test_a_vm_of_each_past_version_moves(self):
        with vmlab.Lab() as lab:
            lab.paths = []
            for version in VERSIONS:
                with self.subTest(version=version.VERSION):
                    here, there = self.move(lab, version)
                    self.assertEqual(here.wrong + there.wrong, [])
                    self.assertTrue({version.HELLO, version.REGIONS, version.TRACK, version.COLLECT} <= set(here.asked))
                    self.assertTrue({version.HELLO, version.REGIONS, version.PREFAULT} <= set(there.asked))
                    self.assertGreater(here.beats, 0)
                    self.assertTrue(lab.paths[-2].read_bytes() == lab.paths[-1].read_bytes(), "RAM differs")


class Today(unittest.TestCase):
    """The agent of this build, in a process that has no other task."""

    def setUp(self):
        lab = vmlab.Lab()
        self.addCleanup(lab.close)
        self.folder = lab.folder / "vm"
        self.folder.mkdir()
        shim = next(vmlab.BUILD.rglob("libgodwit-shim.so"))
        env = dict(os.environ, LD_PRELOAD=str(shim), GODWIT_VM_DIR=str(self.folder), GODWIT_VMM="sleep")
        self.process = subprocess.Popen(["sleep", "1000"], env=env)
        lab.processes.append(self.process)
        vmlab.wait_for((self.folder / "lease.sock").exists, what="the agent")

    def connect(self, name="agent.sock"):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(client.close)
        client.settimeout(20)

        def reach():
            try:
                client.connect(str(self.folder / name))
                return True
            except ConnectionRefusedError:  # bound, and not listening yet
                return False
        vmlab.wait_for(reach, what=name)
        return client

    def ask(self, client, packet):
        """Return: version, type, status, oldest, newest, text of the answer."""
        client.send(packet)
        return self.answer(client)

    def answer(self, client):
        got = client.recv(8192)
        self.assertGreaterEqual(len(got), 408)
        self.assertEqual(got[:4], AGENT)
        version, kind, status, oldest, newest, pid, _, text = struct.unpack_from("=HHiHHiI384s", got, 4)
        self.assertEqual((oldest, newest, pid), (OLDEST, NEWEST, self.process.pid))
        return version, kind, status, text.rstrip(b"\0").decode()

    def test_the_newest_version_of_both_is_spoken(self):
        for oldest, newest in ((OLDEST, NEWEST), (1, NEWEST + 4), (NEWEST, 0xffff)):
            with self.subTest(oldest=oldest, newest=newest):
                client = self.connect()
                self.assertEqual(self.ask(client, hello(oldest, newest)), (NEWEST, HELLO, 0, ""))
                client.close()

    def test_a_godwit_without_a_common_version_is_refused_in_words(self):
        for oldest, newest in ((NEWEST + 1, NEWEST + 2), (1, OLDEST - 1), (0, 0)):
            with self.subTest(oldest=oldest, newest=newest):
                client = self.connect()
                *_, status, text = self.ask(client, hello(oldest, newest))
                self.assertEqual(status, -93)
                self.assertIn(f"versions {OLDEST} to {NEWEST}, this godwit speaks {oldest} to {newest}", text)
                client.close()

    def test_fields_behind_the_known_ones_are_skipped_and_unknown_requests_refused(self):
        client = self.connect()
        self.assertEqual(self.ask(client, hello(OLDEST, NEWEST, b"\xff" * 4000))[2], 0)
        self.assertEqual(self.ask(client, AGENT + struct.pack("=HH", NEWEST, STOCK) + b"\xff" * 40)[1:3], (STOCK, 0))
        *_, status, text = self.ask(client, AGENT + struct.pack("=HH", NEWEST, 99))
        self.assertEqual(status, -56)
        self.assertIn("knows no request 99", text)
        self.assertEqual(self.ask(client, AGENT + struct.pack("=HH", NEWEST, STOCK))[1:3], (STOCK, 0))
        client.send(AGENT + struct.pack("=HH", NEWEST + 1, STOCK))
        self.assertEqual(client.recv(8192), b"", "a version that was not agreed on")

    def test_the_lease_refuses_a_version_that_it_does_not_speak(self):
        for version, status in ((NEWEST + 1, -93), (OLDEST - 1, -93), (OLDEST, 0)):
            client = self.connect("lease.sock")
            client.send(LEASE + struct.pack("=HHiIQ", version, 1, 0, 0, 0))
            self.assertEqual(struct.unpack("=4sHHiIQ", client.recv(64))[3], status)
            client.close()

    def test_a_lease_of_one_process_cuts_no_other(self):
        client = self.connect()
        self.assertEqual(self.ask(client, hello(OLDEST, NEWEST))[2], 0)
        self.assertEqual(self.connect("lease.sock").recv(64), b"", "a client that says nothing is let go, without LAPSED")
        other = f"""
import socket, struct
lease = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
lease.connect({str(self.folder / 'lease.sock')!r})
for kind in (1, 3):
    lease.send({LEASE!r} + struct.pack("=HHiIQ", {NEWEST}, kind, 0, 0, 1))
    lease.recv(64)
print(struct.unpack_from("=H", lease.recv(64), 6)[0], lease.recv(64))
"""
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.stdout, "5 b''\n", done.stderr)
        self.assertEqual(self.ask(client, AGENT + struct.pack("=HH", NEWEST, STOCK))[1:3], (STOCK, 0))

    def limit(self, most):
        """Limits the process to so many descriptors."""
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def descriptors(self):
        return {int(fd.name) for fd in Path(f"/proc/{self.process.pid}/fd").iterdir()}

    def is_at_rest(self):
        folder = Path(f"/proc/{self.process.pid}/fd")
        try:
            targets = {int(fd.name): os.readlink(fd) for fd in folder.iterdir()}
        except FileNotFoundError:  # closed in the meantime
            return False
        return set(targets) == set(range(len(targets))) and list(targets.values()).count("anon_inode:[eventfd]") == 2

    def test_without_descriptors_a_godwit_is_refused_in_words(self):
        vmlab.wait_for(self.is_at_rest, what="a spare descriptor at both sockets, and no other behind them")
        self.limit(len(self.descriptors()))
        for _ in range(3):
            *_, status, text = self.answer(self.connect())
            self.assertEqual(status, -24)
            self.assertIn(f"prlimit --pid {self.process.pid}", text)
            self.assertEqual(struct.unpack("=4sHHiIQ", self.connect("lease.sock").recv(64))[3], -24)

    def test_without_a_spare_descriptor_too_nothing_spins(self):
        self.limit(3)
        clients = self.connect(), self.connect("lease.sock")
        vmlab.wait_for(lambda: len(self.descriptors()) == 5, what="spares given up")
        self.assertLess(share_wanted(self.process.pid, ("godwit-agent", "godwit-lease")), 0.4)
        self.limit(1 << 10)
        self.assertEqual(self.ask(clients[0], hello(OLDEST, NEWEST))[2], 0)
        clients[1].send(LEASE + struct.pack("=HHiIQ", NEWEST, 1, 0, 0, 0))
        self.assertEqual(struct.unpack("=4sHHiIQ", clients[1].recv(64))[3], 0)


class Status(unittest.TestCase):
    """The socket of a working godwit, which `status` asks."""

    def test_a_receiver_without_descriptors_does_not_spin(self):
        with vmlab.Lab() as lab:
            lab.a.vm(ram_mib=64, guest=False, paused=True)
            lab.b.vm(ram_mib=64, guest=False, incoming=True)
            flag, go = lab.folder / "flag", lab.folder / "go"
            receiver, port = lab.b.receive("guest", "--quiet", "--hook", f"touch {flag}; while ! [ -e {go} ]; do sleep 0.1; done")
            sender = lab.a.start("migrate", "--quiet", "guest", f"127.0.0.1:{port}")
            vmlab.wait_for(flag.exists, what="the hook")
            limit = resource.prlimit(receiver.pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(str(Path(lab.b.env["GODWIT_RUN_DIR"]) / "guest" / "receive.sock"))
                share = share_wanted(receiver.pid, ("godwit-monitor",))
                resource.prlimit(receiver.pid, resource.RLIMIT_NOFILE, limit)
                client.settimeout(20)
                client.send(b"status")
                self.assertIn(b'"state"', client.recv(8192))
            go.touch()
            self.assertLess(share, 0.4)
            self.assertEqual((sender.wait(60), receiver.wait(60)), (0, 0))


if __name__ == "__main__":
    runner.main()
