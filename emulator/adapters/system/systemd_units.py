"""Unit files of the host's systemd, written and enabled. If systemd does not run, they count from its next start."""

from __future__ import annotations

import contextlib
from pathlib import Path

from emulator.core.errors import HostNotFitError
from emulator.core.fs import remove_unfinished, replace_file, sync
from emulator.core.ports import ProcessRunner

UNITS = Path("/etc/systemd/system")
_RUNNING = Path("/run/systemd/system")
_TIMEOUT = 60.0


class SystemdUnits:
    """`Units` in `directory`. systemd is asked to reload if it runs, which the path `running` shows."""

    def __init__(self, runner: ProcessRunner, directory: Path = UNITS, running: Path = _RUNNING) -> None:
        self._runner, self._directory, self._running = runner, directory, running

    def read(self, name: str) -> str | None:
        """The unit's text, or None."""
        try:
            return (self._directory / name).read_text(errors="replace")
        except FileNotFoundError:
            return None

    def is_enabled(self, name: str) -> bool:
        """Whether the unit starts with the host."""
        return self._link(name).is_symlink()

    def write(self, name: str, text: str) -> None:
        """Write a unit that another one starts.

        Raises:
            HostNotFitError: this host has no systemd.
        """
        self._write(name, text)
        self._reload()

    def start(self, name: str) -> None:
        """Have the unit at work now, too, if systemd runs."""
        if self._running.is_dir():
            self._runner.run(["systemctl", "start", name], timeout=_TIMEOUT)

    def stop(self, name: str) -> None:
        """Have the unit at work no longer, if systemd runs."""
        if self._running.is_dir():
            self._runner.run(["systemctl", "stop", name], timeout=_TIMEOUT, check=False)

    def enable(self, name: str, text: str) -> None:
        """Write the unit and enable it from the host's next start on: a timer with the timers.

        Raises:
            HostNotFitError: this host has no systemd.
        """
        path = self._write(name, text)
        link = self._link(name)
        link.parent.mkdir(mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(path)
        self._reload()

    def _write(self, name: str, text: str) -> Path:
        if not self._directory.is_dir():
            raise HostNotFitError("this host has no systemd", where=str(self._directory), fix="start the lab by hand")
        path = self._directory / name
        replace_file(path, text.encode(), mode=0o644)
        return path

    def remove(self, name: str) -> None:
        """Remove the unit durably; nothing happens if it is absent. Processes that it started keep running."""
        self._link(name).unlink(missing_ok=True)
        (self._directory / name).unlink(missing_ok=True)
        remove_unfinished(self._directory / name)
        for directory in (self._link(name).parent, self._directory):
            with contextlib.suppress(FileNotFoundError):
                sync(directory)
        with contextlib.suppress(OSError):  # other units are enabled, too
            self._link(name).parent.rmdir()
        self._reload()

    def _link(self, name: str) -> Path:
        target = "timers.target" if name.endswith(".timer") else "multi-user.target"
        return self._directory / f"{target}.wants" / name

    def _reload(self) -> None:
        if self._running.is_dir():
            self._runner.run(["systemctl", "daemon-reload"], timeout=_TIMEOUT)
