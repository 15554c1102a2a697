"""A tree of control groups, version 2, in a directory, with the rules that the kernel enforces (cgroups(7)):

a new group has the files of the controllers that its parent passes on; a group passes on only what it has; a group with
processes in it passes nothing on; a process is in one group; a group with processes or groups in it is not removed.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

_FILES = {
    "memory": ("memory.max", "memory.swap.max"),
    "pids": ("pids.max",),
    "cpu": ("cpu.weight",),
    "io": ("io.bfq.weight",),
}
_CORE = ("cgroup.controllers", "cgroup.subtree_control", "cgroup.procs")


class FakeCgroups:
    """`root` is the mount; `me` is who writes "0" to be moved. `real`: the host's root, which may have processes."""

    def __init__(
        self,
        root: Path,
        patch: pytest.MonkeyPatch,
        *,
        controllers: str = "cpu memory pids",
        me: int = 1,
        real: bool = True,
    ) -> None:
        self.root, self.me, self.real = root, me, real
        self._mkdir, self._rmdir, self._write = Path.mkdir, Path.rmdir, Path.write_text
        root.mkdir(parents=True)
        self._fill(root, "cpu io memory pids")
        kernel = self

        def mkdir(path: Path, *args: Any, **options: Any) -> None:
            known = path.exists()
            kernel._mkdir(path, *args, **options)
            if kernel._mine(path) and not known:
                kernel._fill(path, (path.parent / "cgroup.subtree_control").read_text())

        def rmdir(path: Path) -> None:
            if kernel._mine(path):
                if (path / "cgroup.procs").read_text() or any(each.is_dir() for each in path.iterdir()):
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
                for file in path.iterdir():
                    file.unlink()
            kernel._rmdir(path)

        def write_text(path: Path, text: str, *args: Any, **options: Any) -> int:
            if kernel._mine(path):
                kernel._set(path, text)
                return len(text)
            return kernel._write(path, text, *args, **options)

        patch.setattr(Path, "mkdir", mkdir)
        patch.setattr(Path, "rmdir", rmdir)
        patch.setattr(Path, "write_text", write_text)

    def _mine(self, path: Path) -> bool:
        return self.root in path.parents

    def _fill(self, group: Path, controllers: str) -> None:
        self._write(group / "cgroup.controllers", controllers)
        for file in (*_CORE[1:], *(name for each in controllers.split() for name in _FILES[each])):
            self._write(group / file, "")

    def _set(self, path: Path, text: str) -> None:
        group = path.parent
        if not path.is_file():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        if path.name == "cgroup.procs":
            self.enter(int(text) or self.me, group)
        elif path.name == "cgroup.subtree_control":
            name = text.removeprefix("+")
            if name not in (group / "cgroup.controllers").read_text().split():
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if (group / "cgroup.procs").read_text() and not (group == self.root and self.real):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
            self._write(path, " ".join(sorted({*path.read_text().split(), name})))
        else:
            self._write(path, text)

    def enter(self, pid: int, group: Path) -> None:
        """Move a process, or start it there."""
        for file in self.root.rglob("cgroup.procs"):
            self._write(file, "".join(f"{each}\n" for each in file.read_text().split() if each != str(pid)))
        self._write(group / "cgroup.procs", (group / "cgroup.procs").read_text() + f"{pid}\n")

    def end(self, pid: int) -> None:
        """The process is gone."""
        self.enter(pid, self.root)
        self._write(self.root / "cgroup.procs", "")

    def of(self, pid: int) -> str:
        """The group of a process, as `/proc/PID/cgroup` has it."""
        (file,) = [file for file in self.root.rglob("cgroup.procs") if str(pid) in file.read_text().split()]
        return "/" + str(file.parent.relative_to(self.root)).removeprefix(".")

    def tree(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_dir())
