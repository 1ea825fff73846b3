#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `godwit run` makes of a command line: the VMM itself, movable or with one warning that says why not."""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

QUIET = ["-accel", vmlab.ACCEL, "-nodefaults", "-display", "none", "-S"]


def ram(lab, word):
    """Arguments for 64 MiB of RAM in a shared file."""
    path = Path(f"/dev/shm/gw-{os.getpid()}-{word}.ram")
    lab.files.append(path)
    return ["-machine", "q35,memory-backend=ram0", "-m", "64M", "-object",
            f"memory-backend-file,id=ram0,size=64M,mem-path={path},share=on"]


def listed(host, name):
    return [vm for vm in json.loads(host.godwit("list", "--json").stdout) if vm["name"] == name]


class Daemon(unittest.TestCase):
    """-daemonize: the process that was started ends, and its grandchild is the VMM."""

    def start(self, lab, host, *more):
        pid = host.folder / "pid"
        done = host.godwit("run", "--name", "guest", "--", vmlab.QEMU, *QUIET, *ram(lab, host.name), "-daemonize",
                           "-pidfile", pid, *more)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return int(pid.read_text())

    def test_a_daemon_is_listed_and_moves(self):
        with vmlab.Lab() as lab:
            pids = []
            try:
                pids.append(self.start(lab, lab.a))
                pids.append(self.start(lab, lab.b, "-incoming", "defer"))
                self.assertEqual(listed(lab.a, "guest")[0]["state"], "prelaunch")
                self.assertIn("prelaunch", lab.a.godwit("status", "guest").stdout)
                receiver, port = lab.b.receive("guest")
                done = lab.a.godwit("migrate", "--quit", "guest", f"127.0.0.1:{port}")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(receiver.wait(60), 0)
                vmlab.wait_for(lambda: not listed(lab.a, "guest"), 60, "the daemon at the source has ended")
            finally:
                for pid in pids:
                    subprocess.run(["kill", "-9", str(pid)], capture_output=True, check=False)


if __name__ == "__main__":
    runner.main()
