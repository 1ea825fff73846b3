# SPDX-License-Identifier: Apache-2.0
"""An agent and a lease of protocol version 5, as in the shim of godwit 0.1.0.

This file is frozen: later versions get a file of their own.  It was written by hand from
docs/protocol.md of that release, and uses nothing of today's source.  Godwit's packets must have
the length and the fields of version 5; others are kept in `wrong`.  The guest must be paused, and
nobody may write to it: memory is tracked by bitmaps in which no bit is ever set.
"""

import array
import os
import socket
import struct
import threading
from pathlib import Path

VERSION = 5
MAGIC = b"GAWG"  # 0x47574147, in the order of a little-endian host
LEASE_MAGIC = b"1LWG"
PAGE = os.sysconf("SC_PAGESIZE")
HELLO, REGIONS, TRACK, COLLECT, UNTRACK, THROTTLE, ARM, PREFAULT, STOCK, REGION = 1, 2, 3, 4, 5, 11, 12, 13, 14, 15
OPEN, BEAT, ARM_LEASE, DISARM = 1, 2, 3, 4
PLAIN = (REGIONS, COLLECT, UNTRACK, PREFAULT, STOCK)  # eight bytes
KVM_ASYNC = 3


class Agent:
    """Takes the place of the agent in the run folder of a VM.  memory: the path of its RAM file,
    which is open here then."""

    release = b"0.1.0"

    def __init__(self, folder, pid, memory):
        self.pid, self.memory = pid, Path(memory)
        self.asked, self.beats, self.wrong = [], 0, []
        self.bitmaps = None
        self.listeners = [self._listen(Path(folder) / name, serve)
                          for name, serve in (("agent.sock", self._serve), ("lease.sock", self._serve_lease))]

    def _listen(self, path, serve):
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen(4)
        threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()
        return listener

    def _accept(self, listener, serve):
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            with client:
                try:
                    while packet := client.recv(8192):
                        serve(client, packet)
                except (AssertionError, OSError, struct.error) as why:
                    self.wrong.append(repr(why))

    def close(self):
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    # --- the agent's socket

    def _head(self, kind):
        return MAGIC + struct.pack("=HH", VERSION, kind)

    def _answer(self, kind, body=b"", status=0, text=b""):
        return self._head(kind) + struct.pack("=iHHiI384s", status, VERSION, VERSION, self.pid, 0, text) + body

    def _send(self, client, packet, fd=None):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        client.sendmsg([packet], rights)

    def _serve(self, client, packet):
        magic, version, kind = struct.unpack_from("=4sHH", packet)
        self.asked.append(kind)
        assert magic == MAGIC, packet
        if kind == HELLO:
            oldest, = struct.unpack_from("=H6x", packet, 8)
            assert oldest <= VERSION <= version, (oldest, version)
            self._send(client, self._answer(HELLO, struct.pack("=32s", self.release)))
            return
        assert version == VERSION, (kind, version)
        if kind == REGIONS:
            self._send_regions(client)
        elif kind == TRACK:
            self._send_bitmaps(client, packet)
        elif kind == COLLECT:
            self._send(client, self._answer(COLLECT, struct.pack("=Q", 0)))
        elif kind == ARM:
            region, zero, first, count = struct.unpack("=8xIIQQ", packet)
            assert (region, zero) == (0, 0) and first + count <= self._pages(), packet
            self._send(client, self._answer(ARM))
        elif kind == THROTTLE:
            percent, count = struct.unpack("=8xIIQ4096x", packet)[:2]
            assert percent < 100 and count <= 1024, packet
            self._send(client, self._answer(THROTTLE))
        elif kind in (UNTRACK, PREFAULT, STOCK):
            self._send(client, self._answer(kind))
        else:
            self._send(client, self._answer(kind, status=-56, text=b"no such request"))
        assert kind not in PLAIN or len(packet) == 8, packet

    def _pages(self):
        return self.memory.stat().st_size // PAGE

    def _send_regions(self, client):
        stat = self.memory.stat()
        self._send(client, self._answer(REGIONS, struct.pack("=II", 1, 0)))
        with open(self.memory, "r+b") as file:
            region = struct.pack("=QQQ384s", stat.st_size, stat.st_dev, stat.st_ino, os.fsencode(self.memory))
            self._send(client, self._head(REGION) + region, file.fileno())

    def _send_bitmaps(self, client, packet):
        tracker, count, indices = struct.unpack("=8xII64s", packet)
        assert tracker <= 4 and count == 1 and indices[0] == 0, packet
        size = -(-(-(-self._pages() // 64) * 8) // PAGE) * PAGE
        self.bitmaps = os.memfd_create("bitmaps")
        os.truncate(self.bitmaps, size)
        self._send(client, self._answer(TRACK, struct.pack("=IIQ", KVM_ASYNC, 1, size)), self.bitmaps)

    # --- the lease's

    def _serve_lease(self, client, packet):
        magic, version, kind, _, resume, limit = struct.unpack("=4sHHiIQ", packet)
        assert (magic, version) == (LEASE_MAGIC, VERSION) and kind in (OPEN, BEAT, ARM_LEASE, DISARM), packet
        if kind == BEAT:
            self.beats += 1
            return
        assert kind != ARM_LEASE or (resume == 0 and limit > 0), packet
        client.send(LEASE_MAGIC + struct.pack("=HHiIQ", VERSION, kind, 0, 0, 0))
