#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad peers, and bad devices, over real verbs.

A proxy stands between the two ends on their TCP connections.  It spoils one message of the RDMA
dialogue, or kills an end as that message passes.  So each phase (setup, registration, round, fence)
is met exactly.  The queue pairs are not touched: the real device reacts to a wrong key or a dead
process.
"""

import ctypes
import json
import os
import re
import socket
import struct
import subprocess
import threading
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("GODWIT_BUILD", Path(__file__).resolve().parents[2] / "build"))
GODWIT = str(BUILD / "bin" / "godwit")
ADDRESS = os.environ.get("LAB_ADDRESS", "198.18.0.1")
SIZE = 32 << 20
RAILS, CONNECTED, GO, REGISTER, KEYS, MARK, ROUND, DOWN = range(0xFE01, 0xFE09)
FROM_SOURCE = {CONNECTED, REGISTER, ROUND}


XXHASH = ctypes.CDLL("libxxhash.so.0")
XXHASH.XXH32.restype, XXHASH.XXH64.restype = ctypes.c_uint32, ctypes.c_uint64


def seal(head, payload):
    """A message with the right check and hash, as a peer would send it."""
    check = XXHASH.XXH32(head, ctypes.c_size_t(len(head)), ctypes.c_uint32(0))
    code = XXHASH.XXH64(payload, ctypes.c_size_t(len(payload)), ctypes.c_uint64(check))
    return head + struct.pack("!IQ", check, code) + payload


class Proxy:
    """Forwards connections to @port.  spoil(type, payload) sees each message.  It returns the
    payload to forward, or None to cut all connections there."""

    def __init__(self, port, spoil):
        self.port, self.spoil, self.sockets, self.hits, self.lock = port, spoil, [], 0, threading.Lock()
        self.listener = socket.create_server((ADDRESS, 0))
        self.own_port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection((ADDRESS, self.port))
            control = not self.sockets  # the first one
            self.sockets += [near, far]
            for one, other, opening in ((near, far, 32), (far, near, 24)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.relay, args=(one, other, opening if control else None), daemon=True).start()

    def relay(self, one, other, opening):
        try:
            if opening is None:
                while data := one.recv(1 << 18):
                    other.sendall(data)
            else:
                other.sendall(self.exactly(one, opening))
                while True:
                    head = self.exactly(one, 24)
                    kind, size = struct.unpack("!4xHxxI12x", head)
                    payload = self.pass_on(kind, self.exactly(one, size))
                    if payload is None:
                        return self.cut()
                    other.sendall(seal(head[:8] + struct.pack("!I", len(payload)), payload))
        except OSError:
            pass
        for s in (one, other):  # an end that is gone is gone for the other side too
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def pass_on(self, kind, payload):
        with self.lock:
            if kind != self.spoil[0]:
                return payload
            self.hits += 1
            return self.spoil[1](payload) if self.hits == 1 else payload

    @staticmethod
    def exactly(s, size):
        data = b""
        while len(data) < size:
            more = s.recv(size - len(data))
            if not more:
                raise OSError("ended")
            data += more
        return data

    def cut(self):
        self.listener.close()
        for s in self.sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def patch(offset, layout, value):
    """A spoiler that writes one field of the payload."""
    return lambda payload: payload[:offset] + struct.pack(layout, value) + payload[offset + struct.calcsize(layout):]


class Peers(unittest.TestCase):
    def listen(self, *args, address=ADDRESS):
        server = subprocess.Popen([GODWIT, "bench", "--insecure", "--listen", f"{address}:0", *args], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, server)
        return server, int(re.search(r"port (\d+)", server.stdout.readline()).group(1))

    @staticmethod
    def end(server):
        server.terminate()
        server.communicate(timeout=20)

    def move(self, spoil, scheme="", size=SIZE):
        """Moves through a spoiling proxy.  Return: exit code, result, the source's output."""
        server, port = self.listen()
        proxy = Proxy(port, spoil)
        done = subprocess.run([GODWIT, "bench", "--json", "--size", str(size), f"{scheme}{ADDRESS}:{proxy.own_port}"],
                              capture_output=True, text=True, timeout=60)
        self.assertGreater(proxy.hits, 0, "the message to be spoiled never came")
        proxy.cut()
        self.next_one_is_served(port)
        return done.returncode, json.loads(done.stdout) if done.returncode == 0 else None, done.stderr

    def next_one_is_served(self, port):
        done = subprocess.run([GODWIT, "bench", "--json", "--size", "1M", f"rdma:{ADDRESS}:{port}"], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)

    def check(self, spoil, scheme="", code=0, link=None, said=""):
        got, result, stderr = self.move(spoil, scheme)
        self.assertEqual(got, code, stderr)
        self.assertIn(said, stderr)
        if link:
            self.assertTrue(result["link"].startswith(link), result["link"])
        if code == 0:
            self.assertEqual(result["put_bytes"], SIZE)

    # A wrong key, or a key to less than was asked for: the device refuses the write, and the rest
    # goes by TCP.
    def test_a_wrong_key(self):
        self.check((KEYS, lambda p: p[:8] + bytes([p[8] ^ 0x55]) + p[9:]), "rdma:", said="given up")

    def test_a_region_that_is_too_small(self):
        self.check((KEYS, patch(20, "!I", 0xFFFFF000)), "rdma:", said="given up")

    def test_a_wrong_key_of_the_board(self):
        self.check((GO, lambda p: p[:12] + bytes([p[12] ^ 0x55]) + p[13:]), "rdma:", said="given up")

    # A nonce of another session makes strangers of the source's queue pairs.
    def test_strangers_are_turned_away_and_tcp_is_left(self):
        self.check((RAILS, patch(0, "!Q", 1)), link="TCP: ", said="no RDMA to device")

    def test_strangers_are_turned_away_where_rdma_is_a_must(self):
        self.check((RAILS, patch(0, "!Q", 1)), "rdma:", code=1, said="REJECTED")

    def test_a_port_where_nobody_listens(self):
        self.check((RAILS, patch(22, "!H", 9)), link="TCP: ", said="no RDMA to device")

    # Messages that make no sense end the session at both ends, with an error.
    def test_senseless_messages(self):
        for kind, spoil in ((RAILS, lambda p: p[:-1]), (RAILS, patch(16, "!I", 77)), (CONNECTED, patch(0, "!I", 9)),
                            (CONNECTED, patch(10, "!H", 3)), (GO, patch(0, "!I", 9)), (GO, patch(8, "!H", 7)),
                            (KEYS, patch(0, "!I", 4096)), (KEYS, lambda p: p + p), (KEYS, lambda p: p[:-1]),
                            (REGISTER, patch(6, "!H", 63)), (REGISTER, patch(4, "!H", 5)),
                            (REGISTER, patch(8, "!Q", 1 << 40)), (REGISTER, patch(16, "!Q", 1 << 40)),
                            (ROUND, patch(0, "!Q", 0)), (ROUND, patch(16, "!I", 0xFFFFFFFF)), (ROUND, lambda p: p[:-1])):
            with self.subTest(message=hex(kind)):
                self.check((kind, spoil), "rdma:", code=1, said="godwit bench: ")

    def test_a_stamp_that_was_never_made_is_not_believed(self):
        code, result, stderr = self.move((MARK, patch(4, "!I", 4000)), "rdma:", size=256 << 20)
        self.assertEqual(code, 0, stderr)
        self.assertEqual(result["put_bytes"], 256 << 20)

    # Ends that vanish: the link is cut, or a process is killed, as the message passes.
    def test_a_link_cut_in_each_phase(self):
        for kind in (RAILS, CONNECTED, GO, REGISTER, KEYS, ROUND):
            with self.subTest(message=hex(kind)):
                self.check((kind, lambda p: None), "rdma:", code=1, said="godwit bench: ")

    def kill(self, kind, which):
        """On a busy machine the rails may come too late for that message, and the data goes by TCP."""
        for _ in range(5):
            if self.kill_once(kind, which):
                return
        self.fail("the message was never said")

    def kill_once(self, kind, which):
        """Return: whether it was sent."""
        server, port = self.listen()
        ends = {"receiver": server}

        def shoot(payload):
            ends[which].kill()
            ends[which].wait(10)
            return payload

        proxy = Proxy(port, (kind, shoot))
        source = ends["source"] = subprocess.Popen([GODWIT, "bench", "--size", str(SIZE), f"rdma:{ADDRESS}:{proxy.own_port}"],
                                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _, stderr = source.communicate(timeout=30)
        proxy.cut()
        if proxy.hits == 0:
            return False
        if which == "receiver":
            self.assertEqual(source.returncode, 1)
            self.assertIn("godwit bench: ", stderr)
        else:
            self.next_one_is_served(port)
        return True

    def test_an_end_killed_in_each_phase(self):
        for which in ("receiver", "source"):
            for kind in (RAILS, CONNECTED, GO, REGISTER, KEYS, ROUND):
                with self.subTest(message=hex(kind), killed=which):
                    self.kill(kind, which)


class Devices(unittest.TestCase):
    """A device that exists and does not work: the second one of the lab."""
    listen, end = Peers.listen, staticmethod(Peers.end)

    def both(self, port, *words, **source):
        """Without a scheme it goes by TCP and says why; where RDMA is required it is an error."""
        done = subprocess.run([GODWIT, "bench", "--size", "4M", f"{self.address}:{port}"], capture_output=True, text=True,
                              timeout=60, **source)
        self.assertEqual(done.returncode, 0, done.stderr)
        must = subprocess.run([GODWIT, "bench", "--size", "4M", f"rdma:{self.address}:{port}"], capture_output=True,
                              text=True, timeout=60, **source)
        self.assertEqual(must.returncode, 1)
        for word in words:
            self.assertIn(word, done.stdout)
            self.assertIn(word, must.stderr)

    def test_its_port_is_down(self):
        self.address = "198.18.1.1"
        subprocess.run(["ip", "link", "set", "gwend1", "down"], check=True)
        self.addCleanup(subprocess.run, ["ip", "link", "set", "gwend1", "up"])
        _, port = self.listen(address=self.address)
        self.both(port, "gwrxe1", "down", "ip link")
        probe = subprocess.run([GODWIT, "probe"], capture_output=True, text=True, timeout=20)
        self.assertIn("gwrxe1: its port is down: ip link set", probe.stdout)

    def test_it_gives_fewer_queue_pairs_than_asked_for(self):
        """A limit of the rdma cgroup stands for an exhausted device: domains, a queue, a region,
        two queue pairs."""
        group, self.address = Path("/sys/fs/cgroup/few"), ADDRESS
        (group.parent / "cgroup.subtree_control").write_text("+rdma")
        group.mkdir()
        self.addCleanup(group.rmdir)
        (group / "rdma.max").write_text("gwrxe0 hca_object=6")
        _, port = self.listen()
        self.both(port, "queue pair", "number 3 ", "--queue-pairs",
                  preexec_fn=lambda: (group / "cgroup.procs").write_text("0"))

    def test_no_device_has_the_address(self):
        self.address = "127.0.0.1"
        _, port = self.listen(address=self.address)
        self.both(port, "no RDMA device has this address", "godwit probe")

    def test_it_has_no_address(self):
        subprocess.run(["ip", "addr", "flush", "dev", "gwnet1"], check=True)
        self.addCleanup(subprocess.run, ["ip", "addr", "add", "198.18.1.1/24", "dev", "gwnet1"])
        probe = subprocess.run([GODWIT, "probe"], capture_output=True, text=True, timeout=20)
        self.assertIn("gwrxe1: it has no address: ip addr add", probe.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
