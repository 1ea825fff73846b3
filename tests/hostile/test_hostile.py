#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Strangers and liars do no harm: each kind of kinds.py against a real receiver or a real source,
under sanitizers.

One receiver serves one kind after the other.  After each, the guest's RAM and its image are
unchanged, the receiver is no larger, and the sanitizers are silent.
"""

import ctypes
import mmap
import os
import re
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402
import kinds  # noqa: E402
import mutate  # noqa: E402
import strangers  # noqa: E402
import wire  # noqa: E402

GUEST = "wanderer"
RAM_MIB, IMAGE_BYTES = 64, 1 << 20
SEED = int(os.environ.get("GODWIT_SEED", "1"))
MUTATIONS = 25
WARM_SESSIONS = 10
RSS_ROOM_KIB = 16 << 10  # memory that an allocator may keep
CROWD = 200  # sessions: 80 KiB leaked by each would be seen
PROTOCOL = vmlab.ROOT / "docs/protocol.md"
# The shim is in a QEMU without sanitizers.  Its sanitizer comes after libc, and leaks are QEMU's.
VM_SANITIZER = {"ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}
SANITIZER = {"ASAN_OPTIONS": "exitcode=99:quarantine_size_mb=1:malloc_context_size=4", "UBSAN_OPTIONS": "print_stacktrace=1"}
FAULTS = re.compile("Sanitizer|runtime error")


def disk(path):
    return ["-drive", f"file={path},format=raw,if=none,id=data", "-device", "virtio-blk-pci,drive=data"]


def start_vm(host, name, incoming, paused=False):
    """A VM without a guest, with one small image."""
    image = host.folder / f"{name}.img"
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
        if not incoming:
            os.pwrite(file.fileno(), os.urandom(300_000), 100_000)
    host.env.update(VM_SANITIZER)
    vm = host.vm(name, guest=False, ram_mib=RAM_MIB, incoming=incoming, paused=paused, extra=disk(image))
    host.env.update(SANITIZER)
    vm.image = image
    return vm


class Good:
    """The recording of a good session with disks, up to its device state."""

    def __init__(self, lab, vm):
        self.ram_bytes, self.nonce = RAM_MIB << 20, bytes(16)
        with wire.Receiver() as peer:
            sender = lab.a.start("migrate", "-b", "--channels", "1", "--json", vm.name, f"127.0.0.1:{peer.port}")
            peer.link()
            peer.until("DEVICE_END")
            self.messages, self.puts = list(peer.heard), list(peer.puts)
            peer.say("ERROR", wire.error(5, b"recorded"))
            out, err = sender.communicate(timeout=60)
        if sender.returncode != 1:
            raise vmlab.LabError(f"{out}{err}")
        of = dict(self.messages)
        self.hello, self.disks = wire.Hello(of["HELLO"]), wire.Disks(of["DISKS"])
        self.state = b"".join(payload for name, payload in self.messages if name == "DEVICE")


class Target:
    """A receiver, started again after a session that was its last, and the state that strangers
    must not change."""

    def __init__(self, test, lab, vm):
        self.test, self.lab, self.vm = test, lab, vm
        self.file = open(vm.ram, "r+b")
        self.memory = mmap.mmap(self.file.fileno(), 0)
        for at in range(0, len(self.memory), 1 << 20):
            self.memory[at:at + 4096] = os.urandom(4096)
        self.memory[-4096:] = os.urandom(4096)
        self.bytes = (ctypes.c_char * len(self.memory)).from_buffer(self.memory)
        self.kept = self.held()
        self.start()

    def start(self):
        self.process, self.port = self.lab.b.receive(self.vm.name)
        self.lines, self.sessions, self.first = [], 0, None
        for pipe in (self.process.stdout, self.process.stderr):
            threading.Thread(target=lambda p=pipe: self.lines.extend(p), daemon=True).start()

    def held(self):
        return wire.XXH.XXH64(self.bytes, len(self.bytes), 0), self.vm.image.stat().st_size, wire.xxh64(self.vm.image.read_bytes())

    def words(self):
        """Its last output without JSON."""
        return "".join(line for line in self.lines[-8:] if line[0] != "{")

    def wrong(self, label):
        """Output of the receiver or a sanitizer that is no answer to a stranger; and changed RAM or
        image."""
        text = "".join(self.lines)
        if FAULTS.search(text):
            return f"{label}: {text[-6000:]}"
        for now, was, what in zip(self.held(), self.kept, ("RAM changed", "the image was cut", "the image changed")):
            if now != was:
                self.kept = self.held()
                return f"{label}: {what}"
        return self.grown(label)

    def grown(self, label):
        """A receiver that grows by strangers after it served some."""
        memory, files = self.size() if self.is_alive() else (0, 0)
        if self.sessions <= WARM_SESSIONS:
            self.first = memory, files
            return None
        if memory > self.first[0] + RSS_ROOM_KIB:
            return f"{label}: {self.first[0]} KiB grew to {memory}"
        return None

    def forgets(self):
        """Whether the files of strangers are closed in the end."""
        if self.first and self.is_alive():
            vmlab.wait_for(lambda: self.size()[1] <= self.first[1], 60, "strangers' connections closed")

    def serves(self):
        """Whether it turns another guest's source away, as a waiting receiver does.  False: it has
        ended."""
        end = time.monotonic() + wire.PATIENCE
        while self.process.poll() is None:
            peer = None
            try:
                peer = wire.Source(self.port, 1, self.is_alive)
                peer.link()
                peer.say("ERROR", wire.error(5, b"goodbye"))
                peer.refused()
                self.sessions += 1
                return True
            except (wire.Closed, OSError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.002)
            finally:
                if peer:
                    peer.close()
        return False

    def is_alive(self):
        return self.process.poll() is None

    def size(self):
        """Memory in KiB, and descriptors."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)), len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self):
        self.bytes = None
        self.memory.close()
        self.file.close()


def reach(peer, where, good):
    """Sends the messages that lead to a place in a session."""
    if where == kinds.CALL:
        return
    peer.call(offers=where == kinds.RAILS)
    good.nonce = peer.nonce
    if where == kinds.WELCOMED:
        return
    peer.join_all()
    if where == kinds.RAILS:
        peer.hear("RAILS")
    if where in (kinds.LINKED, kinds.RAILS):
        return
    peer.say("HELLO", good.hello.pack())
    peer.hear("HELLO_OK")
    if where == kinds.DISKS:
        peer.say("DISKS", good.disks.pack())
        peer.hear("DISKS_OK")
    if where in (kinds.ROUNDS, kinds.SWITCHOVER, kinds.WAITS, kinds.LOADED, kinds.COMMITTED):
        peer.round()
    if where in (kinds.SWITCHOVER, kinds.WAITS, kinds.LOADED, kinds.COMMITTED):
        peer.say("SWITCH")
    if where in (kinds.LOADED, kinds.COMMITTED):
        for at in range(0, len(good.state), wire.MOST):
            peer.say("DEVICE", good.state[at:at + wire.MOST])
        peer.say("DEVICE_END", wire.device_end(good.state))
        peer.hear("LOADED")
    if where == kinds.COMMITTED:
        peer.say("COMMIT", bytes(4))
        peer.hear("COMMITTED")
    if where == kinds.WAITS:
        peer.say("ROUND_END", wire.round_end(1, 2))
        peer.say("DEVICE", b"state")
        peer.say("DEVICE_END", wire.device_end(b"state"))


def send(sock, data):
    """Sends all of it, or as much as the receiver takes before it hangs up."""
    try:
        sock.sendall(data)
    except OSError:
        pass


def play(target, kind, good):
    """One session with a stranger.  Return: the receiver's words before it hung up."""
    peer = wire.Source(target.port, 2, target.is_alive)
    try:
        reach(peer, kind.where, good)
        sock = peer.control
        if kind.channel == kinds.DATA:
            sock = peer.connect() if kind.where == kinds.WELCOMED else peer.data[0]
            if kind.where == kinds.WELCOMED:
                peer.data.append(sock)
        send(sock, kind.build(good))
        if kind.where in (kinds.CALL, kinds.WELCOMED):
            return peer.turned_away(sock) if kind.owed == kinds.REFUSED else ""
        if kind.owed != kinds.REFUSED:
            peer.shut_down()
        said = peer.refused()
        if kind.owed == kinds.REFUSED and "silent" in said:
            raise wire.Closed("not refused")
        return said
    finally:
        peer.close()


class Receivers(unittest.TestCase):
    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        # The guest never ran: its device state fits any content of the receiver's RAM.
        self.source = start_vm(self.lab.a, GUEST, False, paused=True)
        self.good = Good(self.lab, self.source)
        self.vm = start_vm(self.lab.b, GUEST, True)
        stat = self.vm.ram.stat()
        self.good.ram_device, self.good.ram_inode = stat.st_dev, stat.st_ino
        self.target = Target(self, self.lab, self.vm)
        self.addCleanup(self.target.close)
        self.secrets = (GUEST, "ram0", str(RAM_MIB << 20), f"{RAM_MIB} MiB", str(self.vm.ram), str(self.lab.folder))

    def check(self, kind, said):
        """After a kind the receiver serves the next one, or ended as it may; and nothing was
        changed."""
        label, target = f"{kind.about}: {kind.name} (after {kind.where})", self.target
        if kind.where in (kinds.LINKED, kinds.RAILS) and target.is_alive():
            target.sessions += 1  # the next kind finds out whether it serves
            wrong = target.wrong(label)
        elif not target.serves():
            code = target.process.wait()
            if code != 1 or not may_end(kind):
                self.failures.append(f"{label}: the receiver ended with {code}: {target.words()}")
            wrong = target.wrong(label)
            target.start()
        else:
            wrong = target.wrong(label)
        if wrong:
            self.failures.append(wrong)
        named = wire.padded(GUEST, 64) in kind.build(self.good)  # a peer that names the guest may hear why it does not fit
        if kind.where in (kinds.LINKED, kinds.RAILS) and not named and any(secret in said for secret in self.secrets):
            self.failures.append(f"{label}: a stranger hears {said!r}")

    def play_all(self, table):
        self.failures = []
        for kind in table:
            began = time.monotonic()
            try:
                said = play(self.target, kind, self.good)
            except (wire.Closed, OSError) as why:
                self.failures.append(f"{kind.about}: {kind.name} (after {kind.where}): {type(why).__name__} {why}: "
                                     f"{self.target.words()}")
                said = ""
            self.check(kind, said)
            if os.environ.get("GODWIT_TIMES"):
                print(f"{time.monotonic() - began:.3f} {kind.about}: {kind.name} (after {kind.where}): {said}", file=sys.stderr)
        self.assertTrue(self.target.serves(), self.target.words())
        self.target.forgets()
        if self.failures:
            self.fail(f"{len(self.failures)} of {len(table)}:\n" + "\n".join(self.failures))

    def test_handshake(self):
        self.play_all(kinds.HANDSHAKE)

    def test_headers(self):
        self.play_all(kinds.HEADERS)

    def test_puts(self):
        self.play_all(kinds.PUTS)

    def test_hellos(self):
        self.play_all(kinds.HELLOS)

    def test_messages(self):
        self.play_all(kinds.MESSAGES)

    def test_images(self):
        self.play_all(kinds.IMAGES)

    def test_a_crowd_costs_no_memory(self):
        self.failures = []
        crowd = [kinds.Kind("crowd", f"{n}", where, channel, build, kinds.BORNE) for n, (where, channel, build) in enumerate((
            (kinds.LINKED, kinds.CONTROL, kinds.message("HELLO", bytes(wire.MOST))),
            (kinds.LINKED, kinds.CONTROL, kinds.raw(wire.frame("HELLO", bytes(wire.MOST))[:-1])),
            (kinds.LINKED, kinds.DATA, kinds.raw(wire.put(0, 0, bytes(wire.MIB)))),
            (kinds.AGREED, kinds.DATA, kinds.raw(wire.put(7, 0, bytes(wire.MIB)))),
            (kinds.RAILS, kinds.CONTROL, kinds.message("CONNECTED", bytes(424)))))]
        for n in range(CROWD):
            play(self.target, crowd[n % len(crowd)], self.good)
            if n % WARM_SESSIONS == 0:
                self.check(crowd[n % len(crowd)], "")
        self.target.forgets()
        self.assertEqual(self.failures, [])

    def test_the_last_of_a_vm(self):
        """Kinds that use up the VMM, one for each; before COMMIT no guest runs here."""
        failures = []
        for kind in kinds.LAST:
            label = f"{kind.about}: {kind.name} (after {kind.where})"
            try:
                play(self.target, kind, self.good)
            except (wire.Closed, OSError) as why:
                failures.append(f"{label}: {type(why).__name__} {why}: {self.target.words()}")
            code, text = self.target.process.wait(timeout=60), "".join(self.target.lines)
            if code != (0 if kind.where == kinds.COMMITTED else 1) or FAULTS.search(text):
                failures.append(f"{label}: exit status {code}: {text[-3000:]}")
            if self.vm.process.poll() is None and self.vm.status() == "running":
                failures.append(f"{label}: the guest runs")
            self.target.close()
            self.vm.kill()
            self.vm = start_vm(self.lab.b, GUEST, True)
            self.target = Target(self, self.lab, self.vm)
        if failures:
            self.fail("\n".join(failures))

    def test_mutations_of_a_good_session(self):
        """Seeded: GODWIT_SEED=N takes others."""
        failures = []
        for n in range(MUTATIONS):
            stream = mutate.Stream(self.good.messages, self.good.puts, f"{SEED}/{n}")
            peer = wire.Source(self.target.port, 1, self.target.is_alive)
            with peer:
                peer.link()
                stream.play(peer)
            self.target.kept = (self.target.held()[0], *self.target.kept[1:])  # its puts are the guest's
            if not self.target.serves():
                code = self.target.process.wait()
                wrong = self.target.wrong("") or (f"exit status {code}" if code not in (1, 3) else None)
                self.target.start()
            else:
                wrong = self.target.wrong("")
            if wrong:
                failures.append(f"GODWIT_SEED={SEED}, mutation {n}, {stream.what}: {wrong}")
        if failures:
            self.fail("\n".join(failures))


class Beside(unittest.TestCase):
    """Strangers call all the time; the receiver's migration goes on to the last byte."""

    def test_a_migration_beside_strangers(self):
        with vmlab.Lab() as lab:
            source, target = start_vm(lab.a, GUEST, False, paused=True), start_vm(lab.b, GUEST, True)
            with open(source.ram, "r+b") as file:
                for at in range(0, RAM_MIB << 20, 1 << 20):
                    os.pwrite(file.fileno(), os.urandom(wire.MIB // 2), at)
            receiver, port = lab.b.receive(GUEST)
            with strangers.Crowd(port) as crowd:
                vmlab.wait_for(lambda: crowd.calls > 20, 60, "strangers")
                done = lab.a.godwit("migrate", "-b", "--json", "--bandwidth", "30M", GUEST, f"127.0.0.1:{port}")
                calls = crowd.calls
            out, err = receiver.communicate(timeout=60)
            for text in (done.stdout, done.stderr, out, err):
                self.assertIsNone(FAULTS.search(text), text)
            self.assertEqual((done.returncode, receiver.returncode), (0, 0), f"{calls} calls: {done.stderr}{err}")
            self.assertEqual(source.ram.read_bytes(), target.ram.read_bytes())
            self.assertEqual(source.image.read_bytes(), target.image.read_bytes())


class Sources(unittest.TestCase):
    """A lying receiver: the guest runs on at the source, and the exit status says so."""

    def setUp(self):
        self.lab = vmlab.Lab()
        self.addCleanup(self.lab.close)
        self.peer = wire.Receiver()
        self.addCleanup(self.peer.close)
        self.vms = 0

    def source(self):
        self.vms += 1
        return start_vm(self.lab.a, f"{GUEST}{self.vms}", False)

    def lie(self, kind):
        """Answers correctly up to the message that gets a lie."""
        peer, good = self.peer, self
        if kind.where in (kinds.CONNECT, kinds.JOIN):
            peer.call()
            if kind.where == kinds.JOIN:
                peer.control.sendall(wire.welcome(nonce=b"n" * 16))
                sock = peer.accept()
                peer.data.append(sock)
                wire.Reader(sock).exactly(32)
            send(peer.data[-1] if peer.data else peer.control, kind.build(good))
        else:
            peer.link()
            _, self.last = peer.until(kind.where)
            send(peer.control, kind.build(good))
        if kind.owed == kinds.REFUSED:
            peer.drained()
        peer.hang_up()

    def play(self, vm, kind):
        """Return: the difference, or None."""
        disks = ["-b"] if kind.where in ("DISKS", "DISK", "DISK_END") else []
        sender = self.lab.a.start("migrate", "--quiet", *disks, vm.name, f"127.0.0.1:{self.peer.port}")
        why = ""
        try:
            self.lie(kind)
        except (wire.Closed, OSError) as error:
            why = f"{type(error).__name__} {error}"
        self.peer.hang_up()
        _, err = sender.communicate(timeout=60)
        code = {kinds.CANCELLED: 3, kinds.UNCERTAIN: 4}.get(kind.owed, 1)
        status = "paused" if kind.owed == kinds.UNCERTAIN else "running"
        if why or sender.returncode != code or FAULTS.search(err) or "\x1b" in err:
            return f"{why} exit status {sender.returncode}: {err[-3000:]}"
        if kind.owed == kinds.REFUSED and "has been silent" in err:
            return f"not refused: {err}"
        if not vm.status().endswith(status) and not (status == "paused" and vm.status() == "postmigrate"):
            return f"the guest is {vm.status()}: {err}"
        return None

    def test_lies(self):
        failures, vm = [], self.source()
        for kind in kinds.SOURCE:
            began = time.monotonic()
            wrong = self.play(vm, kind)
            if wrong:
                failures.append(f"{kind.about}: {kind.name} (to {kind.where}): {wrong}")
            if wrong or kind.owed == kinds.UNCERTAIN:
                vm.kill()
                vm = self.source()
            if os.environ.get("GODWIT_TIMES"):
                print(f"{time.monotonic() - began:.3f} {kind.about}: {kind.name} (to {kind.where})", file=sys.stderr)
        if failures:
            self.fail(f"{len(failures)} of {len(kinds.SOURCE)}:\n" + "\n".join(failures))


class Coverage(unittest.TestCase):
    """Each row of the tables of docs/protocol.md has a kind, for the side that may say it and for
    the one that may not."""

    def test_each_message_of_the_protocol(self):
        text = PROTOCOL.read_text()
        rows = re.findall(r"^\| (0x[0-9A-F]{4}|\d+) \| ([A-Z_]+) \| (source|receiver|either) \|", text, re.M)
        self.assertGreater(len(rows), 30)
        for number, name, sender in rows:
            self.assertEqual(wire.TYPES.get(name), int(number, 0), f"{name} of docs/protocol.md is not in wire.py")
            for table, label in ((kinds.RECEIVER, "a receiver"), (kinds.SOURCE, "a source")):
                self.assertTrue(any(kind.about == name for kind in table), f"no kind of {name} to {label}")

    def test_enough_kinds(self):
        for table in (kinds.RECEIVER, kinds.SOURCE):
            labels = [(kind.about, kind.name, kind.where) for kind in table]
            self.assertEqual(len(set(labels)), len(labels), [one for one in labels if labels.count(one) > 1])
        self.assertGreater(len(kinds.RECEIVER), 300)


def may_end(kind):
    """Something was begun: the session that began it is the receiver's last."""
    return kind.where in (kinds.DISKS, kinds.SWITCHOVER, kinds.WAITS)


if __name__ == "__main__":
    runner.main()
