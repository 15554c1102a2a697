"""Control groups of the services of a supervisor that has a unit of its own, and so a part of the tree to itself.

Without a unit nothing of the tree is ours, and limits are those of single processes (`spawn.py`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from emulator.adapters.control_groups.tree import ROOT, make_group, pass_on, path_of
from emulator.core.ports.services import ServiceRequest

_OWN = "supervisor"


class ServiceGroups:
    """The groups of one supervisor's services, below the group of its unit."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def delegated(cls, tree: Path = ROOT, proc: Path = Path("/proc/self/cgroup")) -> ServiceGroups | None:
        """That of this process, which was delegated to it; None on a host with version 1, or where it is not ours.

        This process moves to a group below: the kernel allows limits in groups without processes of their own only.
        """
        try:
            path = path_of(proc.read_text())
            if path is None:
                return None
            root = tree / path.lstrip("/")
            (root / _OWN).mkdir(exist_ok=True)
            (root / _OWN / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            return None
        pass_on(root)
        return cls(root)

    def make(self, request: ServiceRequest) -> Path | None:
        """Make the service's group with its limits; returns the file that takes its process, None where that fails."""
        group = self._root / request.name
        limits = {"memory_mib": request.memory_mib, "tasks": request.processes, "cpu_weight": request.cpu_weight}
        return group / "cgroup.procs" if make_group(group, **limits) else None

    def kill(self, name: str) -> None:
        """End everything in the service's group."""
        with contextlib.suppress(OSError):  # kernels before 5.14 have no such file; there is nothing in it
            (self._root / name / "cgroup.kill").write_text("1")

    def remove(self, name: str) -> None:
        """Remove the service's group, once it is empty."""
        with contextlib.suppress(OSError):
            (self._root / name).rmdir()
