#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Migration capabilities and parameters that others left on have no effect, and are there
afterwards."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import vmlab  # noqa: E402

SMALL = {"guest": False, "ram_mib": 64}  # running firmware is enough


def settings(vm):
    """The settings of a user.  Events do not count."""
    capabilities = {c["capability"] for c in vm.qmp("query-migrate-capabilities") if c["state"]} - {"events"}
    parameters = vm.qmp("query-migrate-parameters")
    return capabilities, parameters["max-bandwidth"], parameters["tls-creds"]


def switch_on(vm, *names):
    vm.qmp("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])


class Settings(unittest.TestCase):
    def pair(self, lab, source=(), destination=(), **parameters):
        """Two VMs with capabilities on, and parameters of the source.  Return: both, and the settings of both."""
        def tls(end):
            return ["-object", f"tls-creds-anon,id=tls0,endpoint={end}"]
        a = lab.a.vm(extra=tls("client"), **SMALL)
        b = lab.b.vm(incoming=True, extra=tls("server"), **SMALL)
        switch_on(a, *source)
        switch_on(b, *destination)
        if parameters:
            a.qmp("migrate-set-parameters", **parameters)
            b.qmp("migrate-set-parameters", **{"tls-creds": "tls0"})
        return a, b, settings(a), settings(b)

    def test_all_at_once_and_each_way_to_end(self):
        """A hook that fails, a godwit that is killed in the pause, and success: the source's
        settings are unchanged."""
        on = ("x-colo", "return-path", "pause-before-switchover", "multifd", "auto-converge", "validate-uuid", "dirty-bitmaps")
        with vmlab.Lab() as lab:
            a, b, at_a, at_b = self.pair(lab, on, ("multifd", "return-path", "x-colo", "dirty-bitmaps"),
                                         **{"tls-creds": "tls0", "max-bandwidth": 100000})
            undo = lab.a.folder / "run/guest/settings.undo"
            receiver, port = lab.b.receive("guest", "--hook", "false")
            self.assertEqual(lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}").returncode, 1)
            self.assertNotEqual(receiver.wait(timeout=30), 0)
            self.assertEqual((a.status(), settings(a)), ("running", at_a))

            begun = lab.folder / "begun"
            receiver, port = lab.b.receive("guest", "--hook", f"touch {begun}; sleep 60")
            sender = lab.a.start("migrate", "guest", f"127.0.0.1:{port}")
            vmlab.wait_for(begun.exists, 30, "the hook")
            self.assertEqual(settings(a), ({"x-ignore-shared"}, 1 << 40, ""))
            sender.kill()
            vmlab.wait_for(lambda: a.status() == "running", 20, "the guest running on")
            vmlab.wait_for(lambda: not undo.exists(), 20, "the settings being put back")
            self.assertEqual(settings(a), at_a)
            self.assertNotEqual(receiver.wait(timeout=60), 0)

            receiver, port = lab.b.receive("guest")
            done = lab.a.start("migrate", "--json", "guest", f"127.0.0.1:{port}")
            said, complaint = done.communicate(timeout=60)
            self.assertEqual((done.returncode, receiver.wait(timeout=30)), (0, 0), complaint)
            self.assertLess(vmlab.summary(said)["blackout"]["total_ns"], 1.5e9)  # 1.7 s at the bandwidth that was left
            self.assertEqual((a.status(), b.status()), ("postmigrate", "running"))
            self.assertEqual((settings(a), settings(b)), (at_a, at_b))
            b.qmp("quit")
            self.assertEqual(b.process.wait(timeout=20), 0)

    def test_others_that_do_not_go_together(self):
        for source, destination in ((("compress", "release-ram"), ("compress",)), (("background-snapshot",), ("postcopy-ram",)),
                                    (("postcopy-ram", "zero-blocks"), ("xbzrle", "late-block-activate"))):
            with self.subTest(source=source, destination=destination), vmlab.Lab() as lab:
                a, b, at_a, _ = self.pair(lab, source, destination)
                receiver, port = lab.b.receive("guest")
                done = lab.a.godwit("migrate", "guest", f"127.0.0.1:{port}")
                self.assertEqual((done.returncode, receiver.wait(timeout=30)), (0, 0), done.stderr)
                self.assertEqual((b.status(), settings(a)), ("running", at_a))

    def test_a_note_that_was_left_is_used_and_one_of_an_earlier_vmm_is_not(self):
        note = ('{"execute":"migrate-set-capabilities","arguments":{"capabilities":'
                '[{"capability":"multifd","state":true}]}}\n')
        with vmlab.Lab() as lab:
            undo = lab.a.folder / "run/guest/settings.undo"
            undo.parent.mkdir(parents=True, mode=0o700)
            undo.write_text(note)
            a = lab.a.vm(**SMALL)
            self.assertFalse(undo.exists())
            undo.write_text(note)
            a.qmp("stop")
            self.assertEqual(lab.a.godwit("resume", "guest").returncode, 0)
            self.assertEqual(settings(a)[0], {"multifd"})
            self.assertFalse(undo.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
