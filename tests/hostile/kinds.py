# SPDX-License-Identifier: Apache-2.0
"""The kinds of malformed and lying streams, as tables.

A kind is: the part of docs/protocol.md that it lies about, its name, its place in a session, the
channel, its bytes, and the expected reaction of the receiver.  The bytes are a function of the
recording of a good session (g).
"""

from collections import namedtuple

from wire import (MIB, MOST, STAGING, data_frame, device_end, disk, disk_end, error, facts_of, fence, frame, link_hello,
                  padded, piece, put, round_end, word, zero)

Kind = namedtuple("Kind", "about name where channel build owed")

# Places: the messages that were said and answered before.
CALL = "a connection"               # nothing
WELCOMED = "the hello"              # of the control connection
LINKED = "the link"                 # all connections
RAILS = "the offer of RDMA"         # and the receiver has said that it has none
AGREED = "HELLO_OK"
DISKS = "DISKS_OK"
ROUNDS = "ROUND_ACK"
SWITCHOVER = "SWITCH"
WAITS = "DEVICE_END with a round open"
LOADED = "LOADED"  # the VMM has the guest's device state, and cannot be used again
COMMITTED = "COMMITTED"

CONTROL, DATA = "control", "data"

# The expected reaction of the receiver.
REFUSED = "refused"                 # it ends the session by itself
BORNE = "borne"                     # it may wait until the other end hangs up

TOP = (1 << 64) - 1
BIG = 1 << 62


def message(kind, payload=b"", **lies):
    return lambda g: frame(kind, payload, **lies)


def raw(data):
    return lambda g: data


def hello(about="HELLO", **changes):
    """A HELLO with changed fields; a value may be a function of the good one."""
    def build(g):
        real = {name: value(g.hello) if callable(value) else value for name, value in changes.items()}
        return frame("HELLO", g.hello.pack(**real))
    return build


def cut_hello(count):
    return lambda g: frame("HELLO", g.hello.pack()[:count])


def region(**changes):
    return hello(regions=lambda h: h.region(**changes))


def facts(change):
    """A HELLO whose facts, a list of pairs, were passed to change()."""
    def build(g):
        pairs = change(g.hello.pairs())
        return frame("HELLO", g.hello.pack(facts=facts_of(pairs), fact_count=len(pairs)))
    return build


def other_value(pairs):
    index = next(i for i, (key, value) in enumerate(pairs) if value and key[:1] != b"?")
    return pairs[:index] + [(pairs[index][0], pairs[index][1] + b"x")] + pairs[index + 1:]


def disks(**changes):
    def build(g):
        return frame("DISKS", g.disks.pack(**{name: value(g.disks) if callable(value) else value
                                              for name, value in changes.items()}))
    return build


def batch(*pieces, at=1, **lies):
    return lambda g: frame("DISK", disk(at, *pieces, **lies))


def end_of_ram(g):
    return g.ram_bytes


SOURCE_TYPES = {"ZERO": zero(0, (0, 4096)), "ROUND_END": round_end(0, 1), "SWITCH": b"", "DEVICE": b"state",
                "DEVICE_END": device_end(b"state"), "COMMIT": bytes((0, 0, 0, 1)), "DISK": disk(1, piece()),
                "DISK_END": disk_end(0, MIB), "ECHO": word(1)}
RECEIVER_TYPES = {"HELLO_OK": b"GODW" + bytes((0, 2, 0, 0)), "ROUND_ACK": round_end(0, 1), "LOADED": bytes(16),
                  "COMMITTED": bytes(16), "DISKS_OK": b"", "DISK_ACK": word(1), "DISK_DONE": word(1), "SYNCED": bytes(24),
                  "HOOK": bytes(4)}
RAIL_TYPES = ("RAILS", "CONNECTED", "GO", "REGISTER", "KEYS", "STAMP", "ROUND", "DOWN")

HANDSHAKE = [
    Kind("hello", "nothing at all", CALL, CONTROL, raw(b""), BORNE),
    Kind("hello", "half of it", CALL, CONTROL, raw(link_hello()[:16]), BORNE),
    Kind("hello", "all but a byte", CALL, CONTROL, raw(link_hello()[:31]), BORNE),
    Kind("hello", "another magic", CALL, CONTROL, raw(link_hello(magic=b"GWHJ")), REFUSED),
    Kind("hello", "a message instead", CALL, CONTROL, raw(frame("SWITCH") * 2), REFUSED),
    Kind("hello", "a put instead", CALL, CONTROL, raw(put(0, 0, bytes(64))), REFUSED),
    Kind("hello", "HTTP", CALL, CONTROL, raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"), REFUSED),
    Kind("hello", "TLS", CALL, CONTROL, raw(b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + bytes(240)), REFUSED),
    Kind("hello", "ssh", CALL, CONTROL, raw(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2\r\n"), REFUSED),
    Kind("hello", "zeros", CALL, CONTROL, raw(bytes(32)), REFUSED),
    Kind("hello", "ones", CALL, CONTROL, raw(b"\xff" * 32), REFUSED),
    Kind("hello", "a megabyte of anything", CALL, CONTROL, raw(bytes(range(256)) * 4096), REFUSED),
    Kind("hello", "an old version", CALL, CONTROL, raw(link_hello(version=2, oldest=1)), REFUSED),
    Kind("hello", "version 0", CALL, CONTROL, raw(link_hello(version=0, oldest=0)), REFUSED),
    Kind("hello", "a version to come", CALL, CONTROL, raw(link_hello(version=9, oldest=4)), REFUSED),
    Kind("hello", "kind 0", CALL, CONTROL, raw(link_hello(kind=0)), REFUSED),
    Kind("hello", "kind 3", CALL, CONTROL, raw(link_hello(kind=3)), REFUSED),
    Kind("hello", "a data connection to no session", CALL, CONTROL, raw(link_hello(kind=2)), REFUSED),
    Kind("hello", "no channels", CALL, CONTROL, raw(link_hello(channels=0)), REFUSED),
    Kind("hello", "33 channels", CALL, CONTROL, raw(link_hello(channels=33)), REFUSED),
    Kind("hello", "65535 channels", CALL, CONTROL, raw(link_hello(channels=65535)), REFUSED),
    Kind("hello", "a nonce of its own", CALL, CONTROL, raw(link_hello(nonce=b"n" * 16)), REFUSED),
    Kind("hello", "an index", CALL, CONTROL, raw(link_hello(index=1)), REFUSED),
    Kind("hello", "twice", CALL, CONTROL, raw(link_hello() * 2), BORNE),
    Kind("hello", "offers that nobody knows", CALL, CONTROL, raw(link_hello(offers=0xfffe)), BORNE),
    Kind("hello", "a message right behind it", CALL, CONTROL, raw(link_hello() + frame("COMMIT", bytes((0, 0, 0, 1)))), BORNE),

    Kind("welcome", "no data connection follows", WELCOMED, CONTROL, raw(b""), BORNE),
    Kind("welcome", "messages instead of data connections", WELCOMED, CONTROL, lambda g: frame("HELLO", g.hello.pack()), BORNE),
    Kind("welcome", "another nonce", WELCOMED, DATA, lambda g: link_hello(kind=2, nonce=bytes(16)), REFUSED),
    Kind("welcome", "a bit of the nonce flipped", WELCOMED, DATA,
         lambda g: link_hello(kind=2, nonce=bytes((g.nonce[0] ^ 1,)) + g.nonce[1:]), REFUSED),
    Kind("welcome", "an index past the channels", WELCOMED, DATA, lambda g: link_hello(kind=2, index=2, nonce=g.nonce), REFUSED),
    Kind("welcome", "index 65535", WELCOMED, DATA, lambda g: link_hello(kind=2, index=65535, nonce=g.nonce), REFUSED),
    Kind("welcome", "another control connection", WELCOMED, DATA, lambda g: link_hello(nonce=g.nonce, kind=0), REFUSED),
    Kind("welcome", "another magic", WELCOMED, DATA, lambda g: link_hello(kind=2, nonce=g.nonce, magic=b"GWOK"), REFUSED),
    Kind("welcome", "offers in a data hello", WELCOMED, DATA, lambda g: link_hello(kind=2, nonce=g.nonce, offers=1), REFUSED),
    Kind("welcome", "half a data hello", WELCOMED, DATA, lambda g: link_hello(kind=2, nonce=g.nonce)[:20], BORNE),
    Kind("welcome", "a put before the data hello", WELCOMED, DATA, raw(put(0, 0, bytes(64))), REFUSED),
    Kind("welcome", "one data connection of two, with a put", WELCOMED, DATA,
         lambda g: link_hello(kind=2, nonce=g.nonce) + put(0, 0, b"x" * 4096), BORNE),
]

HEADERS = [
    Kind("message header", "another magic", LINKED, CONTROL, message("HELLO", b"x", magic=b"GWD1"), REFUSED),
    Kind("message header", "flags", LINKED, CONTROL, message("HELLO", b"x", flags=1), REFUSED),
    Kind("message header", "a byte too long", LINKED, CONTROL, message("HELLO", bytes(MOST + 1)), REFUSED),
    Kind("message header", "4 GiB long", LINKED, CONTROL, message("HELLO", length=0xffffffff), REFUSED),
    Kind("message header", "another check", LINKED, CONTROL, message("HELLO", b"x", check=1), REFUSED),
    Kind("message header", "another hash", LINKED, CONTROL, message("HELLO", b"x", digest=1), REFUSED),
    Kind("message header", "half of it", LINKED, CONTROL, raw(frame("HELLO")[:11]), BORNE),
    Kind("message header", "half a payload", LINKED, CONTROL, lambda g: frame("HELLO", g.hello.pack())[:100], BORNE),
    Kind("message header", "a payload shorter than its length", LINKED, CONTROL, message("SWITCH", b"", length=8), BORNE),
    Kind("message header", "a payload longer than its length", LINKED, CONTROL, message("ALIVE", word(1) + b"more", length=8), REFUSED),
    Kind("message header", "type 0", LINKED, CONTROL, message(0), REFUSED),
    Kind("message header", "a type to come", LINKED, CONTROL, message(24, bytes(64)), REFUSED),
    Kind("message header", "type 65535", LINKED, CONTROL, message(65535, bytes(MOST)), REFUSED),
    *(Kind(name, "before HELLO", LINKED, CONTROL, message(name, payload), REFUSED) for name, payload in SOURCE_TYPES.items()),
    Kind("DISKS", "before HELLO", LINKED, CONTROL, disks(), REFUSED),
    *(Kind(name, "by the source", LINKED, CONTROL, message(name, payload), REFUSED) for name, payload in RECEIVER_TYPES.items()),
    *(Kind(name, "by the source, after HELLO_OK", AGREED, CONTROL, message(name, payload), REFUSED)
      for name, payload in RECEIVER_TYPES.items()),
    *(Kind(name, "without rails", LINKED, CONTROL, message(name, bytes(64)), REFUSED) for name in RAIL_TYPES),
    *(Kind(name, "after no rails were offered", RAILS, CONTROL, message(name, bytes(424)), REFUSED) for name in RAIL_TYPES),
]

PUTS = [
    Kind("data header", "a put before HELLO", LINKED, DATA, raw(put(0, 0, b"\xa5" * 4096)), BORNE),
    Kind("data header", "a megabyte before HELLO", LINKED, DATA, raw(put(0, MIB, b"\xa5" * MIB)), BORNE),
    Kind("data header", "the last page before HELLO", LINKED, DATA, lambda g: put(0, end_of_ram(g) - 4096, b"\xa5" * 4096), BORNE),
    Kind("data header", "a fence before HELLO", LINKED, DATA, raw(fence(1)), BORNE),
    Kind("data header", "another magic", AGREED, DATA, raw(put(0, 0, bytes(64), magic=b"GWM1")), REFUSED),
    Kind("data header", "another check", AGREED, DATA, raw(put(0, 0, b"\xa5" * 64, check=7)), REFUSED),
    Kind("data header", "half of it", AGREED, DATA, raw(put(0, 0, bytes(64))[:13]), BORNE),
    Kind("data header", "kind 0", AGREED, DATA, raw(data_frame(0, 0, 0, 64, b"\xa5" * 64)), REFUSED),
    Kind("data header", "kind 3", AGREED, DATA, raw(data_frame(3, 0, 0, 64, b"\xa5" * 64)), REFUSED),
    Kind("data header", "a region that is not there", AGREED, DATA, raw(put(2, 0, b"\xa5" * 64)), REFUSED),
    Kind("data header", "the staging region before DISKS", AGREED, DATA, raw(put(1, 0, b"\xa5" * 64)), REFUSED),
    Kind("data header", "region 64", AGREED, DATA, raw(put(64, 0, b"\xa5" * 64)), REFUSED),
    Kind("data header", "region 65535", AGREED, DATA, raw(put(65535, 0, b"\xa5" * 64)), REFUSED),
    Kind("data header", "a byte past the end", AGREED, DATA, lambda g: put(0, end_of_ram(g) - 63, b"\xa5" * 64), REFUSED),
    Kind("data header", "at the end", AGREED, DATA, lambda g: put(0, end_of_ram(g), b"\xa5"), REFUSED),
    Kind("data header", "an offset that overflows", AGREED, DATA, raw(put(0, TOP, b"\xa5" * 64)), REFUSED),
    Kind("data header", "an offset of 63 bits", AGREED, DATA, raw(put(0, 1 << 63, b"\xa5" * 64)), REFUSED),
    Kind("data header", "no bytes", AGREED, DATA, raw(put(0, 0, b"")), REFUSED),
    Kind("data header", "a byte more than a put has", AGREED, DATA, raw(put(0, 0, b"\xa5" * (MIB + 1))), REFUSED),
    Kind("data header", "4 GiB of bytes", AGREED, DATA, raw(put(0, 0, b"\xa5" * 64, count=0xffffffff)), REFUSED),
    Kind("data header", "fence 0", AGREED, DATA, raw(fence(0)), REFUSED),
    Kind("data header", "a fence twice", AGREED, DATA, raw(fence(5) * 2), REFUSED),
    Kind("data header", "a fence that goes back", AGREED, DATA, raw(fence(5) + fence(4)), REFUSED),
    Kind("data header", "a fence with bytes", AGREED, DATA, raw(fence(1, count=64) + bytes(64)), REFUSED),
    Kind("data header", "a fence of a region", AGREED, DATA, raw(fence(1, region=7)), REFUSED),
    Kind("data header", "the last fence of all, and one more", AGREED, DATA, raw(fence(TOP) + fence(0)), REFUSED),
    Kind("data header", "a message", AGREED, DATA, message("ALIVE", word(1)), REFUSED),
    Kind("data header", "past the staging region", DISKS, DATA, raw(put(1, STAGING - 1, b"xx")), REFUSED),
    Kind("data header", "overflowing the staging region", DISKS, DATA, raw(put(1, TOP, b"xx")), REFUSED),
    Kind("data header", "the region after the staging region", DISKS, DATA, raw(put(2, 0, b"xx")), REFUSED),
    Kind("data header", "a fence that goes back after a round", ROUNDS, DATA, raw(fence(1)), REFUSED),
]

HELLOS = [
    *(Kind("HELLO", f"{count} bytes of it", LINKED, CONTROL, cut_hello(count), REFUSED) for count in (0, 4, 7, 8, 87, 88, 191)),
    Kind("HELLO", "all but a byte", LINKED, CONTROL, lambda g: frame("HELLO", g.hello.pack()[:-1]), REFUSED),
    Kind("HELLO", "a byte more", LINKED, CONTROL, lambda g: frame("HELLO", g.hello.pack() + b"x"), REFUSED),
    Kind("HELLO", "256 KiB of it", LINKED, CONTROL, lambda g: frame("HELLO", g.hello.pack().ljust(MOST, b"x")), REFUSED),
    Kind("HELLO", "another magic", LINKED, CONTROL, hello(magic=b"WDOG"), REFUSED),
    Kind("HELLO", "a version to come", LINKED, CONTROL, hello(version=9, oldest=9), REFUSED),
    Kind("HELLO", "version 0", LINKED, CONTROL, hello(version=0, oldest=0), REFUSED),
    *(Kind("HELLO", f"pages of {page} bytes", LINKED, CONTROL, hello(page=page), REFUSED)
      for page in (0, 1, 2048, 4095, 8192, 12288, 1 << 31, (1 << 32) - 1)),
    *(Kind("HELLO", f"{count} regions, as it says", LINKED, CONTROL, hello(region_count=count), REFUSED)
      for count in (0, 2, 65, (1 << 32) - 1)),
    Kind("HELLO", "65 regions", LINKED, CONTROL, hello(regions=lambda h: h.regions[:1] * 65), REFUSED),
    Kind("HELLO", "64 regions", LINKED, CONTROL, hello(regions=lambda h: h.regions[:1] * 64), REFUSED),
    *(Kind("HELLO", f"{count} facts, as it says", LINKED, CONTROL, hello(fact_count=count), REFUSED)
      for count in (0, 1, 2048, 2049, (1 << 32) - 1)),
    *(Kind("HELLO", f"{count} bytes of facts, as it says", LINKED, CONTROL, hello(fact_bytes=count), REFUSED)
      for count in (0, 1, 192 << 10, (192 << 10) + 1, (1 << 32) - 1)),
    Kind("HELLO", "a count of regions that overflows", LINKED, CONTROL,
         hello(region_count=(1 << 32) // 104 + 1), REFUSED),
    Kind("HELLO", "no guest's name", LINKED, CONTROL, hello(guest=bytes(64)), REFUSED),
    Kind("HELLO", "a guest's name without an end", LINKED, CONTROL, hello(guest=b"n" * 64), REFUSED),
    Kind("HELLO", "a guest's name that is no UTF-8", LINKED, CONTROL, hello(guest=padded(b"\xff\xfe\x80", 64)), REFUSED),
    Kind("HELLO", "a guest's name with an escape", LINKED, CONTROL, hello(guest=padded(b"\x1b]0;own\x07", 64)), REFUSED),
    Kind("HELLO", "a guest's name with formats", LINKED, CONTROL, hello(guest=padded(b"%s%n%n%s%99999999d", 64)), REFUSED),
    Kind("HELLO", "another guest", LINKED, CONTROL, hello(guest=padded(b"nobody", 64)), REFUSED),
    Kind("HELLO", "the guest's name and something behind it", LINKED, CONTROL,
         hello(guest=lambda h: h.guest[:32] + b"more".ljust(32, b"\0")), REFUSED),
    Kind("HELLO", "no region's name", LINKED, CONTROL, region(name=bytes(64)), REFUSED),
    Kind("HELLO", "a region's name without an end", LINKED, CONTROL, region(name=b"n" * 64), REFUSED),
    Kind("HELLO", "a region's name that is no UTF-8", LINKED, CONTROL, region(name=padded(b"\xc3\x28", 64)), REFUSED),
    Kind("HELLO", "a region's other name", LINKED, CONTROL, region(name=padded(b"ram1", 64)), REFUSED),
    Kind("HELLO", "a region's name and something behind it", LINKED, CONTROL, region(name=padded(b"ram0\0more", 64)), REFUSED),
    Kind("HELLO", "a region of no bytes", LINKED, CONTROL, region(bytes=0), REFUSED),
    Kind("HELLO", "a region of half a page", LINKED, CONTROL, region(bytes=2048), REFUSED),
    Kind("HELLO", "a region of another size", LINKED, CONTROL, region(bytes=128 * MIB), REFUSED),
    Kind("HELLO", "a region of nearly 2^64 bytes", LINKED, CONTROL, region(bytes=(1 << 64) - 4096), REFUSED),
    Kind("HELLO", "the receiver's own file of RAM", LINKED, CONTROL,
         lambda g: frame("HELLO", g.hello.pack(regions=g.hello.region(device=g.ram_device, inode=g.ram_inode))), REFUSED),
    Kind("HELLO", "no facts", LINKED, CONTROL, facts(lambda pairs: []), REFUSED),
    Kind("HELLO", "a fact too few", LINKED, CONTROL,
         facts(lambda pairs: [pair for pair in pairs if pair[0] != next(k for k, _ in pairs if k[:1] != b"?")]), REFUSED),
    Kind("HELLO", "a fact too many", LINKED, CONTROL, facts(lambda pairs: pairs + [(b"device nowhere", b"ufo")]), REFUSED),
    Kind("HELLO", "a fact of another value", LINKED, CONTROL, facts(other_value), REFUSED),
    Kind("HELLO", "a fact without a key", LINKED, CONTROL, facts(lambda pairs: [(b"", b"x")] + pairs), REFUSED),
    Kind("HELLO", "a key of 128", LINKED, CONTROL, facts(lambda pairs: [(b"k" * 128, b"x")] + pairs), REFUSED),
    Kind("HELLO", "a value of 4096", LINKED, CONTROL, facts(lambda pairs: [(b"k", b"v" * 4096)] + pairs), REFUSED),
    Kind("HELLO", "a key with an escape", LINKED, CONTROL, facts(lambda pairs: [(b"\x1b[2J", b"x")] + pairs), REFUSED),
    Kind("HELLO", "a value that is no UTF-8", LINKED, CONTROL, facts(lambda pairs: [(b"k", b"\xf5\x90")] + pairs), REFUSED),
    Kind("HELLO", "2048 facts", LINKED, CONTROL, facts(lambda pairs: [(b"k%d" % i, b"v") for i in range(2048)]), REFUSED),
    Kind("HELLO", "192 KiB of facts", LINKED, CONTROL,
         facts(lambda pairs: [(b"k%02d" % i, b"v" * 4091) for i in range(48)]), REFUSED),
    Kind("HELLO", "a list without an end", LINKED, CONTROL,
         facts(lambda pairs: [(b"?list", b"=;=;;=" + b"name" * 800)] + pairs + [(b"device nowhere", b"")]), REFUSED),
    Kind("HELLO", "the last value without an end", LINKED, CONTROL,
         hello(facts=lambda h: h.facts[:-1] + b"x"), REFUSED),
    Kind("HELLO", "a second one", AGREED, CONTROL, hello(), REFUSED),
    Kind("HELLO", "in a later round", ROUNDS, CONTROL, hello(), REFUSED),
    Kind("HELLO_OK", "hung up after it", AGREED, CONTROL, raw(b""), BORNE),
]

MESSAGES = [
    *(Kind("ECHO", f"of {count} bytes", AGREED, CONTROL, message("ECHO", bytes(count)), REFUSED) for count in (0, 7)),
    Kind("ECHO", "of more than 64 KiB", AGREED, CONTROL, message("ECHO", word(1) + bytes(65536)), REFUSED),
    Kind("ECHO", "that begins with 2", AGREED, CONTROL, message("ECHO", word(2)), REFUSED),
    Kind("ECHO", "that goes back", AGREED, CONTROL, lambda g: frame("ECHO", word(1)) + frame("ECHO", word(1)), REFUSED),
    Kind("ECHO", "of other bytes than zeros", AGREED, CONTROL, message("ECHO", word(1) + b"x" * 64), REFUSED),
    Kind("ECHO", "after DISKS", DISKS, CONTROL, message("ECHO", word(1)), REFUSED),
    Kind("ECHO", "behind a round", AGREED, CONTROL,
         lambda g: frame("ROUND_END", round_end(0, 1)) + frame("ECHO", word(1)), REFUSED),
    Kind("ECHO", "in a later round", ROUNDS, CONTROL, message("ECHO", word(1)), REFUSED),

    Kind("ZERO", "empty", AGREED, CONTROL, message("ZERO"), REFUSED),
    Kind("ZERO", "of no range", AGREED, CONTROL, message("ZERO", zero(0)), REFUSED),
    Kind("ZERO", "of 1025 ranges", AGREED, CONTROL, message("ZERO", zero(0, *[(4096, 4096)] * 1025)), REFUSED),
    Kind("ZERO", "a count that lies", AGREED, CONTROL, message("ZERO", zero(0, (0, 4096), count=2)), REFUSED),
    Kind("ZERO", "a count of 2^32 - 1", AGREED, CONTROL, message("ZERO", zero(0, (0, 4096), count=0xffffffff)), REFUSED),
    Kind("ZERO", "a count that overflows", AGREED, CONTROL, message("ZERO", zero(0, (0, 4096), count=(1 << 28) + 1)), REFUSED),
    Kind("ZERO", "a byte more", AGREED, CONTROL, message("ZERO", zero(0, (0, 4096)) + b"x"), REFUSED),
    Kind("ZERO", "a region that is not there", AGREED, CONTROL, message("ZERO", zero(1, (0, 4096))), REFUSED),
    Kind("ZERO", "region 2^32 - 1", AGREED, CONTROL, message("ZERO", zero(0xffffffff, (0, 4096))), REFUSED),
    Kind("ZERO", "no bytes", AGREED, CONTROL, message("ZERO", zero(0, (4096, 0))), REFUSED),
    Kind("ZERO", "half a page", AGREED, CONTROL, message("ZERO", zero(0, (0, 2048))), REFUSED),
    Kind("ZERO", "from the middle of a page", AGREED, CONTROL, message("ZERO", zero(0, (512, 4096))), REFUSED),
    Kind("ZERO", "a page past the end", AGREED, CONTROL, lambda g: frame("ZERO", zero(0, (end_of_ram(g) - 4096, 8192))), REFUSED),
    Kind("ZERO", "at the end", AGREED, CONTROL, lambda g: frame("ZERO", zero(0, (end_of_ram(g), 4096))), REFUSED),
    Kind("ZERO", "a range that overflows", AGREED, CONTROL, message("ZERO", zero(0, (4096, (1 << 64) - 4096))), REFUSED),
    Kind("ZERO", "an offset that overflows", AGREED, CONTROL, message("ZERO", zero(0, ((1 << 64) - 4096, 8192))), REFUSED),
    Kind("ZERO", "a bad range after a good one", AGREED, CONTROL, message("ZERO", zero(0, (MIB, 4096), (0, 1))), REFUSED),
    Kind("ZERO", "the staging region", DISKS, CONTROL, message("ZERO", zero(1, (0, 4096))), REFUSED),

    Kind("ROUND_END", "8 bytes of it", AGREED, CONTROL, message("ROUND_END", bytes(8)), REFUSED),
    Kind("ROUND_END", "a byte more", AGREED, CONTROL, message("ROUND_END", round_end(0, 1) + b"x"), REFUSED),
    Kind("ROUND_END", "fence 0", AGREED, CONTROL, message("ROUND_END", round_end(0, 0)), REFUSED),
    Kind("ROUND_END", "something in the reserved field", AGREED, CONTROL, message("ROUND_END", round_end(0, 1, 9)), REFUSED),
    Kind("ROUND_END", "one more while one waits", AGREED, CONTROL,
         lambda g: frame("ROUND_END", round_end(0, 1)) + frame("ROUND_END", round_end(1, 2)), REFUSED),
    Kind("ROUND_END", "a fence that never comes", AGREED, CONTROL, message("ROUND_END", round_end(0, 1)), BORNE),
    Kind("ROUND_END", "the last fence of all", AGREED, CONTROL, message("ROUND_END", round_end(0, TOP)), REFUSED),
    Kind("ROUND_END", "a fence that goes back", ROUNDS, CONTROL, message("ROUND_END", round_end(1, 1)), REFUSED),
    Kind("ROUND_END", "a number that goes back", ROUNDS, CONTROL, message("ROUND_END", round_end(0, 2)), REFUSED),
    Kind("ROUND_END", "a number that jumps", ROUNDS, CONTROL, message("ROUND_END", round_end(2, 2)), REFUSED),
    Kind("ROUND_END", "the last number of all", AGREED, CONTROL, message("ROUND_END", round_end(0xffffffff, 1)), REFUSED),

    Kind("SWITCH", "in the bulk", AGREED, CONTROL, message("SWITCH"), REFUSED),
    Kind("SWITCH", "with a payload", ROUNDS, CONTROL, message("SWITCH", b"now"), REFUSED),
    Kind("SWITCH", "while a round waits", ROUNDS, CONTROL, lambda g: frame("ROUND_END", round_end(1, 2)) + frame("SWITCH"), REFUSED),
    Kind("SWITCH", "twice", SWITCHOVER, CONTROL, message("SWITCH"), REFUSED),
    Kind("SWITCH", "hung up after it", SWITCHOVER, CONTROL, raw(b""), BORNE),

    *(Kind(name, "in the bulk", AGREED, CONTROL, message(name, payload), REFUSED)
      for name, payload in SOURCE_TYPES.items() if name in ("DEVICE", "DEVICE_END", "COMMIT", "DISK", "DISK_END")),
    *(Kind(name, "in a later round", ROUNDS, CONTROL, message(name, payload), REFUSED)
      for name, payload in SOURCE_TYPES.items() if name in ("DEVICE", "DEVICE_END", "COMMIT")),
    Kind("DEVICE", "empty", SWITCHOVER, CONTROL, message("DEVICE"), REFUSED),
    Kind("DEVICE_END", "of no state", SWITCHOVER, CONTROL, message("DEVICE_END", device_end(b"")), REFUSED),
    Kind("DEVICE_END", "15 bytes of it", SWITCHOVER, CONTROL,
         lambda g: frame("DEVICE", b"state") + frame("DEVICE_END", device_end(b"state")[:15]), REFUSED),
    Kind("DEVICE_END", "fewer bytes than came", SWITCHOVER, CONTROL,
         lambda g: frame("DEVICE", b"state") + frame("DEVICE_END", device_end(b"state", count=4)), REFUSED),
    Kind("DEVICE_END", "another hash", SWITCHOVER, CONTROL,
         lambda g: frame("DEVICE", b"state") + frame("DEVICE_END", device_end(b"state", digest=1)), REFUSED),
    Kind("COMMIT", "before DEVICE_END", SWITCHOVER, CONTROL, message("COMMIT", bytes((0, 0, 0, 1))), REFUSED),
    Kind("DEVICE", "after DEVICE_END", WAITS, CONTROL, message("DEVICE", b"more"), REFUSED),
    Kind("DEVICE_END", "a second one", WAITS, CONTROL, message("DEVICE_END", device_end(b"state")), REFUSED),
    Kind("COMMIT", "before LOADED", WAITS, CONTROL, message("COMMIT", bytes((0, 0, 0, 1))), REFUSED),
    Kind("ZERO", "after DEVICE_END", WAITS, CONTROL, message("ZERO", zero(0, (0, 4096))), REFUSED),

    *(Kind("ALIVE", f"of {count} bytes", LINKED, CONTROL, message("ALIVE", bytes(count)), REFUSED) for count in (0, 7, 9)),
    Kind("ALIVE", "a count that goes back", AGREED, CONTROL,
         lambda g: frame("ALIVE", word(TOP)) + frame("ALIVE", word(0)), BORNE),
    Kind("ALIVE", "a flood of them before HELLO", LINKED, CONTROL, lambda g: frame("ALIVE", word(1)) * 50000, BORNE),
    Kind("ALIVE", "a flood of them", AGREED, CONTROL, lambda g: frame("ALIVE", word(1)) * 50000, BORNE),
    Kind("ECHO", "a flood of them", AGREED, CONTROL,
         lambda g: b"".join(frame("ECHO", word(i + 1)) for i in range(20000)), BORNE),

    *(Kind("ERROR", f"{name} before HELLO", LINKED, CONTROL, message("ERROR", payload), REFUSED) for name, payload in {
        "a good one": error(5, b"tired"), "3 bytes of it": b"\0\0\0", "errno 0": error(0, b"x"), "errno 4096": error(4096, b"x"),
        "errno 2^32 - 1": error(0xffffffff, b"x"), "401 bytes of text": error(5, b"x" * 401),
        "256 KiB of it": error(5, b"x" * (MOST - 4)), "a text with escapes": error(5, b"\x1b]0;own\x07\n\r%s%n\xff"),
        "no text": error(5, b"")}.items()),
    Kind("ERROR", "after HELLO_OK", AGREED, CONTROL, message("ERROR", error(5, b"\xff\x1b[2J")), REFUSED),
    Kind("CANCEL", "before HELLO", LINKED, CONTROL, message("CANCEL"), REFUSED),
    Kind("CANCEL", "with a payload", LINKED, CONTROL, message("CANCEL", bytes(4096)), REFUSED),
    Kind("CANCEL", "after HELLO_OK", AGREED, CONTROL, message("CANCEL"), REFUSED),
]

IMAGES = [
    Kind("DISKS", "empty", AGREED, CONTROL, message("DISKS"), REFUSED),
    Kind("DISKS", "15 bytes of it", AGREED, CONTROL, message("DISKS", bytes(15)), REFUSED),
    *(Kind("DISKS", f"{count} images, as it says", AGREED, CONTROL, disks(count=count), REFUSED)
      for count in (0, 2, 33, (1 << 32) - 1)),
    *(Kind("DISKS", f"{count} bases, as it says", AGREED, CONTROL, disks(bases=count), REFUSED)
      for count in (1, 33, (1 << 32) - 1)),
    Kind("DISKS", "something in the first field", AGREED, CONTROL, disks(round=1), REFUSED),
    Kind("DISKS", "something in the reserved field", AGREED, CONTROL, disks(zero=1), REFUSED),
    Kind("DISKS", "a byte more", AGREED, CONTROL, disks(more=b"x"), REFUSED),
    Kind("DISKS", "the same image twice", AGREED, CONTROL, disks(count=2, images=lambda d: [d.image()] * 2), REFUSED),
    Kind("DISKS", "32 images", AGREED, CONTROL, disks(count=32, images=lambda d: [d.image()] * 32), REFUSED),
    *(Kind("DISKS", f"an image of {label} bytes", AGREED, CONTROL, disks(bytes=size), REFUSED) for label, size in {
        "2^62": BIG, "2^63 - 1": (1 << 63) - 1, "2^63": 1 << 63, "2^64 - 1": TOP}.items()),
    Kind("DISKS", "no name", AGREED, CONTROL, disks(name=bytes(64)), REFUSED),
    Kind("DISKS", "a name without an end", AGREED, CONTROL, disks(name=b"n" * 64), REFUSED),
    Kind("DISKS", "a name that is no UTF-8", AGREED, CONTROL, disks(name=padded(b"\xff\xfe", 64)), REFUSED),
    *(Kind("DISKS", f"a {field} and something behind it", AGREED, CONTROL,
           disks(**{field: lambda d, field=field: getattr(d, field)[:-2] + b"x\0"}), REFUSED)
      for field in ("name", "place", "front", "format")),
    Kind("DISKS", "a name with a slash alone", AGREED, CONTROL, disks(name=padded(b"/", 64)), REFUSED),
    Kind("DISKS", "a disk that is not here", AGREED, CONTROL, disks(name=padded(b"nothing", 64)), REFUSED),
    Kind("DISKS", "a place without an end", AGREED, CONTROL, disks(place=b"/" * 256), REFUSED),
    Kind("DISKS", "a place with an escape", AGREED, CONTROL, disks(place=padded(b"/\x1b[2J", 256)), REFUSED),
    Kind("DISKS", "another file of the host", AGREED, CONTROL, disks(place=padded(b"/etc/passwd", 256)), REFUSED),
    Kind("DISKS", "a front without an end", AGREED, CONTROL, disks(front=b"f" * 128), REFUSED),
    Kind("DISKS", "another front", AGREED, CONTROL, disks(front=padded(b"nothing", 128)), REFUSED),
    Kind("DISKS", "a format without an end", AGREED, CONTROL, disks(format=b"f" * 32), REFUSED),
    Kind("DISKS", "another format", AGREED, CONTROL, disks(format=padded(b"qcow2", 32)), REFUSED),
    Kind("DISKS", "a base that is not here", AGREED, CONTROL, disks(
        bases=1, more=lambda d: word(65536) + word(1) + padded(d.name.rstrip(b"\0") + b"/1", 64) + padded(b"raw", 32)), REFUSED),
    Kind("DISKS", "a base of a name without an end", AGREED, CONTROL, disks(
        bases=1, more=word(65536) + word(1) + b"n" * 64 + padded(b"raw", 32)), REFUSED),
    Kind("DISKS", "a second one", DISKS, CONTROL, disks(), REFUSED),
    Kind("DISKS", "in a later round", ROUNDS, CONTROL, disks(), REFUSED),
    Kind("DISKS_OK", "hung up after it", DISKS, CONTROL, raw(b""), BORNE),

    Kind("DISK", "empty", DISKS, CONTROL, message("DISK"), REFUSED),
    Kind("DISK", "of no piece", DISKS, CONTROL, batch(), REFUSED),
    Kind("DISK", "of 1025 pieces", DISKS, CONTROL, batch(*[piece()] * 1025), REFUSED),
    Kind("DISK", "a count that lies", DISKS, CONTROL, batch(piece(), count=2), REFUSED),
    Kind("DISK", "a count that overflows", DISKS, CONTROL, batch(piece(), count=(1 << 27) + 1), REFUSED),
    Kind("DISK", "something in the reserved field", DISKS, CONTROL, batch(piece(), reserved=1), REFUSED),
    *(Kind("DISK", f"image {image}", DISKS, CONTROL, batch(piece(image=image)), REFUSED) for image in (1, 32, (1 << 32) - 1)),
    Kind("DISK", "zeros that are 2", DISKS, CONTROL, batch(piece(zeros=2)), REFUSED),
    Kind("DISK", "no bytes", DISKS, CONTROL, batch(piece(count=0)), REFUSED),
    Kind("DISK", "more bytes than a slot", DISKS, CONTROL, batch(piece(count=MIB + 1)), REFUSED),
    Kind("DISK", "2^63 bytes of zeros", DISKS, CONTROL, batch(piece(zeros=1, count=1 << 63)), REFUSED),
    Kind("DISK", "an offset of 2^63", DISKS, CONTROL, batch(piece(offset=1 << 63)), REFUSED),
    Kind("DISK", "an end that overflows", DISKS, CONTROL, batch(piece(offset=(1 << 63) - 4096)), REFUSED),
    Kind("DISK", "a place past the staging region", DISKS, CONTROL, batch(piece(staged=STAGING - 4096)), REFUSED),
    Kind("DISK", "a place that overflows", DISKS, CONTROL, batch(piece(staged=TOP - 100)), REFUSED),
    Kind("DISK", "at the end of the image", DISKS, CONTROL, lambda g: frame("DISK", disk(1, piece(offset=g.disks.bytes))), REFUSED),
    Kind("DISK", "past the end of the image", DISKS, CONTROL,
         lambda g: frame("DISK", disk(1, piece(offset=g.disks.bytes - 4096))), REFUSED),
    Kind("DISK", "zeros far past the end of the image", DISKS, CONTROL, batch(piece(zeros=1, offset=BIG, count=BIG)), REFUSED),
    Kind("DISK", "pieces that overlap", DISKS, CONTROL, batch(piece(), piece(offset=4096, staged=65536)), REFUSED),
    Kind("DISK", "fence 0", DISKS, CONTROL, batch(piece(), at=0), REFUSED),
    Kind("DISK", "a fence that never comes", DISKS, CONTROL, batch(piece()), BORNE),
    Kind("DISK", "the last fence of all", DISKS, CONTROL, batch(piece(), at=TOP), REFUSED),
    Kind("DISK", "a fence that another has", DISKS, CONTROL,
         lambda g: frame("DISK", disk(1, piece())) + frame("DISK", disk(1, piece(offset=65536))), REFUSED),
    Kind("DISK", "two pieces of one block", DISKS, CONTROL, batch(piece(count=512), piece(offset=512, count=512)), REFUSED),
    Kind("DISK", "a block of a batch that is under way", DISKS, CONTROL,
         lambda g: frame("DISK", disk(1, piece())) + frame("DISK", disk(2, piece(zeros=1, count=MIB))), REFUSED),
    Kind("DISK", "17 under way", DISKS, CONTROL,
         lambda g: b"".join(frame("DISK", disk(1 + i, piece(offset=65536 * (i % 16)))) for i in range(17)), REFUSED),
    Kind("DISK", "behind a DISK_END that waits", DISKS, CONTROL,
         lambda g: frame("DISK", disk(1, piece())) + frame("DISK_END", disk_end(0, g.disks.bytes)) + frame("DISK", disk(2, piece(offset=65536))),
         REFUSED),

    Kind("DISK_END", "empty", DISKS, CONTROL, message("DISK_END"), REFUSED),
    Kind("DISK_END", "of no image", DISKS, CONTROL, message("DISK_END", disk_end(0)), REFUSED),
    Kind("DISK_END", "of 2 images", DISKS, CONTROL, message("DISK_END", disk_end(0, MIB, MIB)), REFUSED),
    Kind("DISK_END", "a count that lies", DISKS, CONTROL, message("DISK_END", disk_end(0, MIB, count=32)), REFUSED),
    Kind("DISK_END", "bases", DISKS, CONTROL, message("DISK_END", disk_end(0, MIB, bases=1) + bytes(112)), REFUSED),
    Kind("DISK_END", "something in the reserved field", DISKS, CONTROL, message("DISK_END", disk_end(0, MIB, reserved=1)), REFUSED),
    Kind("DISK_END", "something in an image's reserved field", DISKS, CONTROL,
         message("DISK_END", disk_end(0, MIB, image_reserved=1)), REFUSED),
    Kind("DISK_END", "a round to come", DISKS, CONTROL, message("DISK_END", disk_end(1, MIB)), REFUSED),
    Kind("DISK_END", "whole that is 2", DISKS, CONTROL, message("DISK_END", disk_end(0, MIB, whole=2)), REFUSED),
    *(Kind("DISK_END", f"an image of {label} bytes", DISKS, CONTROL, message("DISK_END", disk_end(0, size)), REFUSED)
      for label, size in {"2^62": BIG, "2^63": 1 << 63, "2^64 - 1": TOP}.items()),
    Kind("DISK_END", "an image of no bytes, and hung up", DISKS, CONTROL, message("DISK_END", disk_end(0, 0)), BORNE),
    Kind("DISK_END", "one more while one waits", DISKS, CONTROL,
         lambda g: frame("DISK", disk(1, piece())) + frame("DISK_END", disk_end(0, g.disks.bytes)) * 2, REFUSED),
]

LAST = [
    Kind("DEVICE_END", "a device state that the VMM cannot read", SWITCHOVER, CONTROL,
         lambda g: frame("DEVICE", b"QEVM" + bytes(4096)) + frame("DEVICE_END", device_end(b"QEVM" + bytes(4096))), REFUSED),
    Kind("DEVICE_END", "half a device state", SWITCHOVER, CONTROL,
         lambda g: frame("DEVICE", g.state[:5000]) + frame("DEVICE_END", device_end(g.state[:5000])), REFUSED),
    Kind("COMMIT", "3 bytes of it", LOADED, CONTROL, message("COMMIT", bytes(3)), REFUSED),
    Kind("COMMIT", "the guest ran twice", LOADED, CONTROL, message("COMMIT", bytes((0, 0, 0, 2))), REFUSED),
    Kind("COMMIT", "hung up instead", LOADED, CONTROL, raw(b""), BORNE),
    Kind("ZERO", "after LOADED", LOADED, CONTROL, message("ZERO", zero(0, (0, 4096))), REFUSED),
    Kind("HELLO", "after LOADED", LOADED, CONTROL, hello(), REFUSED),
    Kind("data header", "a put after LOADED", LOADED, DATA, raw(put(0, 0, b"\xa5" * 4096)), BORNE),
    Kind("COMMIT", "twice", COMMITTED, CONTROL, message("COMMIT", bytes((0, 0, 0, 1))), BORNE),
    Kind("CANCEL", "after COMMITTED", COMMITTED, CONTROL, message("CANCEL"), BORNE),
    Kind("data header", "a put after COMMITTED", COMMITTED, DATA, raw(put(0, 0, b"\xa5" * 4096)), BORNE),
]

RECEIVER = HANDSHAKE + HEADERS + PUTS + HELLOS + MESSAGES + IMAGES + LAST

# A lying receiver.  Place: the source's message that gets these bytes instead of its answer.
CONNECT, JOIN = "connecting", "a data connection"
CANCELLED, UNCERTAIN = "cancelled", "uncertain"  # the expected exit status, where it is not 1

SENT_BY_SOURCE = {"HELLO": bytes(88), "DISKS": bytes(504), **{name: SOURCE_TYPES[name] for name in SOURCE_TYPES if name != "ECHO"}}
OK = RECEIVER_TYPES["HELLO_OK"]


def answer(where, about, name, payload=b"", owed=REFUSED, **lies):
    return Kind(about, name, where, CONTROL, message(about, payload, **lies), owed)


SOURCE = [
    Kind("welcome", "nothing, and hung up", CONNECT, CONTROL, raw(b""), BORNE),
    Kind("welcome", "half of it, and hung up", CONNECT, CONTROL, raw(b"GWOK\0\3"), BORNE),
    Kind("welcome", "another magic", CONNECT, CONTROL, raw(b"GWHI" + bytes(20)), REFUSED),
    Kind("welcome", "ssh", CONNECT, CONTROL, raw(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2\r\n"), REFUSED),
    *(Kind("welcome", f"status {status}", CONNECT, CONTROL, raw(b"GWOK\0\3" + status.to_bytes(2, "big") + bytes(16)), REFUSED)
      for status in (1, 2, 3, 65535)),
    Kind("welcome", "a version to come", CONNECT, CONTROL, raw(b"GWOK\0\4\0\0" + bytes(16)), REFUSED),
    Kind("welcome", "a data connection is a stranger", JOIN, CONTROL, raw(b"GWOK\0\3\0\3" + bytes(16)), REFUSED),
    Kind("welcome", "a data connection is hung up on", JOIN, CONTROL, raw(b""), BORNE),

    *(answer("HELLO", name, "instead of HELLO_OK", payload) for name, payload in {**RECEIVER_TYPES, **SENT_BY_SOURCE}.items()
      if name != "HELLO_OK"),
    *(answer("HELLO", name, "instead of HELLO_OK", bytes(64)) for name in RAIL_TYPES),
    answer("HELLO", "HELLO_OK", "another magic", b"GODX" + OK[4:]),
    answer("HELLO", "HELLO_OK", "version 0", b"GODW" + bytes(4)),
    answer("HELLO", "HELLO_OK", "a version to come", b"GODW" + bytes((0, 9, 0, 0))),
    answer("HELLO", "HELLO_OK", "something in the reserved field", OK[:7] + b"\1"),
    answer("HELLO", "HELLO_OK", "7 bytes of it", OK[:7]),
    answer("HELLO", "HELLO_OK", "a byte more", OK + b"x"),
    answer("HELLO", "HELLO_OK", "256 KiB of it", OK.ljust(MOST, b"\0")),
    Kind("HELLO_OK", "twice", "HELLO", CONTROL, lambda g: frame("HELLO_OK", OK) * 2, REFUSED),
    Kind("message header", "another magic", "HELLO", CONTROL, message("HELLO_OK", OK, magic=b"GWD1"), REFUSED),
    Kind("message header", "flags", "HELLO", CONTROL, message("HELLO_OK", OK, flags=2), REFUSED),
    Kind("message header", "4 GiB long", "HELLO", CONTROL, message("HELLO_OK", OK, length=0xffffffff), REFUSED),
    Kind("message header", "another check", "HELLO", CONTROL, message("HELLO_OK", OK, check=0), REFUSED),
    Kind("message header", "another hash", "HELLO", CONTROL, message("HELLO_OK", OK, digest=0), REFUSED),
    Kind("message header", "half of it", "HELLO", CONTROL, raw(frame("HELLO_OK", OK)[:15]), BORNE),
    answer("HELLO", 0, "type 0"),
    answer("HELLO", 65535, "type 65535", bytes(MOST)),
    answer("HELLO", "ERROR", "401 bytes of text", error(5, b"x" * 401)),
    answer("HELLO", "ERROR", "a text with escapes", error(5, b"\x1b]0;own\x07%s%n\xff")),
    answer("HELLO", "ERROR", "errno 0", error(0, b"")),
    answer("HELLO", "CANCEL", "instead of HELLO_OK", owed=CANCELLED),
    answer("HELLO", "CANCEL", "with a payload", b"why"),
    answer("HELLO", "ALIVE", "7 bytes of it", bytes(7)),
    Kind("ALIVE", "a flood of them", "HELLO", CONTROL, lambda g: frame("ALIVE", word(TOP)) * 50000, BORNE),

    answer("ECHO", "ECHO", "another number", word(2)),
    answer("ECHO", "ECHO", "number 2^64 - 1", word(TOP)),
    answer("ECHO", "ECHO", "7 bytes of it", bytes(7)),
    answer("ECHO", "ECHO", "the zeros too", word(1) + bytes(8)),
    Kind("ECHO", "twice", "ECHO", CONTROL, lambda g: frame("ECHO", word(1)) * 2, REFUSED),
    answer("ECHO", "HELLO_OK", "instead of an ECHO", OK),
    answer("ECHO", "DISKS_OK", "before DISKS", b""),
    answer("DISKS", "DISKS_OK", "with a payload", b"yes"),
    answer("DISKS", "DISK_DONE", "instead of DISKS_OK", word(1)),
    Kind("DISKS_OK", "twice", "DISKS", CONTROL, lambda g: frame("DISKS_OK") * 2, REFUSED),

    answer("DISK", "DISK_ACK", "fence 0", word(0)),
    answer("DISK", "DISK_ACK", "a fence to come", word(TOP)),
    answer("DISK", "DISK_ACK", "7 bytes of it", bytes(7)),
    answer("DISK", "DISK_DONE", "before DISK_ACK", word(1)),
    Kind("DISK_DONE", "of a batch that never was", "DISK", CONTROL,
         lambda g: frame("DISK_ACK", word(1)) + frame("DISK_DONE", word(1)) + frame("DISK_DONE", word(1)) * 20, REFUSED),
    Kind("DISK_DONE", "of another batch", "DISK", CONTROL, lambda g: frame("DISK_ACK", word(1)) + frame("DISK_DONE", word(2)), REFUSED),
    Kind("DISK_ACK", "twice", "DISK", CONTROL, lambda g: frame("DISK_ACK", word(1)) * 2, REFUSED),
    answer("DISK", "SYNCED", "before DISK_END", bytes(24)),
    answer("DISK_END", "SYNCED", "23 bytes of it", bytes(23)),
    answer("DISK_END", "SYNCED", "under way is 2", bytes(7) + b"\2" + bytes(16)),
    answer("DISK_END", "SYNCED", "a round to come", b"\xff" * 4 + bytes(20)),

    answer("ROUND_END", "ROUND_ACK", "another round", round_end(77, 1)),
    answer("ROUND_END", "ROUND_ACK", "another fence", round_end(0, TOP)),
    answer("ROUND_END", "ROUND_ACK", "fence 0", round_end(0, 0)),
    answer("ROUND_END", "ROUND_ACK", "15 bytes of it", bytes(15)),
    Kind("ROUND_ACK", "twice", "ROUND_END", CONTROL, lambda g: frame("ROUND_ACK", g.last) * 2, REFUSED),
    answer("ROUND_END", "HELLO_OK", "in the bulk", OK),
    answer("ROUND_END", "ECHO", "in the bulk", word(1)),
    answer("ROUND_END", "LOADED", "in the bulk", bytes(16)),
    answer("ROUND_END", "COMMITTED", "in the bulk", bytes(16)),
    answer("ROUND_END", "HOOK", "in the bulk", bytes((0, 0, 0, 1))),
    answer("ROUND_END", "ERROR", "in the bulk", error(28, b"full")),
    answer("ROUND_END", "CANCEL", "in the bulk", owed=CANCELLED),

    answer("DEVICE_END", "LOADED", "15 bytes of it", bytes(15)),
    answer("DEVICE_END", "COMMITTED", "before LOADED", bytes(16)),
    answer("DEVICE_END", "HOOK", "that ends before it began", bytes(4)),
    answer("DEVICE_END", "HOOK", "that is 2", bytes((0, 0, 0, 2))),
    Kind("HOOK", "twice", "DEVICE_END", CONTROL, lambda g: (frame("HOOK", bytes((0, 0, 0, 1))) + frame("HOOK", bytes(4))) * 2, REFUSED),
    Kind("LOADED", "while the hook runs", "DEVICE_END", CONTROL,
         lambda g: frame("HOOK", bytes((0, 0, 0, 1))) + frame("LOADED", bytes(16)), REFUSED),
    answer("DEVICE_END", "ERROR", "instead of LOADED", error(5, b"no")),
    Kind("LOADED", "hung up instead", "DEVICE_END", CONTROL, raw(b""), BORNE),

    answer("COMMIT", "ERROR", "after COMMIT", error(5, b"it is yours")),
    answer("COMMIT", "CANCEL", "after COMMIT", owed=CANCELLED),
    answer("COMMIT", "COMMITTED", "15 bytes of it", bytes(15), owed=UNCERTAIN),
    answer("COMMIT", "COMMITTED", "an errno that is none", word(0) + word(TOP), owed=UNCERTAIN),
    answer("COMMIT", "LOADED", "after COMMIT", bytes(16), owed=UNCERTAIN),
    Kind("COMMITTED", "hung up instead", "COMMIT", CONTROL, raw(b""), UNCERTAIN),
]
