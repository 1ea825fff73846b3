# SPDX-License-Identifier: Apache-2.0
"""A source made of raw sockets, which sends the bytes of a test: see docs/protocol.md."""

import ctypes
import socket
import struct

XXHASH = ctypes.CDLL("libxxhash.so.0")
XXHASH.XXH64.restype = ctypes.c_uint64
XXHASH.XXH64.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
XXHASH.XXH32.restype = ctypes.c_uint32
XXHASH.XXH32.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32]

HELLO, HELLO_OK, ZERO, ERROR, DISKS, DISKS_OK, DISK, DISK_DONE, DISK_END, ALIVE = 1, 2, 3, 13, 14, 15, 16, 18, 19, 20
CONTROL, DATA = 1, 2


def link_hello(kind=CONTROL, channels=1, index=0, nonce=bytes(16), version=3, offers=0):
    return struct.pack(">4s6H16s", b"GWHI", version, version, kind, channels, index, offers, nonce)


def message(kind, payload=b""):
    head = struct.pack(">4sHHI", b"GWM1", kind, 0, len(payload))
    check = XXHASH.XXH32(head, len(head), 0)
    return head + struct.pack(">IQ", check, XXHASH.XXH64(payload, len(payload), check)) + payload


def put(region, offset, data):
    head = struct.pack(">4sHHQI", b"GWD1", 1, region, offset, len(data))
    return head + struct.pack(">I", XXHASH.XXH32(head, len(head), 0)) + data


def fence(number):
    head = struct.pack(">4sHHQI", b"GWD1", 2, 0, number, 0)
    return head + struct.pack(">I", XXHASH.XXH32(head, len(head), 0))


def hello(guest, regions, facts=(), page=4096, version=2):
    """regions: pairs of a name and a size; facts: pairs of texts."""
    words = b"".join(text.encode() + b"\0" for pair in facts for text in pair)
    body = struct.pack(">4sHHIIII64s", b"GODW", version, version, page, len(regions), len(facts), len(words), guest.encode())
    for name, size in regions:
        body += struct.pack(">QQQ16s64s", size, 0, 0, bytes(16), name.encode())
    return body + words


def disks(*images):
    """images: name, size, front, format."""
    body = struct.pack(">IIII", 0, len(images), 0, 0)
    for name, size, front, fmt in images:
        body += struct.pack(">Q64s256s128s32s", size, name.encode(), b"", front.encode(), fmt.encode())
    return body


def disk(number, *pieces):
    """pieces: image, zeros, offset, bytes, place in the staging region."""
    return struct.pack(">QII", number, len(pieces), 0) + b"".join(struct.pack(">IIQQQ", *piece) for piece in pieces)


def disk_end(number, *images):
    """images: size, whole."""
    return struct.pack(">IIII", number, len(images), 0, 0) + b"".join(struct.pack(">QII", *image, 0) for image in images)


class Closed(Exception):
    """The receiver closed the connection."""


def read(sock, count):
    data = b""
    while len(data) < count:
        try:
            part = sock.recv(count - len(data))
        except ConnectionResetError:
            part = b""
        if not part:
            raise Closed
        data += part
    return data


class Peer:
    """An open link, up to HELLO.  .control and .data are its sockets."""

    def __init__(self, port, channels=1, timeout=30):
        self.port, self.timeout = port, timeout
        self.control = socket.create_connection(("127.0.0.1", port), timeout)
        self.control.sendall(link_hello(channels=channels))
        self.nonce = self.welcome(self.control)
        self.data = []
        for index in range(channels):
            self.data.append(socket.create_connection(("127.0.0.1", port), timeout))
            self.data[-1].sendall(link_hello(DATA, 0, index, self.nonce))
            self.welcome(self.data[-1])

    @staticmethod
    def welcome(sock):
        magic, _, status, nonce = struct.unpack(">4sHH16s", read(sock, 24))
        if (magic, status) != (b"GWOK", 0):
            raise Closed
        return nonce

    def say(self, kind, payload=b""):
        self.control.sendall(message(kind, payload))

    def hear(self):
        """The next message that is not ALIVE: its type and payload."""
        while True:
            head = read(self.control, 24)
            kind, _, length = struct.unpack(">HHI", head[4:12])
            payload = read(self.control, length)
            if kind != ALIVE:
                return kind, payload

    def answer(self):
        """The type of the next message and, for an ERROR, its text."""
        kind, payload = self.hear()
        return kind, payload[4:].rstrip(b"\0").decode() if kind == ERROR else ""

    def close(self):
        for sock in (self.control, *self.data):
            sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
