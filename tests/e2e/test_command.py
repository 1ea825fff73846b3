#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command as people and scripts use it: options, help, output, JSON, addresses, and waiting
receivers."""

import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
import unittest.mock
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

IDLE = {"guest": False, "paused": True, "ram_mib": 64}


class Words(unittest.TestCase):
    """These need no VM."""

    @classmethod
    def setUpClass(cls):
        cls.lab = vmlab.Lab()

    @classmethod
    def tearDownClass(cls):
        cls.lab.close()

    def said(self, *args, code=0):
        done = self.lab.a.godwit(*args)
        self.assertEqual(done.returncode, code, (args, done.stderr))
        return done

    def test_options_are_as_everywhere(self):
        for args, code, word in ((["migrate", "-qv", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["migrate", "-qdc4", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["migrate", "ghost", "127.0.0.1:1", "-q"], 5, "ghost"),
                                 (["migrate", "--channels=4", "--", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["list", "--json=no"], 2, "takes no value"), (["list", "--help=no"], 2, "takes no value"),
                                 (["migrate", "-Z"], 2, "-Z"), (["migrate", "--qu"], 2, "'--qu' is no option"),
                                 (["migrate", "--js", "ghost", "127.0.0.1:1"], 2, "'--js' is no option"),
                                 (["migrate", "--hook"], 2, "'--hook' is no option"),
                                 (["migrate", "--hook", "3", "ghost", "127.0.0.1:1"], 2, "'--hook' is no option"),
                                 (["migrate", "--hook=3", "ghost", "127.0.0.1:1"], 2, "'--hook=3' is no option"),
                                 (["migrate", "ghost", "--chan", "3", "127.0.0.1:1"], 2, "'--chan' is no option"),
                                 (["list", "--hel"], 2, "'--hel' is no option"), (["list", "--js=no"], 2, "'--js=no' is no option"),
                                 (["migrate", "--channels", "4", "-b", "--", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["list", "extra"], 2, "takes no words"), (["list", "--json", "extra", "words"], 2, "takes no words"),
                                 (["help", "list", "extra"], 2, "'extra'"), (["--help", "list", "extra"], 2, "'extra'"),
                                 (["--version", "extra"], 2, "'extra'"),
                                 (["status"], 2, "a name is needed"), (["status", "one", "two"], 2, "'two' is one word too many"),
                                 (["cancel", "one", "two"], 2, "'two' is one word too many"),
                                 (["receive", "one", "--listen", "127.0.0.1:0"], 2, "'one' is one word too many"),
                                 (["migrate", "-b", "-i", "ghost", "127.0.0.1:1"], 2, "say one of the two"),
                                 (["run", "--name", "ghost", "--", "qemu-ghost", "-object",
                                   "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm,share=on", "-machine",
                                   "memory-backend=ram0"], 1, "in no folder of PATH"),
                                 (["migrate", "-c"], 2, "needs a value: N"), (["migrate", "--downtime"], 2, "needs a value: MS"),
                                 (["help", "fly"], 2, "no command 'fly'")):
            done = self.said(*args, code=code)
            self.assertIn(word, done.stderr, args)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_a_run_folder_that_is_not_there(self):
        with unittest.mock.patch.dict(self.lab.a.env, {"GODWIT_RUN_DIR": "/nowhere/godwit"}):
            self.assertIn("no such folder yet", self.said("list").stderr)
            self.assertEqual(json.loads(self.said("list", "--json").stdout), [])
        with unittest.mock.patch.dict(self.lab.a.env, {"GODWIT_RUN_DIR": "/dev/null"}):
            self.assertIn("Not a directory", self.said("list", code=1).stderr)

    def test_help_is_of_the_command(self):
        for name in ("run", "list", "receive", "migrate", "status", "cancel", "resume", "bench", "probe"):
            page = self.said("help", name).stdout
            self.assertTrue(page.startswith(f"Usage: godwit {name} "), page)
            self.assertEqual(self.said(name, "--help").stdout, page)
            self.assertEqual(self.said(name, "-h").stdout, page)

    def test_output_that_cannot_be_written_is_a_failure(self):
        for args in (["list"], ["list", "--json"], ["probe"], ["probe", "--json"], ["help"], ["list", "--help"], ["--version"]):
            with open("/dev/full", "w") as full:
                process = self.lab.a.start(*args, stdout=full)
                _, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 1, args)
            self.assertIn("No space left on device", err, args)

    def test_a_failure_before_the_start_is_json_too(self):
        for args, code, word in ((["migrate", "--json", 'gh"ost', "127.0.0.1:1"], 5, 'gh"ost'),
                                 (["migrate", "--json", b"gh\xffost", "127.0.0.1:1"], 5, "gh\ufffdost"),
                                 (["migrate", "-d", "--json", "ghost", "127.0.0.1:1"], 5, "ghost"),
                                 (["migrate", "--json"], 2, "name and a URI"), (["migrate", "--what", "--json"], 2, "--what"),
                                 (["receive", "--json", "--name", "ghost", "--listen", "127.0.0.1:0"], 5, "ghost"),
                                 (["status", "--json", "ghost"], 5, "ghost"),
                                 (["bench", "--json", "--size", "1M", "127.0.0.1:1"], 1, "nothing listens"),
                                 (["probe", "--json", "nonsense"], 2, "HOST:PORT")):
            line = json.loads(self.said(*args, code=code).stdout)
            self.assertEqual((line["event"], line["command"]), ("error", args[0]))
            self.assertIn(word, line["error"], args)

    def test_a_bad_address_is_a_usage_error(self):
        for uri in ("nonsense", "127.0.0.1", ":1", "127.0.0.1:port", "127.0.0.1:65536", "tcp://", "tcp:///127.0.0.1:1", "[::1:1"):
            for args in (["migrate", "ghost", uri], ["bench", uri], ["probe", uri], ["bench", "--listen", uri],
                         ["receive", "--name", "ghost", "--listen", uri]):
                self.assertIn("PORT", self.said(*args, code=2).stderr, args)

    def test_addresses_may_be_written_as_uris(self):
        for scheme in ("", "tcp:", "tcp://"):
            self.assertIn("nothing listens", self.said("bench", "--size", "1M", f"{scheme}127.0.0.1:1", code=1).stderr)
            self.assertIn("nothing listens", self.said("bench", "--size", "1M", f"{scheme}[::1]:1", code=1).stderr)
        for scheme in ("rdma:", "rdma://"):
            self.assertIn("RDMA device", self.said("bench", "--size", "1M", f"{scheme}127.0.0.1:1", code=1).stderr)

    @unittest.skipIf(os.path.isdir("/sys/class/infiniband") and os.listdir("/sys/class/infiniband"), "RDMA devices are here")
    def test_no_rdma_device_is_said_once_and_where_it_was_expected(self):
        listener = self.lab.b.start("bench", "--listen", "tcp://127.0.0.1:0")
        port = int(listener.stdout.readline().split()[3].rstrip(";"))
        done = self.said("bench", "--json", "--size", "1M", f"127.0.0.1:{port}")
        self.assertEqual(json.loads(done.stdout)["link"], "TCP")
        self.assertNotRegex(done.stdout, r"\.\d{7}", "digits that say nothing")
        self.assertEqual(self.said("bench", "--size", "1M", f"127.0.0.1:{port}").stdout.count("RDMA"), 0)
        self.assertEqual(self.said("probe", f"127.0.0.1:{port}").stdout.count("no RDMA device"), 1)
        listener.kill()

    def test_a_peer_that_is_no_godwit_is_named(self):
        for answer, name in ((b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "an SSH server"),
                             (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server"), (b"RFB 003.008\n", "a VNC server"),
                             (b"\xff", "iperf3"), (b"nobody knows what this may be", "not a godwit receiver")):
            with socket.create_server(("127.0.0.1", 0)) as server:
                def serve():
                    peer, _ = server.accept()
                    peer.recv(64)
                    peer.sendall(answer)
                    peer.close()
                thread = threading.Thread(target=serve)
                thread.start()
                done = self.said("bench", "--size", "1M", f"127.0.0.1:{server.getsockname()[1]}", code=1)
                thread.join()
            self.assertIn(name, done.stderr)


class Vms(unittest.TestCase):
    """Two VMs that do not run: one to be moved, one that waits."""

    @classmethod
    def setUpClass(cls):
        cls.lab = vmlab.Lab()
        cls.addClassCleanup(cls.lab.close)
        for host in (cls.lab.a, cls.lab.b):
            disk = cls.lab.folder / f"{host.name}.img"
            disk.write_bytes(bytes(1 << 20))
            host.disk = ["-drive", f"file={disk},format=raw,if=none,id=disk0", "-device", "virtio-blk-pci,drive=disk0"]
        cls.source = cls.lab.a.vm(extra=cls.lab.a.disk, **IDLE)
        cls.waiting = cls.lab.b.vm(incoming=True, extra=cls.lab.b.disk, **IDLE)
        with open(cls.source.ram, "r+b") as ram:  # so that a copy takes as long as a test needs
            ram.seek(8 << 20)
            ram.write(os.urandom(32 << 20))

    def slow(self, port, *options):
        return ["migrate", "--bandwidth", "1M", *options, "guest", f"127.0.0.1:{port}"]

    def cancel(self, receiver):
        self.assertEqual(self.lab.a.godwit("cancel", "guest").returncode, 0)
        _, err = receiver.communicate(timeout=30)
        self.assertIn("this receiver ends", err)
        self.assertEqual(self.source.status(), "prelaunch")

    def test_a_stopped_receiver_that_waits(self):
        receiver, _ = self.lab.b.receive()
        receiver.send_signal(signal.SIGSTOP)
        try:
            asked = [self.lab.b.start(*words) for words in (("list",), ("status", "guest"), ("cancel", "guest"))]
            listed, status, cancel = ["".join(one.communicate(timeout=60)) for one in asked]
        finally:
            receiver.kill()
            receiver.communicate()
        self.assertIn("waiting or receiving, and stalled", listed)
        for text in (status, cancel):
            self.assertIn("waits for a guest or receives one", text)
            self.assertIn(f"process {receiver.pid}, does not answer", text)

    def test_a_waiting_receiver_is_seen_and_cancelled(self):
        receiver, port = self.lab.b.receive()
        address = f"127.0.0.1:{port}"
        self.assertEqual(self.lab.b.status()["state"], "waiting")
        self.assertEqual((self.lab.b.status()["address"], self.lab.b.status()["guest"]), (address, "guest"))
        self.assertIn(f"waits for guest 'guest' on {address}", self.lab.b.godwit("status", "guest").stdout)
        listed = json.loads(self.lab.b.godwit("list", "--json").stdout)
        self.assertIn(("guest", "waiting", address), [(one["name"], one["activity"], one.get("address")) for one in listed])
        self.assertIn(f"waiting on {address}", self.lab.b.godwit("list").stdout)
        done = self.lab.b.godwit("cancel", "guest")
        self.assertEqual((done.returncode, done.stdout), (0, "the receiver of 'guest' waits no more\n"))
        out, err = receiver.communicate(timeout=20)
        self.assertEqual(receiver.returncode, 3)
        self.assertIn("cancelled", json.loads(out)["error"])
        self.assertIn("cancelled", err)
        self.assertEqual(self.lab.b.godwit("cancel", "guest").returncode, 5)
        receiver = self.lab.b.start("receive", "--name", "guest", "--listen", "127.0.0.1:0")
        self.assertRegex(receiver.stdout.readline(), "the wait ends with its migration.*'godwit cancel guest'")
        receiver.terminate()
        receiver.wait(timeout=20)
        self.assertEqual(self.waiting.status(), "inmigrate")
        for force in ((), ("--force",)):
            done = self.lab.b.godwit("resume", *force, "guest")
            self.assertEqual((done.returncode, "waits for a guest and has none" in done.stderr), (1, True), done.stderr)

    def test_a_receiver_ends_while_a_stranger_holds_it_up(self):
        hello = struct.pack("!IHHHHHH16s", 0x47574849, 3, 3, 1, 4, 0, 0, bytes(16))
        for data in (b"", hello):  # silence, and a source whose data channels do not come
            for end in ("^C", "cancel"):
                receiver, port = self.lab.b.receive()
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(data)
                    if data:
                        stranger.recv(64)
                    time.sleep(0.3)  # it is in the handshake now
                    if end == "^C":
                        receiver.send_signal(signal.SIGINT)
                    else:
                        self.assertEqual(self.lab.b.godwit("cancel", "guest").returncode, 0)
                    receiver.communicate(timeout=3.5)  # the handshake's own deadline is 5 s
                    self.assertEqual(receiver.returncode, 3)

    def test_a_second_detached_migration_leaves_the_log_of_the_first(self):
        receiver, port = self.lab.b.receive()
        self.assertEqual(self.lab.a.godwit(*self.slow(port, "-d")).returncode, 0)
        folder = self.lab.a.folder / "run" / "guest"
        vmlab.wait_for(lambda: "bulk" in (folder / "migrate.log").read_text(), 20, "a line in the log")
        before = (folder / "migrate.log").read_text()
        second = self.lab.a.godwit(*self.slow(port, "-d"))
        self.assertEqual(second.returncode, 5)
        self.assertIn("another godwit", second.stderr)
        self.assertTrue((folder / "migrate.log").read_text().startswith(before))
        self.assertEqual([log.name for log in folder.glob("migrate.log*")], ["migrate.log"])
        self.cancel(receiver)
        self.assertIn("cancelled", (folder / "migrate.log").read_text())

    def test_a_detached_migration_that_fails_says_why(self):
        done = self.lab.a.godwit("migrate", "-d", "--json", "guest", "127.0.0.1:1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing listens", json.loads(done.stdout)["error"])
        self.assertIn("nothing listens", done.stderr)

    def on_a_terminal(self, **environment):
        """The drawing of a slow migration on a terminal of 60 columns."""
        receiver, port = self.lab.b.receive()
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        env = {**self.lab.a.env, "TERM": "xterm", **environment}
        sender = subprocess.Popen([str(vmlab.GODWIT), *self.slow(port)], env=env, stdin=slave, stdout=slave, stderr=slave)
        self.lab.processes.append(sender)
        os.close(slave)
        text = b""
        while text.count(b"bulk") < (1 if environment.get("TERM") == "dumb" else 3):
            text += os.read(master, 4096)
        self.cancel(receiver)
        sender.wait(timeout=30)
        os.close(master)
        return text.decode()

    def test_the_progress_line_fits_the_terminal(self):
        text = self.on_a_terminal()
        drawn = [line for line in text.split("\r") if line.startswith("bulk")]
        self.assertTrue(drawn)
        self.assertLess(max(map(len, drawn)), 60, drawn)
        self.assertNotIn("\x1b", text)

    def test_a_dumb_terminal_gets_lines(self):
        text = self.on_a_terminal(TERM="dumb")
        self.assertNotIn("\x1b", text)
        self.assertNotIn("\r", text.replace("\r\n", ""))

    def test_status_explains_the_words_of_qemu(self):
        self.assertIn("prelaunch (the guest has not been started yet)", self.lab.a.godwit("status", "guest").stdout)
        self.assertIn("inmigrate (it waits for a guest)", self.lab.b.godwit("status", "guest").stdout)

    def test_a_comma_in_the_path_of_a_disk(self):
        done = self.lab.a.godwit("migrate", "--disk", "disk0=/images/a,b.img", "guest", "127.0.0.1:1")
        self.assertEqual(done.returncode, 5)
        self.assertIn("a comma ends the PATH", done.stderr)

    def test_a_vmm_that_listens_by_itself(self):
        self.lab.b.vm("own", extra=["-incoming", "tcp:127.0.0.1:0"], **IDLE)
        done = self.lab.b.godwit("receive", "--name", "own", "--listen", "127.0.0.1:0")
        self.assertEqual(done.returncode, 5)
        self.assertIn("-incoming tcp:127.0.0.1:0", done.stderr)
        self.assertIn("start it with '-incoming defer'", done.stderr)
        told = self.lab.b.vm("told", incoming=True, **IDLE)
        told.qmp("migrate-incoming", uri="tcp:127.0.0.1:0")
        done = self.lab.b.godwit("receive", "--name", "told", "--listen", "127.0.0.1:0")
        self.assertEqual(done.returncode, 5)
        self.assertIn("start it anew with '-incoming defer'", done.stderr)

    def test_an_image_behind_a_dangling_link(self):
        link = self.lab.folder / "link.img"
        link.symlink_to("/nowhere/disk.img")
        done = self.lab.b.godwit("run", "--name", "linked", "--", vmlab.QEMU, "-m", "64M", "-object",
                                 f"memory-backend-file,id=ram0,size=64M,mem-path={self.lab.folder}/ram,share=on", "-machine",
                                 "memory-backend=ram0", "-drive", f"file={link},format=raw", "-incoming", "defer")
        self.assertEqual(done.returncode, 2)
        self.assertIn("a symbolic link to /nowhere/disk.img, which does not exist", done.stderr)

    def test_a_hook_ignores_no_signals(self):
        with vmlab.Lab() as lab:
            lab.a.vm(**IDLE)
            lab.b.vm(incoming=True, **IDLE)
            said = lab.folder / "said"
            receiver, port = lab.b.receive("guest", "--hook", f"grep -E 'Sig(Ign|Blk)' /proc/self/status >{said}")
            self.assertEqual(lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}").returncode, 0)
            self.assertEqual(receiver.wait(timeout=30), 0)
            masks = [int(line.split()[1], 16) & ~(3 << 31) for line in said.read_text().splitlines()]  # 32 and 33 are the C library's
            self.assertEqual(masks, [0, 0])

    @unittest.skipIf(os.geteuid() != 0, "another user is needed")
    def test_a_vm_of_another_user(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            godwit = shutil.copy(vmlab.GODWIT, folder)
            (Path(folder) / "run" / "web").mkdir(parents=True)
            os.chmod(Path(folder) / "run" / "web", 0o700)
            for args in (["status", "web"], ["migrate", "web", "127.0.0.1:1"], ["migrate", "-d", "web", "127.0.0.1:1"],
                         ["cancel", "web"], ["resume", "web"], ["receive", "--name", "web", "--listen", "127.0.0.1:0"]):
                done = subprocess.run([godwit, *args], env=dict(os.environ, GODWIT_RUN_DIR=f"{folder}/run"), user="nobody",
                                      capture_output=True, text=True)
                self.assertEqual(done.returncode, 5, done.stderr)
                self.assertIn("another user's", done.stderr, args)
            done = subprocess.run([godwit, "list"], env=dict(os.environ, GODWIT_RUN_DIR=f"{folder}/run"), user="nobody",
                                  capture_output=True, text=True)
            self.assertRegex(done.stdout, "web +no access")


if __name__ == "__main__":
    runner.main()
