# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md in Python: frames, messages, and both ends of a session, which send the
messages of a test."""

import ctypes
import socket
import struct
import threading
import time

XXH = ctypes.CDLL("libxxhash.so.0")
XXH.XXH32.restype, XXH.XXH32.argtypes = ctypes.c_uint32, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32]
XXH.XXH64.restype, XXH.XXH64.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]

TYPES = {"HELLO": 1, "HELLO_OK": 2, "ZERO": 3, "ROUND_END": 4, "ROUND_ACK": 5, "SWITCH": 6, "DEVICE": 7, "DEVICE_END": 8,
         "LOADED": 9, "COMMIT": 10, "COMMITTED": 11, "CANCEL": 12, "ERROR": 13, "DISKS": 14, "DISKS_OK": 15, "DISK": 16,
         "DISK_ACK": 17, "DISK_DONE": 18, "DISK_END": 19, "ALIVE": 20, "HOOK": 21, "SYNCED": 22, "ECHO": 23,
         "RAILS": 0xFE01, "CONNECTED": 0xFE02, "GO": 0xFE03, "REGISTER": 0xFE04, "KEYS": 0xFE05, "STAMP": 0xFE06,
         "ROUND": 0xFE07, "DOWN": 0xFE08}
NAMES = {number: name for name, number in TYPES.items()}
MIB = 1 << 20
MOST = 256 << 10  # bytes of a message
STAGING = 32 << 20
PATIENCE = 30.0  # no test depends on the load of the machine


def xxh64(data, seed=0):
    return XXH.XXH64(bytes(data), len(data), seed)


def frame(kind, payload=b"", magic=b"GWM1", flags=0, length=None, check=None, digest=None):
    """A message with the right hashes, except given ones."""
    head = magic + struct.pack(">HHI", TYPES.get(kind, kind), flags, len(payload) if length is None else length)
    right = XXH.XXH32(head, len(head), 0)
    seal = right if check is None else check
    return head + struct.pack(">IQ", seal, xxh64(payload, right) if digest is None else digest) + payload


def data_frame(kind, region, offset, count, payload=b"", magic=b"GWD1", check=None):
    head = magic + struct.pack(">HHQI", kind, region, offset & (1 << 64) - 1, count)
    return head + struct.pack(">I", XXH.XXH32(head, len(head), 0) if check is None else check) + payload


def put(region, offset, payload, **lies):
    return data_frame(1, region, offset, lies.pop("count", len(payload)), payload, **lies)


def fence(number, region=0, count=0, **lies):
    return data_frame(2, region, number, count, **lies)


def link_hello(kind=1, channels=2, index=0, nonce=bytes(16), magic=b"GWHI", version=3, oldest=3, offers=0):
    return magic + struct.pack(">HHHHHH", version, oldest, kind, channels, index, offers) + nonce


def welcome(status=0, nonce=bytes(16), magic=b"GWOK", version=3):
    return magic + struct.pack(">HH", version, status) + nonce


def padded(value, room):
    value = value.encode() if isinstance(value, str) else value
    return value + bytes(room - len(value))


class Hello:
    """A recorded HELLO whose fields can be changed."""

    def __init__(self, payload):
        (self.magic, self.version, self.oldest, self.page, self.region_count, self.fact_count, self.fact_bytes,
         self.guest) = struct.unpack(">4sHHIIII64s", payload[:88])
        self.regions = [list(struct.unpack(">QQQ16s64s", payload[88 + 104 * i:192 + 104 * i]))
                        for i in range(self.region_count)]
        self.facts = payload[88 + 104 * self.region_count:]

    def pack(self, **changes):
        fields = dict(vars(self), **changes)
        if "facts" in changes:
            fields["fact_bytes"] = changes.get("fact_bytes", len(changes["facts"]))
        if "regions" in changes:
            fields["region_count"] = changes.get("region_count", len(changes["regions"]))
        return (struct.pack(">4sHHIIII64s", fields["magic"], fields["version"], fields["oldest"], fields["page"],
                            fields["region_count"], fields["fact_count"], fields["fact_bytes"], fields["guest"]) +
                b"".join(struct.pack(">QQQ16s64s", *region) for region in fields["regions"]) + fields["facts"])

    def region(self, **changes):
        """The first region with some fields changed: bytes, device, inode, host, name."""
        names = ("bytes", "device", "inode", "host", "name")
        return [[changes.get(name, value) for name, value in zip(names, self.regions[0])], *self.regions[1:]]

    def pairs(self):
        words = self.facts.split(b"\0")[:-1]
        return list(zip(words[::2], words[1::2]))


def facts_of(pairs):
    return b"".join(key + b"\0" + value + b"\0" for key, value in pairs)


class Disks:
    """A recorded DISKS of one image."""

    def __init__(self, payload):
        self.round, self.count, self.bases, self.zero = struct.unpack(">IIII", payload[:16])
        self.bytes, self.name, self.place, self.front, self.format = struct.unpack(">Q64s256s128s32s", payload[16:504])

    def image(self, **changes):
        fields = dict(vars(self), **changes)
        return struct.pack(">Q64s256s128s32s", *(fields[name] for name in ("bytes", "name", "place", "front", "format")))

    def pack(self, images=None, more=b"", **changes):
        fields = dict(vars(self), **changes)
        images = [self.image(**{name: value for name, value in changes.items()
                                if name in ("bytes", "name", "place", "front", "format")})] if images is None else images
        return (struct.pack(">IIII", fields["round"], fields["count"], fields["bases"], fields["zero"]) + b"".join(images) +
                more)


def zero(region, *ranges, count=None):
    return struct.pack(">II", region, len(ranges) if count is None else count) + b"".join(
        struct.pack(">QQ", *one) for one in ranges)


def round_end(number, at, reserved=0):
    return struct.pack(">IIQ", number, reserved, at)


def piece(image=0, zeros=0, offset=0, count=65536, staged=0):
    return struct.pack(">IIQQQ", image, zeros, offset, count, staged)


def disk(at, *pieces, count=None, reserved=0):
    return struct.pack(">QII", at, len(pieces) if count is None else count, reserved) + b"".join(pieces)


def disk_end(number, *sizes, count=None, bases=0, reserved=0, whole=0, image_reserved=0):
    return struct.pack(">IIII", number, len(sizes) if count is None else count, bases, reserved) + b"".join(
        struct.pack(">QII", size, whole, image_reserved) for size in sizes)


def device_end(state, **lies):
    return struct.pack(">QQ", lies.get("count", len(state)), lies.get("digest", xxh64(state)))


def error(code, words):
    return struct.pack(">I", code) + words


def word(number):
    return struct.pack(">Q", number)


class Closed(Exception):
    """The other end closed a connection."""


class Reader:
    """The messages of a socket."""

    def __init__(self, sock):
        self.sock, self.kept = sock, b""

    def exactly(self, count):
        while len(self.kept) < count:
            try:
                more = self.sock.recv(max(65536, count - len(self.kept)))
            except (ConnectionError, BrokenPipeError):
                more = b""
            if not more:
                raise Closed()
            self.kept += more
        taken, self.kept = self.kept[:count], self.kept[count:]
        return taken

    def message(self):
        """The next message: the name of its type, its payload."""
        head = self.exactly(24)
        assert head[:4] == b"GWM1", head
        kind, _, length = struct.unpack(">HHI", head[4:12])
        return NAMES.get(kind, kind), self.exactly(length)


def quiet(sock):
    try:
        sock.close()
    except OSError:
        pass


class Source:
    """The source's end of a session."""

    def __init__(self, port, channels=2, is_alive=lambda: True):
        self.port, self.channels, self.data, self.said, self.fence = port, channels, [], [], 0
        self.is_alive = is_alive
        self.control = self.connect()
        self.reader = Reader(self.control)

    def connect(self):
        """Retries while the receiver is between two listeners."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except ConnectionError:
                if time.monotonic() > end or not self.is_alive():
                    raise
                time.sleep(0.002)

    def call(self, offers=0):
        """The hello of the control connection."""
        self.control.sendall(link_hello(channels=self.channels, offers=offers))
        answer = self.reader.exactly(24)
        assert answer[:8] == welcome()[:8], answer
        self.nonce = answer[8:]

    def join(self, index, **lies):
        sock = self.connect()
        self.data.append(sock)
        sock.sendall(link_hello(kind=2, channels=self.channels, index=index, nonce=self.nonce, **lies))
        return sock

    def join_all(self):
        for index in range(self.channels):
            Reader(self.join(index)).exactly(24)

    def link(self, offers=0):
        self.call(offers)
        self.join_all()

    def say(self, kind, payload=b"", **lies):
        self.control.sendall(frame(kind, payload, **lies))

    def hear(self, *kinds):
        """The payload of the next message of those kinds; others are noted.  Raises Closed when
        there is none."""
        while True:
            kind, payload = self.reader.message()
            self.said.append((kind, payload))
            if kind in kinds:
                return payload
            if kind == "ERROR":
                raise Closed()

    def fences(self):
        self.fence += 1
        for sock in self.data:
            sock.sendall(fence(self.fence))

    def round(self, number=0):
        self.fences()
        self.say("ROUND_END", round_end(number, self.fence))
        self.hear("ROUND_ACK")

    def refused(self):
        """Reads until the receiver hangs up.  Return: the text of its ERROR, or an empty one."""
        try:
            while True:
                self.said.append(self.reader.message())
        except Closed:
            pass
        return next((payload[4:].decode() for kind, payload in self.said if kind == "ERROR"), "")

    @staticmethod
    def turned_away(sock):
        """Reads until the receiver closes that connection.  Return: its words, a welcome at most."""
        reader = Reader(sock)
        try:
            while True:
                reader.exactly(1 << 20)
        except Closed:
            return reader.kept.decode("latin-1")

    def shut_down(self):
        """Says that nothing more will come."""
        for sock in (*self.data, self.control):
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def close(self):
        for sock in (self.control, *self.data):
            quiet(sock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Receiver:
    """The receiver's end, one session at a time.  It drains puts, and answers correctly until it is
    told to lie."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(PATIENCE)
        self.port = self.listener.getsockname()[1]
        self.data, self.control, self.reader, self.heard, self.puts = [], None, None, [], []

    def accept(self):
        sock = self.listener.accept()[0]
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def call(self):
        self.control = self.accept()
        self.reader = Reader(self.control)
        return self.reader.exactly(32)

    def link(self):
        channels = struct.unpack(">H", self.call()[10:12])[0]
        self.control.sendall(welcome(nonce=b"n" * 16))
        for _ in range(channels):
            sock = self.accept()
            Reader(sock).exactly(32)
            sock.sendall(welcome())
            self.data.append(sock)
            threading.Thread(target=self.drain, args=(sock, self.puts), daemon=True).start()

    @staticmethod
    def drain(sock, puts):
        """Notes the frames, for a recording."""
        reader = Reader(sock)
        try:
            while True:
                head = reader.exactly(24)
                kind, _, _, count = struct.unpack(">HHQI", head[4:20])
                puts.append((kind, head + (reader.exactly(count) if kind == 1 else b"")))
        except (Closed, OSError):
            return

    def say(self, kind, payload=b"", **lies):
        self.control.sendall(frame(kind, payload, **lies))

    def hear(self):
        kind, payload = self.reader.message()
        self.heard.append((kind, payload))
        return kind, payload

    def answer(self, kind, payload):
        """The receiver's answer to a message, if any."""
        if kind == "HELLO":
            self.say("HELLO_OK", b"GODW" + struct.pack(">HH", 2, 0))
        elif kind == "ECHO":
            self.say("ECHO", payload[:8])
        elif kind == "DISKS":
            self.say("DISKS_OK")
        elif kind == "DISK":
            self.say("DISK_ACK", payload[:8])
            self.say("DISK_DONE", payload[:8])
        elif kind == "DISK_END":
            self.say("SYNCED", payload[:4] + struct.pack(">IQQ", 0, 1, 0))
        elif kind == "ROUND_END":
            self.say("ROUND_ACK", payload)
        elif kind == "DEVICE_END":
            self.say("LOADED", word(0) + word(0))

    def until(self, *kinds):
        """Answers all messages up to the first of those kinds, which is left to the caller."""
        while True:
            kind, payload = self.hear()
            if kind in kinds:
                return kind, payload
            self.answer(kind, payload)

    def drained(self):
        """Serves until the source hangs up."""
        sock = self.control
        try:
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass

    def hang_up(self):
        for sock in (self.control, *self.data):
            if sock:
                quiet(sock)
        self.data, self.control, self.reader, self.heard, self.puts = [], None, None, [], []

    def close(self):
        self.hang_up()
        quiet(self.listener)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
