#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Assumptions about QEMU, shown on the installed one."""

import array
import os
import re
import shutil
import socket
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402
import vmlab  # noqa: E402

IDLE = {"guest": False, "with_godwit": False, "ram_mib": 256}


def version():
    text = subprocess.run([vmlab.QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(n) for n in re.search(r"version (\d+)\.(\d+)", text).groups())


def capabilities(vm, *names):
    vm.qmp("migrate-set-capabilities", capabilities=[{"capability": n, "state": True} for n in names])


def completed(vm):
    return vmlab.wait_for(lambda: (i := vm.qmp("query-migrate")).get("status") in ("completed", "failed") and i, 30,
                          "migration")


class IgnoreShared(unittest.TestCase):
    def moved_bytes(self, lab, backend):
        """The part of 64 MiB of random RAM that QEMU's stream carries with x-ignore-shared."""
        ram = Path(f"/dev/shm/gw-{os.getpid()}-assume.ram")
        options = dict(IDLE, paused=True)
        if backend == "file":
            subprocess.run([vmlab.BUILD / "perf" / "ramfill", ram, "256", "64"], check=True)
            source = lab.a.vm(ram=ram, **options)
        else:
            source = lab.a.vm(extra=["-object", "memory-backend-memfd,id=m,size=256M,share=on", "-machine",
                                     "memory-backend=m"], **options)
        capabilities(source, "x-ignore-shared")
        source.qmp("migrate", uri=f"exec:cat >{lab.folder}/stream")
        self.assertEqual(completed(source)["status"], "completed")
        return (lab.folder / "stream").stat().st_size

    def test_file_ram_is_left_out_of_the_stream(self):
        with vmlab.Lab() as lab:
            self.assertLess(self.moved_bytes(lab, "file"), 8 << 20)

    def test_device_state_alone_loads_and_the_ram_is_what_we_put_there(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(append="GW_MIB=8", with_godwit=False)
            destination = lab.b.vm(append="GW_MIB=8", with_godwit=False, incoming=True)
            source.wait_count(3)
            for vm in (source, destination):
                capabilities(vm, "x-ignore-shared")
            uri = f"unix:{lab.folder}/state.sock"
            destination.qmp("stop")
            source.qmp("stop")
            destination.ram.write_bytes(source.ram.read_bytes())
            destination.qmp("migrate-incoming", uri=uri)
            source.qmp("migrate", uri=uri)
            self.assertEqual(completed(source)["status"], "completed")
            vmlab.wait_for(lambda: destination.status() != "inmigrate", 20, "load")
            # `stop` while it waited made it come up paused, although it was started without -S.
            self.assertEqual(destination.status(), "paused")
            self.assertEqual(destination.count(), 0)
            destination.qmp("cont")
            destination.wait_count(source.count() + 5)
            self.assertEqual(destination.wrong(), "")

    def test_source_goes_on_after_its_state_was_saved(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(append="GW_MIB=8", with_godwit=False)
            source.wait_count(3)
            capabilities(source, "x-ignore-shared")
            source.qmp("stop")
            source.qmp("migrate", uri=f"exec:cat >{lab.folder}/stream")
            completed(source)
            self.assertEqual(source.status(), "postmigrate")
            source.qmp("cont")
            source.counts_on()
            self.assertEqual(source.wrong(), "")

    def test_a_descriptor_passed_with_getfd_carries_the_state(self):
        with vmlab.Lab() as lab:
            source = lab.a.vm(paused=True, **IDLE)
            capabilities(source, "x-ignore-shared")
            ours, theirs = socket.socketpair()
            source.qmp.sock.sendmsg([b'{"execute":"getfd","arguments":{"fdname":"s"}}\n'],
                                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
            self.assertIn("return", source.qmp.file.readline())
            theirs.close()
            source.qmp("migrate", uri="fd:s")
            ours.settimeout(20)
            size = 0
            while data := ours.recv(1 << 20):
                size += len(data)
            ours.close()
            self.assertEqual(completed(source)["status"], "completed")
            self.assertTrue(10000 < size < 8 << 20, size)


class Calls(unittest.TestCase):
    # Calls of libc, libaio and liburing that write to a file, read from one into the caller's
    # memory, or give memory back.  posix_fallocate() changes no byte.  The kinds of read that know
    # the size of their buffer (__pread64_chk) are for the VMM's own.
    MATTER = set("""pwrite pwrite64 pwritev pwritev64 pwritev2 pwritev64v2 write writev fallocate fallocate64 ftruncate
                 ftruncate64 truncate truncate64 copy_file_range sendfile sendfile64 splice vmsplice aio_write aio_write64
                 aio_read aio_read64 lio_listio lio_listio64 read readv pread pread64 preadv preadv64 preadv2 preadv64v2
                 io_submit io_destroy io_uring_submit io_uring_submit_and_wait io_uring_submit_and_get_events
                 io_uring_submit_and_wait_timeout io_uring_enter io_uring_queue_exit ioctl munmap madvise""".split())

    def symbols(self, path, kind):
        lines = subprocess.run(["nm", "-D", kind, path], capture_output=True, text=True, check=True).stdout.splitlines()
        return {line.split()[-1].split("@")[0] for line in lines}

    def test_all_that_qemu_calls_is_hooked(self):
        called = self.symbols(shutil.which(vmlab.QEMU), "--undefined-only") & self.MATTER
        hooked = self.symbols(vmlab.BUILD / "lib" / "libgodwit-shim.so", "--defined-only")
        self.assertIn("pwritev64", called)
        self.assertEqual(called - hooked, set())


class Locks(unittest.TestCase):
    def locked(self, image):
        return subprocess.run(["qemu-io", "-c", "write 0 512", str(image)], capture_output=True).returncode != 0

    def test_destination_takes_its_image_only_when_it_runs(self):
        if subprocess.run(["which", "qemu-io"], capture_output=True).returncode:
            self.skipTest("qemu-utils is not installed")
        with vmlab.Lab() as lab:
            image = lab.folder / "disk.raw"
            image.write_bytes(bytes(1 << 20))
            disk = ["-drive", f"file={image},format=raw,if=virtio"]
            source = lab.a.vm(append="GW_MIB=8", with_godwit=False, extra=disk)
            source.wait_count(3)
            self.assertTrue(self.locked(image))
            destination = lab.b.vm(append="GW_MIB=8", with_godwit=False, incoming=True, extra=disk)
            for vm in (source, destination):
                capabilities(vm, "x-ignore-shared")
            capabilities(destination, "late-block-activate")
            destination.qmp("stop")
            source.qmp("stop")
            destination.ram.write_bytes(source.ram.read_bytes())
            uri = f"unix:{lab.folder}/state.sock"
            destination.qmp("migrate-incoming", uri=uri)
            source.qmp("migrate", uri=uri)
            self.assertEqual(completed(source)["status"], "completed")
            vmlab.wait_for(lambda: destination.status() != "inmigrate", 20, "load")
            self.assertFalse(self.locked(image), "locked although it does not run yet")
            destination.qmp("cont")
            self.assertTrue(self.locked(image))


if __name__ == "__main__":
    print(f"QEMU {'.'.join(map(str, version()))}", file=sys.stderr)
    runner.main()
