#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machines of other kinds: memory of many backends, UEFI variables, a TPM, libvirt's seccomp sandbox."""

import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

MIB = 1 << 20
COMPARE = vmlab.BUILD / "perf" / "ramcmp"


class Memory(unittest.TestCase):
    """Two NUMA nodes, a DIMM, an nvdimm and a virtio-mem device, each with a file of its own."""

    NODES = {"node0": 96, "node1": 96, "dimm": 128, "pmem": 32, "vmem": 256}
    # Half of virtio-mem is plugged in.  The kernel takes 100 MiB, so that the guest's work needs both pluggable devices.
    WORK = "GW_MIB=230 GW_RATE_MIB=16 GW_PLUGGED_MIB=330 memhp_default_state=online"

    def folders(self, lab, huge):
        """Where each host has the files of each backend: what lies on huge pages here is on small ones there."""
        shm = Path("/dev/shm")
        places = {("a", "node0"): huge, ("b", "node1"): huge} if huge else {}
        paths = {(side, name): places.get((side, name), shm) / f"gw-{os.getpid()}-{side}-{name}.ram"
                 for side in "ab" for name in self.NODES}
        lab.files += paths.values()
        return paths

    def vm(self, host, paths, **options):
        memory = ["-machine", "q35,nvdimm=on", "-m", "192M,slots=4,maxmem=4G"]
        for name, mib in self.NODES.items():
            memory += ["-object", f"memory-backend-file,id={name},size={mib}M,share=on,mem-path={paths[host.name, name]}"]
        memory += ["-numa", "node,nodeid=0,memdev=node0", "-numa", "node,nodeid=1,memdev=node1",
                   "-device", "pc-dimm,id=dev-dimm,memdev=dimm,node=1", "-device", "nvdimm,id=dev-pmem,memdev=pmem,node=0",
                   "-device", "virtio-mem-pci,id=dev-vmem,memdev=vmem,node=0,requested-size=128M"]
        return host.vm(append=self.WORK, memory=memory, **options)

    def move(self, lab, here, there, source, destination, paths):
        """With every byte of each backend, while its guest counts on."""
        hook = " && ".join(f"{COMPARE} {paths[here.name, name]} {paths[there.name, name]}" for name in self.NODES)
        receiver, port = there.receive("guest", "--quiet", "--hook", hook)
        sender = here.godwit("migrate", "--quiet", "guest", f"127.0.0.1:{port}")
        _, err = receiver.communicate(timeout=60)
        self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr + err)
        destination.wait_count(source.count() + 5)
        self.assertEqual(destination.wrong(), "")

    def test_memory_of_many_backends_there_and_back(self):
        huge, reason = None, ""
        try:
            huge = vmlab.HugePages(self.NODES["node0"] + self.NODES["node1"])
            self.addCleanup(huge.close)
        except (OSError, vmlab.LabError) as why:
            reason = str(why)
        with vmlab.Lab() as lab:
            paths = self.folders(lab, huge and huge.folder)
            pmem = os.urandom(self.NODES["pmem"] * MIB)
            paths["a", "pmem"].write_bytes(pmem)
            source = self.vm(lab.a, paths)
            source.wait_count(3)
            for name in ("dimm", "vmem"):
                self.assertGreater(paths["a", name].stat().st_blocks * 512, 16 * MIB, f"the guest does not use {name}")
            destination = self.vm(lab.b, paths, incoming=True)
            self.move(lab, lab.a, lab.b, source, destination, paths)
            self.assertTrue(paths["b", "pmem"].read_bytes() == pmem)
            plugged = [host.qmp("query-memory-devices") for host in (source, destination)]
            self.assertEqual(plugged[0], plugged[1])
            self.assertIn(128 * MIB, [device["data"].get("size") for device in plugged[1] if device["type"] == "virtio-mem"])
            source.kill()
            back = self.vm(lab.a, paths, incoming=True)
            self.move(lab, lab.b, lab.a, destination, back, paths)
        if reason:
            self.skipTest(f"all but huge pages passed: {reason}")


if __name__ == "__main__":
    runner.main()
