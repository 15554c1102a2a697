"""Control groups (version 2) of the lab's own libvirtd and of its guests.

libvirtd sees no control groups in its namespaces, and makes none. So it is started in a group of the lab's, and each
guest's QEMU is moved from there into a group of its own:

    hyperscaler-NAMESPACE[.scope]/daemon         libvirtd, dnsmasq, a guest that starts
    hyperscaler-NAMESPACE[.scope]/guest-NAME     with limits

Under systemd the lab's group is a scope that systemd delegates to us: nothing else may be made below its own groups.
Version 1 has no delegation that is safe; there, and where groups cannot be made, guests have no limits.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.adapters.control_groups.tree import ROOT, make_group, pass_on, path_of, write
from emulator.adapters.libvirt.guest_limits import GuestLimits
from emulator.core.errors import CommandError
from emulator.core.ports import ProcessRunner, log

_PREFIX = "hyperscaler-"
DAEMON = "daemon"
"""`entry.py` has the same word."""
_GUEST = "guest-"


@dataclass(frozen=True, slots=True)
class Launch:
    """How libvirtd gets into the lab's group: `prefix` of its command, and a `word` for `entry.py`."""

    prefix: tuple[str, ...] = ()
    word: tuple[str, ...] = ()

    def run(self, runner: ProcessRunner, entry: Sequence[str | Path], rest: Sequence[str], *, timeout: float) -> None:
        """Run `entry.py` with the words that follow its first ones; without a group if systemd makes no scope.

        Raises:
            CommandError: it fails in any case.
        """
        try:
            runner.run([*self.prefix, *entry, *self.word, *rest], timeout=timeout)
        except CommandError as error:
            if not self.prefix:
                raise
            log.info("once more without a control group: %s", error.what)
            runner.run([*entry, *rest], timeout=timeout)


class GuestGroups:
    """The groups of labs' libvirtds and guests.

    Args:
        root, proc: where the tree and `/proc` are.
        systemd: there is such a directory where systemd runs.
    """

    def __init__(
        self,
        root: Path = ROOT,
        proc: Path = Path("/proc"),
        systemd: Path = Path("/run/systemd/system"),
    ) -> None:
        self._root = root
        self._proc = proc
        self._systemd = systemd

    def launch(self, namespace: str, running: int | None) -> Launch:
        """Make the group of a lab's libvirtd ready.

        Args:
            namespace: of the lab, which names the group.
            running: a process of the lab that runs already, whose group is taken then.
        """
        if not (self._root / "cgroup.controllers").is_file():
            return Launch()
        if running is not None and (base := self._base_of(running)) is not None:
            return Launch(word=(f"#{base}",))
        name = f"{_PREFIX}{namespace}"
        if self._systemd.is_dir():
            if running is not None or shutil.which("systemd-run") is None:
                return Launch()  # a lab that an earlier version started has no scope, and gets none while it runs
            scope = ("systemd-run", "--quiet", "--scope", "--collect", f"--unit={name}", "--property=Delegate=yes")
            return Launch((*scope, "--"), ("#",))
        base = self._root / name
        pass_on(self._root)
        try:
            base.mkdir(exist_ok=True)
        except OSError as error:
            log.info("%s: no control group: %s", base, error.strerror)
            return Launch()
        return Launch(word=(f"#{base}",))

    def limit(self, pid: int, name: str, limits: GuestLimits) -> bool:
        """Move a guest's QEMU into a group with its limits; False if it was not started in a lab's group."""
        base = self._base_of(pid)
        if base is None or "/" in name:
            return False
        self._clear(base)
        pass_on(base)
        guest = base / f"{_GUEST}{name}"
        if make_group(guest, memory_mib=limits.memory_mib, tasks=limits.tasks, cpu_weight=limits.cpu_weight):
            write(guest / "cgroup.procs", str(pid))
        return True

    def remove(self, namespace: str) -> None:
        """Remove the group of a lab whose processes have ended; systemd removes its scopes itself."""
        base = self._root / f"{_PREFIX}{namespace}"
        if (self._root / "cgroup.controllers").is_file() and base.is_dir():
            self._clear(base)
            for directory in (base / DAEMON, base):
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def _base_of(self, pid: int) -> Path | None:
        """The lab's group, if the process is in the group of a lab's libvirtd or guest: see cgroups(7)."""
        try:
            path = path_of((self._proc / str(pid) / "cgroup").read_text(errors="replace"))
        except OSError:
            return None
        place = Path(path or "/")
        inside = place.name == DAEMON or place.name.startswith(_GUEST)
        return self._root / str(place.parent).lstrip("/") if inside and place.parent.name.startswith(_PREFIX) else None

    @staticmethod
    def _clear(base: Path) -> None:
        """Remove the groups of guests that have ended: the kernel refuses while a process is in one."""
        for guest in base.glob(f"{_GUEST}*"):
            with contextlib.suppress(OSError):
                guest.rmdir()
