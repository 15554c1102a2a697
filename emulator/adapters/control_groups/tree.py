"""Groups with limits in the kernel's tree of control groups, version 2: see cgroups(7) and the kernel's cgroup-v2.rst.

A host may lack a controller or keep it to itself. Then there is no limit, which is noted in the log, and nothing fails.
"""

from __future__ import annotations

from pathlib import Path

from emulator.core.ports import log
from emulator.core.units import MIB

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "pids", "cpu", "io")
_IO_WEIGHTS = {"io.weight": "default 100", "io.bfq.weight": "default 100"}
"""Each group has the same share of a disk that is busy. The kernel has one file or the other, by how it schedules;
where the disk has neither `bfq` nor io.cost, there are no shares."""
_LEAST_WEIGHT, _MOST_WEIGHT = 1, 10_000


def path_of(text: str) -> str | None:
    """The group's path from the text of `/proc/PID/cgroup`; None where the tree is of version 1 alone."""
    lines = (line.partition("::") for line in text.splitlines())
    return next((path for number, colons, path in lines if number == "0" and colons), None)


def pass_on(group: Path) -> None:
    """Let groups below have limits, as far as this one may: controllers that it has not are left out."""
    for controller in _CONTROLLERS:
        write(group / "cgroup.subtree_control", f"+{controller}")


def make_group(group: Path, *, memory_mib: int, tasks: int, cpu_weight: int) -> bool:
    """Make a group, or take the one that is there, and set its limits; False if it cannot be made.

    Args:
        group: its directory.
        memory_mib: of all its processes together, in MiB, and once more of the host's swap, which the kernel would
            give them without end; 0 for no limit.
        tasks: processes and threads.
        cpu_weight: share of the processors against others, 100 for an ordinary one.
    """
    try:
        group.mkdir(exist_ok=True)
    except OSError as error:
        log.info("%s: no control group: %s", group, error.strerror)
        return False
    limits = {"pids.max": str(tasks), "cpu.weight": str(max(_LEAST_WEIGHT, min(cpu_weight, _MOST_WEIGHT)))}
    limits |= _IO_WEIGHTS
    if memory_mib:
        limits |= dict.fromkeys(("memory.max", "memory.swap.max"), str(memory_mib * MIB))
    for name, value in limits.items():
        if (group / name).exists():
            write(group / name, value)
    return True


def write(path: Path, text: str) -> None:
    """Set what the kernel allows."""
    try:
        path.write_text(text)
    except OSError as error:
        log.info("%s: %s is refused: %s", path, text, error.strerror)
