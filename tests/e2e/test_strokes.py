#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two hundred kills, stops and thaws of real processes at seeded moments: exactly one owner after each.

A stroke is one migration of a firmware guest, and one act against one of its four processes; some kill a godwit
besides.  The seed and the number of a stroke fix the act, the moment and the lengths.  Pairs of VMMs work side by
side; a guest that moved is moved back.

After each stroke, when all is quiet:
 - the two VMMs never ran at one moment, by the times of their STOP and RESUME events;
 - one guest runs, or a person who follows `godwit status` to the letter ends with one; a VMM that was struck may take
   the guest with it, and then the other side neither claims nor starts it;
 - the guest stood no longer than the limits allow;
 - x-ignore-shared is off where the guest runs.

GODWIT_SEED=N takes other strokes, GODWIT_STROKES=N so many, GODWIT_STROKE=N the N-th alone, ten times.
"""

import collections
import json
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

SEED = int(os.environ.get("GODWIT_SEED", "17"))
COUNT = int(os.environ.get("GODWIT_STROKES", "200"))
ONLY = os.environ.get("GODWIT_STROKE")
PAIRS = 8
SMALL = {"guest": False, "ram_mib": 16}  # a running firmware will do

PAUSE_LIMIT, HOOK_LIMIT, LEASE = 3.0, 4.0, 2.0
SLACK = 12.0  # for a busy machine; a pause without an end is longer
LONGEST = PAUSE_LIMIT + HOOK_LIMIT + LEASE + SLACK  # pause
PATIENCE = 90.0  # until all is quiet: godwit's own limits are shorter

GODWITS, VMMS = ("sender", "receiver"), ("source", "destination")
ACTS = [(act, victim) for act in ("kill", "term", "stop", "stop") for victim in GODWITS + VMMS] + \
       [("cancel", "sender"), ("cancel", "receiver"), ("cont", "source"), ("cont", "source")]
BLACKOUT = ("switchover", "device", "commit")
OWNS = "this side owns the guest"


class Broken(Exception):
    """A promise that was broken."""


class Stroke:
    """The choices of a seed."""

    def __init__(self, number):
        r = random.Random(f"{SEED}/{number}")
        self.number = number
        self.act, self.victim = ACTS[number % len(ACTS)]
        # After COMMIT a stranger's `cont` is forbidden; the hook keeps it away.
        self.moment = "hook" if self.act == "cont" else \
            r.choices(("any", "blackout", "hook", "loaded", "commit"), (20, 14, 28, 19, 19))[0]
        self.part = r.random()  # of the time in which it may strike
        self.slow = r.choice(("", "bandwidth", "delay")) if self.moment == "any" else r.choice(("", "delay"))
        self.rehearsal = r.random() < 0.5
        self.standing = r.uniform(0.05, 1.5) if r.random() < 0.6 else r.uniform(2.2, 3.5)
        self.until_it_runs = self.moment == "hook" and self.victim != "source" and r.random() < 0.5
        self.release = r.uniform(0, 0.05)  # from the stroke to the end of the hook
        self.stop_again = r.random() < 0.5
        self.both = self.victim != "destination" and self.act in ("kill", "stop") and r.random() < 0.3
        self.apart = r.uniform(0, 0.02)  # from the stroke to the other one

    def __str__(self):
        text = f"{self.number}: {self.act} {self.victim}, {self.moment} {self.part:.2f}"
        if self.act == "stop":
            text += ", until it runs" if self.until_it_runs else f", for {self.standing:.2f} s"
        if self.both:
            text += f", then kill {'sender' if self.victim == 'receiver' else 'receiver'}"
        return text + (f", {self.slow}" if self.slow else "")


class Watch:
    """A QMP connection that a thread reads.  It notes by events when the guest ran, and asks for
    its status."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        vmlab.wait_for(lambda: self.sock.connect_ex(str(path)) == 0, 60, f"QMP at {path}")
        self.sock.setblocking(False)
        self.rest, self.status, self.answered, self.asked, self.greeted = b"", None, 0, 0, False
        self.changes = []  # (when, runs)
        self.send("qmp_capabilities")
        vmlab.wait_for(lambda: self.pump() or self.status, 60, "QMP's first answer")
        self.begin()

    def begin(self):
        """A stroke begins: earlier events do not count."""
        self.changes = [(time.time(), self.status == "running")]

    def send(self, command):
        try:
            self.sock.send(json.dumps({"execute": command, "id": command}).encode() + b"\n")
        except OSError:
            pass  # it is gone, or does not read

    def pump(self):
        if self.asked == self.answered:
            self.asked += 1
            self.send("query-status")
        while True:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                continue  # reported once when a VMM dies with an unread question; its earlier words are still there
            except OSError:
                break  # no more for now
            if not data:
                break
            self.rest += data
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            self.take(json.loads(line))

    def take(self, packet):
        if packet.get("event") in ("STOP", "RESUME"):
            at = packet["timestamp"]
            self.changes.append((at["seconds"] + at["microseconds"] / 1e6, packet["event"] == "RESUME"))
        elif packet.get("id") == "query-status":
            self.status = packet["return"]["status"]
            self.answered += 1

    def fresh(self):
        """The status of now.  The VMM lives and is not stopped."""
        seen = self.asked
        vmlab.wait_for(lambda: self.pump() or self.answered > seen, 60, "an answer by QMP")
        return self.status

    def ran(self, until):
        """When the guest ran: (from, to).  One that was killed while it ran counts as running:
        nobody else may start it."""
        ends = [when for when, _ in self.changes[1:]] + [until]
        return [(when, end) for (when, runs), end in zip(self.changes, ends) if runs]

    def stood(self):
        """When the guest was paused after it had run: (from, to or None)."""
        ends = [when for when, _ in self.changes[1:]] + [None]
        return [(when, end) for i, ((when, runs), end) in enumerate(zip(self.changes, ends)) if i > 0 and not runs]


class Side:
    """A host with the VMM of the day."""

    def __init__(self, pair, host):
        self.pair, self.host, self.vm, self.watch = pair, host, None, None

    def start(self, incoming):
        self.end()
        self.pair.started += 1
        name = f"{os.getpid()}-{self.pair.number}-{self.pair.started}"
        path = self.host.folder / f"watch-{name}.sock"
        self.vm = self.host.vm(incoming=incoming, ram=f"/dev/shm/gw-strokes-{name}.ram", patience=60,
                               extra=("-qmp", f"unix:{path},server=on,wait=off"), **SMALL)
        self.watch = Watch(path)

    def end(self):
        if not self.vm:
            return
        self.vm.process.kill()
        self.vm.process.wait()
        self.vm.qmp.close()
        self.vm.log.close()
        self.watch.sock.close()
        self.vm.ram.unlink(missing_ok=True)
        self.vm = None

    def lives(self):
        return self.vm is not None and self.vm.process.poll() is None

    def runs(self):
        return self.lives() and self.watch.fresh() == "running"

    def text(self):
        """The advice to a person."""
        return self.host.godwit("status", "guest").stdout

    def resume(self, *options):
        return self.host.godwit("resume", *options, "guest")

    def asked(self, file):
        """The status of the live session, asked without a process in between; None: there is no
        session."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(5)
            try:
                sock.connect(str(self.host.folder / "run" / "guest" / file))
                sock.send(b"status")
                return json.loads(sock.recv(16384))
            except (OSError, ValueError):
                return None

    def ignores_shared(self):
        capabilities = self.vm.qmp("query-migrate-capabilities")
        return any(c["state"] for c in capabilities if c["capability"] == "x-ignore-shared")


class Pair:
    """Two VMMs, and their strokes."""

    def __init__(self, number, lengths):
        self.number, self.started, self.lengths = number, 0, lengths
        self.lab = vmlab.Lab()
        self.here, self.there = Side(self, self.lab.a), Side(self, self.lab.b)
        self.sender = self.receiver = None
        self.fifo = self.lab.folder / "hook"

    # --- one migration ---

    def prepare(self):
        if not self.here.lives() or self.here.watch.fresh() != "running":
            self.here.start(False)
            vmlab.wait_for(self.here.runs, 60, "a running guest")
        if not self.there.lives() or self.there.watch.fresh() != "inmigrate":
            self.there.start(True)
        for side in (self.here, self.there):
            side.watch.fresh()
            side.watch.begin()

    def begin(self, stroke):
        self.sender = self.receiver = None
        os.mkfifo(self.fifo)
        delay = ("--fault", "cut@1000000,delay=2")
        slow = {"bandwidth": ("--bandwidth", "1M"), "delay": delay, "": ()}[stroke.slow]
        hook = ("--hook", f"read line < {self.fifo}") if stroke.moment in ("hook", "loaded", "commit") else ()
        rehearsal = () if stroke.rehearsal else ("--no-rehearsal",)
        self.receiver, port = self.there.host.receive("guest", *hook, *(delay if stroke.slow == "delay" else ()))
        limits = ("--pause-limit", int(PAUSE_LIMIT * 1000), "--hook-limit", int(HOOK_LIMIT))
        self.sender = self.here.host.start("migrate", "--json", *limits, *slow, *rehearsal, "guest",
                                           f"127.0.0.1:{port}")
        self.begun = time.monotonic()

    def until(self, condition, limit, what, interval=0.005):
        """Waits, with both VMMs watched."""
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                raise Broken(f"{what}: not within {limit:.0f} s")
            self.pump()
            time.sleep(interval)

    def pump(self):
        for side in (self.here, self.there):
            side.watch.pump()

    def open_hook(self):
        try:
            return os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return -1  # nobody reads it

    def await_moment(self, stroke):
        """Return: the writing end of the hook's pipe, or -1."""
        ended = lambda: self.sender.poll() is not None or self.receiver.poll() is not None  # noqa: E731
        state = lambda: (self.here.asked("migrate.sock") or {}).get("state")  # noqa: E731
        hook = -1
        if stroke.moment == "any":
            time.sleep(stroke.part * self.lengths[stroke.slow])
        elif stroke.moment == "blackout":
            self.until(lambda: ended() or state() in BLACKOUT, PATIENCE, "the blackout", 0.0002)
            time.sleep(stroke.part * (0.03 if stroke.slow else 0.006))
        else:
            while hook < 0 and not ended():
                self.until(lambda: ended() or self.fifo.exists(), PATIENCE, "the hook")
                hook = self.open_hook()
                time.sleep(0.002)
        if hook >= 0 and stroke.moment == "loaded":
            os.write(hook, b"\n")
            time.sleep(stroke.part * (0.02 if stroke.slow else 0.005))
        elif hook >= 0 and stroke.moment == "commit":
            os.write(hook, b"\n")
            self.until(lambda: ended() or state() == "commit", PATIENCE, "COMMIT", 0.0002)
            time.sleep(stroke.part * (0.01 if stroke.slow else 0.001))
        elif hook >= 0:
            time.sleep(stroke.part * 0.03)
        return hook

    # --- the act ---

    def strike(self, stroke):
        """Return: the process that was struck."""
        process = {"sender": self.sender, "receiver": self.receiver, "source": self.here.vm.process,
                   "destination": self.there.vm.process}[stroke.victim]
        side = self.here if stroke.victim in ("sender", "source") else self.there
        if stroke.act == "cancel":
            side.host.start("cancel", "guest")
        elif stroke.act == "cont":
            side.vm.qmp("cont")
            if stroke.stop_again:
                side.vm.qmp("stop")
        else:
            process.send_signal({"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}[stroke.act])
        if stroke.both:
            time.sleep(stroke.apart)
            (self.sender if stroke.victim == "receiver" else self.receiver).kill()
        return process

    def release(self, hook):
        """The hook ends, whether it has begun or not."""
        if hook >= 0:
            try:
                os.write(hook, b"\n")
            except OSError:
                pass  # it has ended
            os.close(hook)

    def drop_hook(self):
        """Releases a hook that still waits for its pipe to be opened."""
        fd = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        self.fifo.unlink()
        os.write(fd, b"\n")
        os.close(fd)

    def ends(self, process):
        """A VMM that is told to end.  QEMU 7.2 hangs in monitor_cleanup() when a QMP command comes in that moment."""
        try:
            self.until(lambda: process.poll() is not None, 10, "the VMM's end")
        except Broken:
            process.kill()
            process.wait()

    def stand(self, stroke, process):
        """Thaws the victim.  Return: how long it was frozen."""
        if stroke.victim in VMMS and stroke.act in ("kill", "term"):
            self.ends(process)
        if stroke.act != "stop":
            return 0
        struck = time.monotonic()
        if stroke.until_it_runs:
            try:
                self.here.watch.fresh()
                self.until(lambda: self.here.watch.status == "running" or not self.here.lives(), LONGEST,
                           f"the guest running on while the {stroke.victim} stands")
            finally:
                process.send_signal(signal.SIGCONT)
        else:
            self.until(lambda: time.monotonic() - struck > stroke.standing, PATIENCE, "the thaw")
            process.send_signal(signal.SIGCONT)
        return time.monotonic() - struck

    def quiet(self):
        """Waits until both godwits have ended.  A receiver that nobody calls is ended."""
        self.until(lambda: self.sender.poll() is not None, PATIENCE, "the sender's end")
        for _ in range(20):
            self.pump()
            if self.receiver.poll() is None:
                time.sleep(0.02)
        if self.receiver.poll() is None and (self.there.asked("receive.sock") or {"state": "waiting"})["state"] == "waiting":
            self.receiver.terminate()
        self.until(lambda: self.receiver.poll() is not None, PATIENCE, "the receiver's end")

    # --- the promises ---

    def check_never_two(self):
        now = time.time()
        for a in self.here.watch.ran(now):
            for b in self.there.watch.ran(now):
                if min(a[1], b[1]) > max(a[0], b[0]):
                    raise Broken(f"two guests ran for {min(a[1], b[1]) - max(a[0], b[0]):.6f} s")

    def running(self):
        found = [side for side in (self.here, self.there) if side.runs()]
        self.check_never_two()
        if len(found) > 1:
            raise Broken("two guests run")
        return found[0] if found else None

    def check_pauses(self, stroke, stood_s):
        """The pauses of the guest here, and the one in which it moved."""
        limit = LONGEST
        if stroke.until_it_runs and stroke.victim == "sender" and stroke.act == "stop":
            limit = LEASE + SLACK
        started = [when for when, runs in self.there.watch.changes if runs]
        for begin, end in self.here.watch.stood():
            moved = end is None and bool(started)
            allowed = limit + (stood_s if moved or stroke.victim == "source" else 0)
            length = (started[0] if moved else end or begin) - begin
            if length > allowed:
                raise Broken(f"the guest stood for {length:.1f} s, {allowed:.1f} are allowed")

    def await_own_end(self):
        """A guest that the source owns comes back by itself; one with an unknown owner does not."""
        begun = time.monotonic()

        def over():
            if self.here.runs() or self.there.runs():
                return True
            return time.monotonic() - begun > 0.5 and not (self.here.lives() and OWNS in self.here.text())
        self.until(over, LONGEST, "the guest, which its source owns, running again", 0.05)

    def follow_status(self, stroke):
        """Acts as a person who reads both sides, to the letter.  Return: how it ended."""
        here, there = self.here.text(), self.there.text()
        told = f"\n  source:      {here}  destination: {there}"
        if self.there.lives() and OWNS in there:
            if "godwit resume guest" not in there:
                raise Broken(f"the destination owns the paused guest, and its status does not say what to do{told}")
            return self.resume(self.there, told)
        if not self.here.lives():
            if stroke.victim != "source":
                raise Broken(f"the source's VMM is gone{told}")
            if "changed hands" in here and "resume --force" in there:  # uncertain both
                return self.resume(self.there, told, "--force")
            return self.claims_nothing(self.there, there, told)
        if "The link died while the guest changed hands" in here:
            if OWNS in there:  # its VMM is gone with the guest
                return self.claims_nothing(self.here, here, told)
            self.there.end()
            return self.resume(self.here, told, "--force")
        if OWNS in here:
            raise Broken(f"the source owns the guest, and it stays paused{told}")
        if stroke.victim == "destination" and stroke.act in ("kill", "term") and "does not own the guest" in here:
            return self.claims_nothing(self.here, here, told)
        raise Broken(f"no guest runs, and no status says what to do{told}")

    def resume(self, side, told, *options):
        done = side.resume(*options)
        if done.returncode != 0:
            raise Broken(f"resume, as status says: {done.stderr}{told}")
        if self.running() is not side:
            raise Broken(f"no guest runs after resume, as status says{told}")
        return "settled here" if side is self.here else "settled there"

    def claims_nothing(self, side, text, told):
        """The guest died with its VMM: the other side neither claims it nor starts it."""
        if OWNS in text:
            raise Broken(f"the guest died with its VMM, and the other side claims it{told}")
        if side.lives() and "The link died" not in text:
            self.refuses(side, told)
        return "died with its VMM"

    def refuses(self, side, told=""):
        if side.resume().returncode == 0 or side.runs():
            raise Broken(f"'{side.host.name}' does not own the guest, and resume started it{told}")

    def check_other(self, runs):
        """The guest runs on one side: the other side neither claims it nor starts it."""
        other = self.there if runs is self.here else self.here
        if OWNS not in runs.text() and "the VMM is running; no migration" not in runs.text():
            raise Broken(f"the guest runs at {runs.host.name}: {runs.text()}")
        text = other.text()
        if OWNS in text and other.lives():
            raise Broken(f"the guest runs at {runs.host.name}, and the other side claims it: {text}")
        if other.lives() and "The link died" not in text:
            self.refuses(other)
            self.running()

    def check_exit_codes(self, stroke, runs):
        code = self.sender.returncode
        if code == 0 and runs is self.here:
            raise Broken("the sender says that the guest moved, and it runs here")
        if code in (1, 3) and runs is self.there:
            raise Broken(f"the sender says that the guest stays ({code}), and it runs there")
        if self.receiver.returncode == 0 and runs is self.here:
            raise Broken("the receiver says that the guest came, and it runs at the source")
        if code not in (0, 1, 2, 3, 4, 5, -9, -15):
            raise Broken(f"the sender ended with {code}")

    def one(self, stroke):
        """Return: the state of the source at the stroke, and the outcome."""
        self.prepare()
        self.begin(stroke)
        hook = self.await_moment(stroke)
        seen = self.here.asked("migrate.sock")
        process = self.strike(stroke)
        if hook >= 0:
            time.sleep(stroke.release)
        self.release(hook)
        stood_s = self.stand(stroke, process)
        self.quiet()
        self.drop_hook()
        self.await_own_end()
        runs = self.running()
        outcome = "stays" if runs is self.here else "moved" if runs else self.follow_status(stroke)
        if stroke.moment == "hook" and hook >= 0 and outcome.startswith("settled"):
            raise Broken(f"the stroke came before COMMIT, and the guest did not go on by itself: {outcome}")
        self.check_pauses(stroke, stood_s)
        if runs:
            self.check_exit_codes(stroke, runs)
            self.check_other(runs)
        runs = self.running()
        if runs and runs.ignores_shared():
            raise Broken(f"x-ignore-shared is left on where the guest runs ({runs.host.name})")
        if runs is self.there:
            self.here, self.there = self.there, self.here
        state = seen["state"] if seen else "ended" if self.sender.returncode == 0 else "before"
        return state, outcome

    def errors(self):
        return "".join(f"\n  {name} ({process.poll()}): {process.stderr.read() if process.poll() is not None else ''}"
                       for name, process in (("sender", self.sender), ("receiver", self.receiver)) if process)

    def clear(self, broken):
        """Ends the godwits, and both VMMs if the stroke was broken."""
        for process in self.lab.processes:
            if process.poll() is None and process not in [s.vm.process for s in (self.here, self.there) if s.vm]:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        self.lab.processes = [s.vm.process for s in (self.here, self.there) if s.vm]
        self.lab.vms = [s.vm for s in (self.here, self.there) if s.vm]
        if self.fifo.exists():
            self.drop_hook()
        if broken:
            self.here.end()
            self.there.end()


def measure():
    """The time of an undisturbed migration, for each way of slowing it."""
    lengths = {}
    pair = Pair(PAIRS, lengths)
    with pair.lab:
        for slow in ("", "", "bandwidth", "delay"):
            stroke = Stroke(0)
            stroke.moment, stroke.slow, stroke.rehearsal = "any", slow, True
            pair.prepare()
            pair.begin(stroke)
            pair.until(lambda: None not in (pair.sender.poll(), pair.receiver.poll()), PATIENCE, "a migration")
            lengths[slow] = time.monotonic() - pair.begun
            if pair.sender.returncode != 0 or pair.receiver.returncode != 0:
                raise Broken(f"undisturbed: {pair.errors()}")
            pair.here, pair.there = pair.there, pair.here
            pair.clear(False)
        pair.clear(True)
    return lengths


class Strokes(unittest.TestCase):
    def test_exactly_one_owner_after_each_stroke(self):
        work, lock = queue.Queue(), threading.Lock()
        for number in [int(ONLY)] * 10 if ONLY else range(COUNT):
            work.put(number)
        lengths = measure()
        print(f"seed {SEED}, {work.qsize()} strokes; undisturbed: " +
              ", ".join(f"{slow or 'plain'} {s * 1000:.0f} ms" for slow, s in lengths.items()), flush=True)
        found, broken = collections.Counter(), []

        def strike_all(number):
            pair = Pair(number, lengths)
            with pair.lab:
                while True:
                    try:
                        stroke = Stroke(work.get_nowait())
                    except queue.Empty:
                        pair.clear(True)
                        return
                    begun, failed = time.monotonic(), True
                    try:
                        state, outcome = pair.one(stroke)
                        failed = False
                        text = f"{stroke}: in {state}, {outcome}"
                    except Exception as why:  # pylint: disable=broad-except
                        text = f"{stroke}: BROKEN: {type(why).__name__}: {why}{pair.errors()}"
                    with lock:
                        print(f"  {text} ({time.monotonic() - begun:.1f} s)", flush=True)
                        if failed:
                            broken.append(text)
                        else:
                            found[(state, outcome)] += 1
                    pair.clear(failed)

        threads = [threading.Thread(target=strike_all, args=(n,)) for n in range(PAIRS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for (state, outcome), count in sorted(found.items()):
            print(f"  {count:4} in {state}: {outcome}")
        self.assertEqual(sum(found.values()) + len(broken), 10 if ONLY else COUNT, "strokes that were not struck")
        self.assertEqual(broken, [], f"GODWIT_SEED={SEED} GODWIT_STROKE=N repeats one")
        total, held = sum(found.values()), sum(n for (state, _), n in found.items() if state in BLACKOUT)
        print(f"  {held} of {total} in the blackout", flush=True)
        if not ONLY and COUNT >= len(ACTS):
            self.assertGreater(held * 4, total, "the hook holds the blackout open for more strokes than that")


if __name__ == "__main__":
    runner.main()
