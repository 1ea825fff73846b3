#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machines of other kinds: memory of several backends, UEFI variables, a TPM, libvirt's seccomp
sandbox."""

import array
import os
import shutil
import socket
import struct
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

MIB = 1 << 20
COMPARE = vmlab.BUILD / "perf" / "ramcmp"
OVMF = Path("/usr/share/OVMF")
SANDBOX = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]  # libvirt's line


class Memory(unittest.TestCase):
    """Two NUMA nodes, a DIMM, an nvdimm and a virtio-mem device, each with a file of its own."""

    NODES = {"node0": 96, "node1": 96, "dimm": 128, "pmem": 32, "vmem": 256}
    # Half of virtio-mem is plugged in.  The kernel takes 100 MiB, so that the guest's work needs both pluggable devices.
    WORK = "GW_MIB=230 GW_RATE_MIB=16 GW_PLUGGED_MIB=330 memhp_default_state=online"

    def folders(self, lab, huge):
        """The folders of each backend's files on each host: huge pages on one host are small pages
        on the other."""
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
        """Moves every byte of each backend while its guest counts on."""
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


class Uefi(unittest.TestCase):
    def test_variables_that_firmware_writes_meanwhile(self):
        """The variable store is a flash chip: an image that -b moves, and that the VMM writes again
        when the guest starts there."""
        code, template = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"
        if not code.exists() or not template.exists():
            self.skipTest("the package ovmf is not installed")
        with vmlab.Lab() as lab:
            stores = {side: lab.folder / f"{side}.fd" for side in "ab"}
            shutil.copy(template, stores["a"])
            with open(stores["b"], "wb") as file:
                file.truncate(template.stat().st_size)
            source, destination = (
                host.vm(guest=False, ram_mib=128, incoming=host is lab.b, extra=[
                    "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
                    "-drive", f"if=pflash,format=raw,file={stores[host.name]},id=vars"]) for host in (lab.a, lab.b))
            vmlab.wait_for(lambda: stores["a"].read_bytes() != template.read_bytes(), 120, "the first variable")
            receiver, port = lab.b.receive("guest", "--quiet", "--hook", f"cmp {stores['a']} {stores['b']}")
            sender = lab.a.godwit("migrate", "-b", "--quiet", "--bandwidth", "40M", "guest", f"127.0.0.1:{port}")
            _, err = receiver.communicate(timeout=60)
            self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr + err)
            self.assertNotIn("Shell>", source.serial.read_text(errors="replace"), "it was to go on over there")
            vmlab.wait_for(lambda: "Shell>" in destination.serial.read_text(errors="replace"), 120, "the firmware's shell")
            destination.qmp("quit")
            destination.process.wait(30)
            # The firmware needs the head of the volume and its own variables to start again.
            store = stores["b"].read_bytes()
            self.assertEqual((store[40:44], len(store)), (b"_FVH", template.stat().st_size))
            self.assertIn("BootOrder".encode("utf-16-le"), store)


class Tpm(unittest.TestCase):
    """QEMU fetches an emulator's state and sends it with its devices' state.  Godwit must not
    interfere."""

    def start(self, lab, side):
        folder = lab.folder / f"tpm-{side}"
        folder.mkdir()
        lab.processes.append(subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--ctrl",
                                               f"type=unixio,path={folder}/control"], stderr=subprocess.DEVNULL))
        vmlab.wait_for((folder / "control").exists, 20, "swtpm")
        return folder

    def registers(self, folder):
        """The SHA-256 platform registers 0 to 7 of an emulator whose VMM is gone."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(20)
            control.connect(str(folder / "control"))
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.settimeout(20)
                control.sendmsg([struct.pack(">I", 0x10)],  # CMD_SET_DATAFD
                                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
                self.assertEqual(control.recv(4), bytes(4))
                values = []
                for number in range(8):
                    body = struct.pack(">IHBBBB", 1, 0x000B, 3, 1 << number, 0, 0)
                    ours.sendall(struct.pack(">HII", 0x8001, 10 + len(body), 0x17E) + body)  # TPM2_PCR_Read
                    answer = ours.recv(4096)
                    self.assertEqual(answer[6:10], bytes(4), "the TPM refuses to tell its registers")
                    values.append(answer[-32:])
                return values

    def test_an_emulated_tpm_keeps_its_state(self):
        if not shutil.which("swtpm"):
            self.skipTest("the package swtpm is not installed")
        for device in ("tpm-crb", "tpm-tis"):
            with self.subTest(device=device), vmlab.Lab() as lab:
                folders = [self.start(lab, side) for side in "ab"]
                source, destination = (
                    host.vm(guest=False, ram_mib=64, incoming=host is lab.b, extra=[
                        "-chardev", f"socket,id=tpm,path={folder}/control", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
                        "-device", f"{device},tpmdev=tpm0", "-chardev", f"file,id=log,path={folder}/log",
                        "-device", "isa-debugcon,iobase=0x402,chardev=log"]) for host, folder in zip((lab.a, lab.b), folders))
                vmlab.wait_for(lambda: "No bootable device" in (folders[0] / "log").read_text(errors="replace"), 120,
                               "the firmware's measurements")
                states = [folder / "tpm2-00.permall" for folder in folders]  # seeds and keys, each different
                self.assertFalse(states[1].exists())
                receiver, port = lab.b.receive("guest", "--quiet")
                sender = lab.a.godwit("migrate", "--quiet", "guest", f"127.0.0.1:{port}")
                _, err = receiver.communicate(timeout=60)
                self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr + err)
                self.assertEqual(destination.status(), "running")
                self.assertTrue(states[0].read_bytes() == states[1].read_bytes())
                source.kill()
                destination.kill()
                here, there = (self.registers(folder) for folder in folders)
                self.assertEqual(here, there)
                self.assertNotIn(bytes(32), here, "the firmware measured nothing")


class Sandbox(unittest.TestCase):
    def test_a_vmm_in_libvirts_sandbox(self):
        """The sandbox kills the VMM at a forbidden call.  In it the shim tracks, slows, is left
        alone, and hands over."""
        with vmlab.Lab() as lab:
            for side in "ab":
                with open(lab.folder / f"{side}.img", "wb") as file:
                    file.truncate(8 * MIB)
            source, destination = (
                host.vm(ram_mib=96, append="GW_MIB=16 GW_RATE_MIB=100 GW_DISK_MIB=1 GW_DISK_RATE=100", incoming=host is lab.b,
                        extra=[*SANDBOX, "-drive", f"file={lab.folder / host.name}.img,format=raw,if=virtio,id=disk0"])
                for host in (lab.a, lab.b))
            for vm in (source, destination):
                self.assertIn("Seccomp:\t2", Path(f"/proc/{vm.process.pid}/status").read_text(), "no sandbox")
            source.wait_count(5)
            receiver, port = lab.b.receive()
            sender = lab.a.start("migrate", "-b", "--quiet", "--bandwidth", "20M", "--downtime", "30", "--rounds", "1000",
                                 "guest", f"127.0.0.1:{port}")
            vmlab.wait_for(lambda: lab.a.status().get("throttle_percent", 0) > 0 or sender.poll() is not None, 60, "the throttle")
            self.assertIsNone(sender.poll(), "it ended")
            sender.kill()
            sender.communicate()
            receiver.communicate(timeout=60)
            source.counts_on()
            receiver, port = lab.b.receive("guest", "--quiet", "--overwrite", "--hook",
                                           f"{COMPARE} {source.ram} {destination.ram} && cmp {lab.folder}/a.img {lab.folder}/b.img")
            sender = lab.a.godwit("migrate", "-b", "--quiet", "guest", f"127.0.0.1:{port}")
            _, err = receiver.communicate(timeout=60)
            self.assertEqual((sender.returncode, receiver.returncode), (0, 0), sender.stderr + err)
            destination.counts_on()
            destination.wait_verified()
            self.assertEqual(destination.wrong(), "")


if __name__ == "__main__":
    runner.main()
