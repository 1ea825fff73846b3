#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Strangers cannot harm a waiting receiver, and an operator's migration succeeds meanwhile."""

import json
import os
import resource
import socket
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import peer  # noqa: E402
import runner  # noqa: E402
import vmlab  # noqa: E402

MIB = 1 << 20
RAM_MIB = 64
SECRETS = ("secret-guest", "ram0", "/tmp", "/dev/shm", "64")


def disk(path):
    return ["-drive", f"file={path},format=raw,if=none,id=disk0", "-device", "virtio-blk-pci,drive=disk0,addr=5"]


class Recorder:
    """Listens as a receiver does, takes one HELLO, and hangs up."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.payload = b""
        self.thread = threading.Thread(target=self.record, daemon=True)
        self.thread.start()

    def record(self):
        control = self.listener.accept()[0]
        channels = int.from_bytes(peer.read(control, 32)[10:12], "big")
        welcome = b"GWOK\0\3\0\0" + bytes(16)
        control.sendall(welcome)
        data = []
        for _ in range(channels):
            data.append(self.listener.accept()[0])
            peer.read(data[-1], 32)
            data[-1].sendall(welcome)
        self.payload = peer.read(control, int.from_bytes(peer.read(control, 24)[8:12], "big"))
        for sock in (control, *data, self.listener):
            sock.close()


class Strangers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = vmlab.Lab()
        cls.addClassCleanup(cls.lab.close)
        cls.images = [cls.lab.folder / f"{side}.img" for side in "ab"]
        for path in cls.images:
            path.write_bytes(bytes(MIB))
        cls.source = cls.lab.a.vm("secret-guest", guest=False, paused=True, ram_mib=RAM_MIB, extra=disk(cls.images[0]))
        recorder = Recorder()
        cls.lab.a.godwit("migrate", "--no-rehearsal", "secret-guest", f"tcp:127.0.0.1:{recorder.port}")
        recorder.thread.join(20)
        cls.hello = recorder.payload

    def setUp(self):
        self.images[1].write_bytes(bytes(MIB))
        self.destination = self.lab.b.vm("secret-guest", guest=False, paused=True, ram_mib=RAM_MIB, incoming=True,
                                         extra=disk(self.images[1]))
        self.addCleanup(self.destination.kill)
        self.receiver, self.port = self.receive()

    def receive(self, *options):
        receiver, port = self.lab.b.receive("secret-guest", "--tcp", *options)
        self.addCleanup(self.end, receiver)
        return receiver, port

    @staticmethod
    def end(receiver):
        receiver.kill()
        receiver.communicate()

    def right_peer(self, port=None, **options):
        """A peer whose HELLO was accepted."""
        one = peer.Peer(port or self.port, **options)
        self.addCleanup(one.close)
        one.say(peer.HELLO, self.hello)
        self.assertEqual(one.hear()[0], peer.HELLO_OK)
        return one

    def migrates(self, *options):
        """An operator's migration succeeds, however long it takes."""
        sender = self.lab.a.godwit("migrate", "--quiet", "--no-rehearsal", *options, "secret-guest", f"tcp:127.0.0.1:{self.port}")
        self.assertEqual(sender.returncode, 0, sender.stderr)
        self.assertEqual(self.receiver.wait(timeout=60), 0)
        # And it can go again.
        self.lab.a.godwit("resume", "--force", "secret-guest")
        self.source.qmp("stop")

    # --- before HELLO ---------------------------------------------------------------------------------------

    def test_nothing_is_written_before_hello(self):
        before = self.destination.ram.read_bytes()
        with peer.Peer(self.port) as one:
            one.data[0].sendall(peer.put(0, 0, b"\xaa" * MIB))
            for i in range(8, RAM_MIB):
                one.data[0].setblocking(False)
                try:
                    one.data[0].send(peer.put(0, i * MIB, b"\xaa" * 65536))
                except OSError:
                    break
            time.sleep(0.5)
            one.say(peer.HELLO, peer.hello("other-guest", [("ram0", RAM_MIB * MIB)]))
            self.assertEqual(one.hear()[0], peer.ERROR)
        self.assertEqual(self.destination.ram.read_bytes(), before)
        self.migrates()

    def test_a_stranger_hears_nothing_of_this_host(self):
        wrong = (peer.hello("other-guest", [("ram0", RAM_MIB * MIB)]), peer.hello("other-guest", [("x", MIB)]), b"GODW", b"junk" * 99)
        for payload in wrong:
            with peer.Peer(self.port) as one:
                one.say(peer.HELLO, payload)
                kind, text = one.answer()
                self.assertEqual(kind, peer.ERROR)
                self.assertNotRegex(text, "|".join(SECRETS))
                self.assertIn("does not wait for this guest", text)
        for kind in (peer.ZERO, peer.ALIVE, peer.ERROR):  # before HELLO nothing is heard or answered
            with peer.Peer(self.port) as one:
                one.say(kind, bytes(8))
                self.assertRaises(peer.Closed, one.hear)
        with peer.Peer(self.port) as one:  # a peer that names the guest hears more
            one.say(peer.HELLO, peer.hello("secret-guest", [("ram0", 2 * RAM_MIB * MIB)]))
            self.assertIn("same size", one.answer()[1])
        self.migrates()

    # --- after it -------------------------------------------------------------------------------------------

    def test_a_source_that_hangs_up_before_anything_began(self):
        for _ in range(3):
            self.right_peer().close()
        one = self.right_peer()
        one.say(peer.ERROR, b"\0\0\0\1a text")
        one.close()
        self.migrates()

    def test_a_source_that_hangs_up_in_mid_copy_ends_it(self):
        one = self.right_peer()
        one.data[0].sendall(peer.put(0, 0, b"\xaa" * 4096) + peer.fence(1))
        vmlab.wait_for(lambda: self.destination.ram.read_bytes()[:1] == b"\xaa", 20, "a put")
        time.sleep(0.1)
        one.close()
        self.assertEqual(self.receiver.wait(timeout=30), 1)

    def test_sizes_and_pieces_that_no_image_has(self):
        path = self.images[1]
        self.end(self.receiver)
        content = os.urandom(MIB)
        path.write_bytes(content)
        self.receiver, self.port = self.receive("--overwrite")
        front = self.front()
        for size in (1 << 62, (1 << 63) - 1, (1 << 50) + 512):
            one = self.right_peer()
            one.say(peer.DISKS, peer.disks(("disk0", size, front, "raw")))
            kind, text = one.answer()
            self.assertEqual(kind, peer.ERROR, size)
            self.assertIn("disk 'disk0'", text)
            one.close()
            self.assertEqual(path.read_bytes(), content, "it was cut")
        self.assertIsNone(self.receiver.poll())
        for piece in ((0, 1, MIB - 65536, 65536 + 512, 0), (0, 1, 1 << 40, 65536, 0), (0, 0, MIB, 512, 0),
                      (0, 1, (1 << 64) - 4096, 8192, 0), (0, 1, 0, 1 << 63, 0)):
            with self.subTest(piece=piece):
                if self.receiver.poll() is not None:
                    self.receiver, self.port = self.receive("--overwrite")
                one = self.right_peer()
                one.say(peer.DISKS, peer.disks(("disk0", MIB, front, "raw")))
                self.assertEqual(one.hear()[0], peer.DISKS_OK)
                one.say(peer.DISK, peer.disk(1, piece))
                self.assertEqual(one.answer()[0], peer.ERROR)
                self.assertLessEqual(path.stat().st_size, MIB)
                one.close()
                self.assertEqual(self.receiver.wait(timeout=30), 1)

    def front(self):
        """The place of disk0, as the receiver's error names it when it is told another one."""
        one = self.right_peer()
        one.say(peer.DISKS, peer.disks(("disk0", MIB, "nowhere", "raw")))
        text = one.answer()[1]
        one.close()
        return text.split("and 'disk0' by ", 1)[1].split(" here:")[0]

    # --- handshakes -----------------------------------------------------------------------------------------

    def call(self, said=b""):
        sock = socket.create_connection(("127.0.0.1", self.port), 30)
        self.addCleanup(sock.close)
        if said:
            sock.sendall(said)
        return sock

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.receiver.pid}/fd"))

    def rss_mib(self):
        return int(Path(f"/proc/{self.receiver.pid}/statm").read_text().split()[1]) * resource.getpagesize() / MIB

    def test_strangers_of_all_kinds_at_once(self):
        """Idle ones, slow ones, ones that open half a session or a whole one and then say nothing,
        before and during the migration."""
        stop = threading.Event()

        def strange(said, again_s):
            try:
                while not stop.is_set():
                    with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
                        for byte in said:
                            sock.sendall(bytes([byte]))
                            if stop.wait(again_s / len(said)):
                                return
            except OSError:
                pass  # the receiver does not listen any more

        for _ in range(3):
            self.call()
        self.call(peer.link_hello()[:1])
        self.call(peer.link_hello())
        self.call(peer.link_hello(channels=32))
        self.addCleanup(peer.Peer(self.port).close)
        half = peer.Peer(self.port)
        half.control.sendall(peer.message(peer.HELLO, self.hello)[:100])
        self.addCleanup(half.close)
        threads = [threading.Thread(target=strange, args=args) for args in ((peer.link_hello(), 0.3), (peer.link_hello(), 4.8),
                                                                           (b"GET / HTTP/1.1\r\n\r\n" * 3, 0.1), (b"\0", 10))]
        for thread in threads:
            thread.start()
        try:
            self.migrates()
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def test_a_stranger_who_names_no_guest_holds_nobody_up(self):
        one = peer.Peer(self.port)
        self.addCleanup(one.close)
        for count in range(3):
            try:
                one.say(peer.ALIVE, count.to_bytes(8, "big"))
            except OSError:
                break
            time.sleep(0.2)
        self.migrates()

    def test_a_stranger_leaves_no_trace_and_cancel_ends_the_wait(self):
        record = Path(self.lab.b.env["GODWIT_RUN_DIR"]) / "secret-guest" / "last.json"
        before = record.read_bytes() if record.exists() else None
        self.end(self.receiver)
        self.receiver, self.port = self.receive("--json")
        words = "a stranger's words"
        for kind, payload in ((peer.ERROR, bytes(4) + words.encode()), (peer.HELLO, peer.hello("other", [("ram0", MIB)]))):
            with peer.Peer(self.port) as one:
                one.say(kind, payload)
                with self.assertRaises(peer.Closed):
                    while True:
                        one.hear()
        stop, seen = threading.Event(), set()

        def visit():
            while not stop.is_set():
                try:
                    with peer.Peer(self.port, timeout=5) as one:
                        one.say(peer.HELLO, peer.hello("other", [("ram0", MIB)]))
                        one.hear()
                except (OSError, peer.Closed):
                    pass  # it need not listen any more

        thread = threading.Thread(target=visit)
        thread.start()
        try:
            for _ in range(10):
                seen.add(json.loads(self.lab.b.godwit("list", "--json").stdout)[0]["activity"])
            cancel = self.lab.b.godwit("cancel", "secret-guest")
        finally:
            stop.set()
            thread.join()
        self.assertEqual(seen, {"waiting"})
        self.assertEqual((cancel.returncode, cancel.stdout), (0, "the receiver of 'secret-guest' waits no more\n"))
        out, err = self.receiver.communicate(timeout=30)
        self.assertNotIn("summary", out)
        self.assertNotIn(words, out + err)
        self.assertEqual(record.read_bytes() if record.exists() else None, before)

    def test_sessions_that_say_nothing_displace_no_slow_source(self):
        slow = peer.Peer(self.port)
        self.addCleanup(slow.close)
        for _ in range(16):
            self.addCleanup(peer.Peer(self.port).close)
        slow.say(peer.HELLO, self.hello)
        self.assertEqual(slow.hear()[0], peer.HELLO_OK)
        slow.close()
        self.migrates()

    def test_a_flood_of_wrong_guests_that_do_not_hang_up(self):
        stop, kept = threading.Event(), []

        def flood():
            while not stop.is_set():
                try:
                    one = peer.Peer(self.port, timeout=5)
                    one.say(peer.HELLO, peer.hello("other-guest", [("ram0", MIB)]))
                    kept.append(one)
                    one.hear()
                except (OSError, peer.Closed):
                    pass

        threads = [threading.Thread(target=flood) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            vmlab.wait_for(lambda: len(kept) > 16, 60, "a flood")
            self.migrates()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for one in kept:
                one.close()

    def test_a_silent_stray_while_data_channels_open(self):
        control = self.call(peer.link_hello())
        nonce = peer.Peer.welcome(control)
        for said in (b"", b"G", peer.link_hello(peer.DATA, 0, 0, bytes(16)), peer.link_hello(peer.DATA, 0, 1, nonce)):
            self.call(said)
        data = self.call(peer.link_hello(peer.DATA, 0, 0, nonce))
        peer.Peer.welcome(data)
        control.sendall(peer.message(peer.HELLO, self.hello))
        self.assertEqual(int.from_bytes(peer.read(control, 24)[4:6], "big"), peer.HELLO_OK)
        control.close()
        self.migrates()

    def test_a_thousand_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        descriptors, rss = self.descriptors(), self.rss_mib()
        kept = [self.call() for _ in range(1000)]
        kept += [self.call(peer.link_hello(channels=32)) for _ in range(100)]
        links = []
        for _ in range(20):
            try:
                links.append(peer.Peer(self.port))
            except peer.Closed:
                pass
        self.assertGreater(len(links), 8)
        self.assertLess(self.descriptors() - descriptors, 256 + 32)
        self.assertLess(self.rss_mib() - rss, 32)
        self.migrates()
        for one in links:
            one.close()

    def test_no_descriptor_left(self):
        pid = self.receiver.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
        for _ in range(10):
            self.call()
        time.sleep(0.5)
        before = vmlab.cpu_seconds(pid)
        time.sleep(2)
        self.assertLess(vmlab.cpu_seconds(pid) - before, 0.5, "it spins")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, hard))
        self.migrates()


if __name__ == "__main__":
    runner.main()
