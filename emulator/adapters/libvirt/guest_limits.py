"""What one guest's QEMU may use of the host at most.

A guest that broke out of QEMU, or that found a way to make QEMU grow, is not to take the memory and the processors of
other labs. The limits are generous: an honest guest never meets them. Where the host has no means for one, there is
none; nothing fails for it.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.adapters.libvirt.errors import call, load_libvirt
from emulator.core.errors import HyperscalerError
from emulator.core.ports import DomainInfo, log
from emulator.core.trust.processes import PROC, process_ids

TASKS = 2048
"""Threads and processes. QEMU has a thread for each vCPU and up to 64 for each disk; its filter lets it start no
process."""

# MiB besides the guest's RAM: QEMU itself, buffers of disks and networks; emulated, up to 1 GiB of translated code as
# well (QEMU's accel/tcg/region.c); and one part in so many of the RAM for page tables and what VFIO keeps.
_OWN, _OWN_EMULATED, _TABLES = 1024, 2048, 16

# cpu.weight of the kernel's control groups: 100 is the usual one, 10000 the highest.
_WEIGHT, _MOST_WEIGHT = 100, 10_000
# Of a busy disk each guest has the same share; the number is one that versions 1 and 2 both take.
_IO_WEIGHT = 100


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """`cpu_weight` counts only against others while processors are short."""

    memory_mib: int
    tasks: int
    cpu_weight: int


def limits_of(info: DomainInfo) -> GuestLimits:
    """Those of a guest of this size."""
    own = _OWN if info.accelerated else _OWN_EMULATED
    return GuestLimits(
        memory_mib=info.memory_mib + info.memory_mib // _TABLES + own,
        tasks=TASKS,
        cpu_weight=min(_WEIGHT * max(info.vcpus, 1), _MOST_WEIGHT),
    )


def processes_of(uid: int, proc: Path = PROC) -> Iterator[int]:
    """The processes of a user: with a user for each guest, its QEMU."""
    for pid in process_ids(proc=proc):
        with contextlib.suppress(OSError):  # it ended
            if (proc / str(pid)).stat().st_uid == uid:
                yield pid


def limit_tasks(pids: Iterable[int], limits: GuestLimits) -> None:
    """Bound how many threads and processes the user of these processes can have: for processes that run already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            try:
                resource.prlimit(pid, resource.RLIMIT_NPROC, (limits.tasks, limits.tasks))
            except PermissionError:  # root without CAP_SYS_RESOURCE, in a container
                log.info("process %d: no limit for its tasks", pid)


def limit_by_libvirt(handle: Any, limits: GuestLimits, *, where: str) -> None:
    """Bound a running domain's memory and its shares of processors and disk by the group that libvirt made for it.

    Only as long as it runs: stored in the domain, the limit would keep it from starting on a host without such groups.
    A libvirt that has none, or whose settings forbid them, refuses, which is noted in the log.
    """
    live = load_libvirt().VIR_DOMAIN_AFFECT_LIVE
    for what, change in (
        ("memory", lambda: handle.setMemoryParameters({"hard_limit": limits.memory_mib * 1024}, live)),
        ("processors", lambda: handle.setSchedulerParametersFlags({"cpu_shares": limits.cpu_weight}, live)),
        ("disk", lambda: handle.setBlkioParameters({"weight": _IO_WEIGHT}, live)),
    ):
        try:
            call(change, where=where)
        except HyperscalerError as error:
            log.info("%s: no limit for its %s: %s", where, what, error.what)
