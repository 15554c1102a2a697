"""Control groups (version 2) of a supervisor that has a unit of its own, and so a part of the tree to itself.

Without a unit nothing of the tree is ours, and limits are those of single processes (`spawn.py`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from emulator.core.ports.services import ServiceRequest
from emulator.core.units import MIB

_TREE = Path("/sys/fs/cgroup")
_OWN = "supervisor"
_CONTROLLERS = ("cpu", "memory", "pids")


class ControlGroups:
    """The groups of one supervisor's services, below the group of its unit."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def delegated(cls, tree: Path = _TREE, proc: Path = Path("/proc/self/cgroup")) -> ControlGroups | None:
        """That of this process, which was delegated to it; None on a host with version 1, or where it is not ours.

        This process moves to a group below: the kernel allows limits in groups without processes of their own only.
        """
        try:
            lines = proc.read_text().splitlines()
            path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
            root = tree / path.lstrip("/")
            there = (root / "cgroup.controllers").read_text().split()
            (root / _OWN).mkdir(exist_ok=True)
            (root / _OWN / "cgroup.procs").write_text(str(os.getpid()))
            (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in _CONTROLLERS if name in there))
        except (OSError, StopIteration):
            return None
        return cls(root)

    def make(self, request: ServiceRequest) -> Path | None:
        """Make the service's group with its limits; returns the file that takes its process, None where that fails."""
        group = self._root / request.name
        try:
            group.mkdir(exist_ok=True)
        except OSError:
            return None
        limits = {"pids.max": str(request.processes), "cpu.weight": str(max(1, min(request.cpu_weight, 10000)))}
        if request.memory_mib:
            limits["memory.max"] = str(request.memory_mib * MIB)
        for name, value in limits.items():
            with contextlib.suppress(OSError):  # the host's systemd does not delegate this controller
                (group / name).write_text(value)
        return group / "cgroup.procs"

    def kill(self, name: str) -> None:
        """End everything in the service's group."""
        with contextlib.suppress(OSError):  # kernels before 5.14 have no such file; there is nothing in it
            (self._root / name / "cgroup.kill").write_text("1")

    def remove(self, name: str) -> None:
        """Remove the service's group, once it is empty."""
        with contextlib.suppress(OSError):
            (self._root / name).rmdir()
