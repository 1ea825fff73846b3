# SPDX-License-Identifier: Apache-2.0
"""The compared movers: each moves a paused guest once and returns its figures.  Also turns, for
comparisons without a migration."""

import contextlib
import resource
import statistics
import tempfile
import time
from pathlib import Path

import vmlab

tempfile.tempdir = "/dev/shm"  # the run folder is in memory, as /run is


@contextlib.contextmanager
def godwit_of(build):
    """In this context godwit is the one of the build folder @build; None: the usual one."""
    usual = vmlab.GODWIT
    if build:
        vmlab.GODWIT = Path(build).resolve() / "bin" / "godwit"
    try:
        yield
    finally:
        vmlab.GODWIT = usual


def run_godwit(lab, source, destination, scheme, options):
    """godwit moves the guest.  Return: its figures; the time is that of the whole command."""
    receiver, port = lab.b.receive("guest")
    qemu_before = [vmlab.cpu_seconds(vm.process.pid) for vm in (source, destination)]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    sender = lab.a.start("migrate", "--json", *options, "guest", f"{scheme}{vmlab.ADDRESS}:{port}")
    out, err = sender.communicate(timeout=300)
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if sender.returncode:
        raise vmlab.LabError(f"godwit failed: {err}")
    cpu_a = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    receiver.communicate(timeout=60)
    last = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_b = last.ru_utime + last.ru_stime - after.ru_utime - after.ru_stime
    if receiver.returncode:
        raise vmlab.LabError(f"godwit failed at the destination: {receiver.returncode}")
    qemu = [vmlab.cpu_seconds(vm.process.pid) - was for vm, was in zip((source, destination), qemu_before)]
    end = vmlab.summary(out)
    return {"total_s": wall, "session_s": end["elapsed_ns"] / 1e9, "bulk_s": end["bulk_ns"] / 1e9,
            "cpu_source_s": cpu_a + qemu[0], "cpu_destination_s": cpu_b + qemu[1],
            "blackout_ms": end["blackout"]["total_ns"] / 1e6, "wire_bytes": end["wire_bytes"],
            "moved_bytes": end["put_bytes"], "disk_bytes": end.get("disk_put_bytes", 0), "link": end.get("link", ""), "blackout_parts": end["blackout"]}


def run_qemu(source, destination, uri, channels=1, capabilities=()):
    """QEMU's own migration moves the guest.  Return: its figures; the time is QEMU's own."""
    multifd = channels > 1
    for vm in (source, destination):
        vm.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 300},
               **({"multifd-channels": channels} if multifd else {}))
        if multifd:
            vm.qmp("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
        for name in capabilities:
            vm.qmp("migrate-set-capabilities", capabilities=[{"capability": name, "state": True}])
    destination.qmp("migrate-incoming", uri=uri)
    before = [vmlab.cpu_seconds(vm.process.pid) for vm in (source, destination)]
    source.qmp("migrate", uri=uri)

    def ended():
        info = source.qmp("query-migrate")
        if info["status"] == "failed":
            raise vmlab.LabError(f"QEMU's migration failed: {info}")
        # QEMU reports "completed" a moment before it has set the total time.
        return info if info["status"] == "completed" and info.get("total-time") else None

    info = vmlab.wait_for(ended, 300, "QEMU's migration", 0.02)
    vmlab.wait_for(lambda: destination.status() != "inmigrate", 60, "QEMU's destination")
    cpu = [vmlab.cpu_seconds(vm.process.pid) - was for vm, was in zip((source, destination), before)]
    return {"total_s": info["total-time"] / 1e3, "cpu_source_s": cpu[0], "cpu_destination_s": cpu[1],
            "blackout_ms": info["downtime"], "wire_bytes": info["ram"]["transferred"],
            "moved_bytes": info["ram"]["normal-bytes"]}


def take_turns(kinds, turn, count, warm_up=2):
    """Each kind takes @count turns.  Another kind is first each time, so that disturbances of the
    machine hit all alike.  turn(kind) returns a tuple of figures.  Return: the figures of each kind, by turn."""
    figures = {kind: [] for kind in kinds}
    for n in range(count + warm_up):
        first = n % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            got = turn(kind)
            if n >= warm_up:
                figures[kind].append(got)
    return figures


def ratio(figures, kind, base, which):
    """Return: the median, over the turns, of the ratio of one figure of @kind to that of @base."""
    return statistics.median(a[which] / b[which] for a, b in zip(figures[kind], figures[base]))
