# SPDX-License-Identifier: Apache-2.0
"""A recording of a good session, with seeded changes.  It ends before the guest would be paused."""

import random
import socket
import struct

import wire

ANSWERS = {"HELLO": "HELLO_OK", "ECHO": "ECHO", "DISKS": "DISKS_OK", "DISK": "DISK_DONE", "DISK_END": "SYNCED",
           "ROUND_END": "ROUND_ACK"}
NUMBERS = (0, 1, 7, 4095, 4096, 65535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096,
           (1 << 64) - 1)
SOON = 0.3  # a session that lacks an answer is continued


class Stream:
    """Steps of a session: a message (name, payload, lies), or frames of a data connection up to a fence."""

    def __init__(self, messages, puts, seed):
        self.dice, self.what = random.Random(seed), []
        self.steps = self.recorded(messages, list(puts))
        for _ in range(self.dice.choice((1, 1, 2, 4))):
            self.change()

    @staticmethod
    def recorded(messages, puts):
        steps = []
        for name, payload in messages:
            if name == "SWITCH":
                break
            if name == "ALIVE":
                continue
            number = {"DISK": lambda: struct.unpack(">Q", payload[:8])[0],
                      "ROUND_END": lambda: struct.unpack(">Q", payload[8:])[0]}.get(name, lambda: 0)()
            frames = []
            while number and puts:
                kind, data = puts[0]
                if kind == 2 and struct.unpack(">Q", data[8:16])[0] > number:
                    break
                frames.append(data)
                puts.pop(0)
            if frames:
                steps.append(["puts", frames])
            steps.append([name, payload, {}])
        return steps

    def change(self):
        at = self.dice.choice([i for name in {step[0] for step in self.steps}
                               for i in [self.dice.choice([k for k, step in enumerate(self.steps) if step[0] == name])]])
        step = self.steps[at]
        change = self.dice.choice((self.number, self.number, self.flip, self.cut, self.longer, self.drop, self.again, self.swap,
                                   self.other_type, self.unsealed))
        self.what.append(f"{change.__name__} in {step[0]} ({at})")
        if step[0] == "puts":
            self.change_put(step)
        else:
            change(at, step)

    def change_put(self, step):
        """A lying header with the right check."""
        at = self.dice.randrange(len(step[1]))
        kind, region, offset, count = struct.unpack(">HHQI", step[1][at][4:20])
        payload = step[1][at][24:]
        lie = self.dice.randrange(6)
        if lie == 0:
            region = self.dice.choice((1, 2, 63, 64, 65535))
        elif lie == 1:
            offset = self.dice.choice(NUMBERS)
        elif lie == 2:
            count = self.dice.choice(NUMBERS) & 0xffffffff
        elif lie == 3:
            kind = self.dice.choice((0, 1, 2, 3, 65535))
        elif lie == 4:
            payload = payload[:self.dice.randrange(len(payload) + 1)]
        step[1][at] = wire.data_frame(kind, region, offset, count, payload) if lie < 5 else step[1][at] * 2

    def number(self, _, step):
        """A number of 4 or 8 bytes in the place of another."""
        size = self.dice.choice((4, 8))
        if len(step[1]) >= size:
            at = self.dice.randrange(0, min(len(step[1]), 512) - size + 1, 4)
            lie = (self.dice.choice(NUMBERS) & (1 << 8 * size) - 1).to_bytes(size, "big")
            step[1] = step[1][:at] + lie + step[1][at + size:]

    def flip(self, _, step):
        data = bytearray(step[1] or b"x")
        for _ in range(self.dice.choice((1, 3, 30))):
            data[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
        step[1] = bytes(data)

    def cut(self, _, step):
        step[1] = step[1][:self.dice.randrange(len(step[1]) + 1)]

    def longer(self, _, step):
        step[1] += self.dice.randbytes(self.dice.choice((1, 8, 4096)))

    def drop(self, at, _):
        if len(self.steps) > 1:
            del self.steps[at]

    def again(self, at, step):
        self.steps.insert(at, list(step))

    def swap(self, at, _):
        other = self.dice.randrange(len(self.steps))
        self.steps[at], self.steps[other] = self.steps[other], self.steps[at]

    def other_type(self, _, step):
        step[0] = self.dice.choice(list(wire.TYPES) + [0, 24, 65535])
        step[0] = "ALIVE" if step[0] == "COMMIT" else step[0]

    def unsealed(self, _, step):
        step[2] = self.dice.choice(({"magic": b"GWD1"}, {"flags": 1}, {"length": 1 << 31}, {"check": 1}, {"digest": 1},
                                    {"length": len(step[1]) + 1}))

    def play(self, peer):
        """Sends all of it, or until the receiver hangs up."""
        peer.control.settimeout(SOON)
        peer.data[0].settimeout(wire.PATIENCE)
        try:
            for step in self.steps:
                if step[0] == "puts":
                    for data in step[1]:
                        peer.data[0].sendall(data)
                    continue
                peer.say(step[0], step[1], **step[2])
                if step[0] in ANSWERS:
                    try:
                        peer.hear(ANSWERS[step[0]])
                    except socket.timeout:
                        pass
        except (wire.Closed, OSError):
            pass
