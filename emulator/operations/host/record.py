"""What preparing a host and restoring it share: the host, the record of what was done to it, who may write it."""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from emulator.apply.audit import AuditLog
from emulator.apply.host_preparation import Record, fold
from emulator.apply.journal import Journal
from emulator.apply.lock import exclusive_lock
from emulator.core.errors import ConflictError, HyperscalerError, InterruptedRunError, StateError
from emulator.core.file_ports import HostFileEditor
from emulator.core.paths import Home
from emulator.core.ports import ProcessRunner
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.host.prepare.steps import PreparationPlan
from emulator.host.readings import HostReadings
from emulator.lab.command_log import begin_entry, outcome

# Packages ask nothing, and a unit is enabled without the scripts that would rewrite /etc/rc*.d for System V init.
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "SYSTEMCTL_SKIP_SYSV": "1"}


@dataclass(frozen=True, slots=True)
class PreparedHost:
    """A host that can be changed: its files, its programs, and where the record of changes is kept."""

    home: Home
    read: Callable[[], HostReadings]
    files: HostFileEditor
    runner: ProcessRunner

    @property
    def journal(self) -> Journal:
        return Journal(self.home.preparation / "journal.jsonl")


@dataclass(slots=True)
class Outcome:
    """What came of it. `failed`: title of a step and why it could not be done; `skipped`: the same of what labs do
    without; `lasting`: what stays all the same."""

    done: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    plan: PreparationPlan = field(default_factory=lambda: PreparationPlan(()))


def standing(host: PreparedHost) -> tuple[str, ...]:
    """Titles of what an earlier `prepare` did to this host."""
    return tuple(step.title for step in record_of(host).steps.values())


def go_on(stop: StopFlag | None, following: str) -> None:
    if stop is not None and stop.is_set():
        raise InterruptedRunError(
            f"stopped on request, before: {following}",
            fix="run the same command again to go on",
        )


def journal_of(host: PreparedHost) -> Journal:
    host.home.preparation.mkdir(mode=0o700, parents=True, exist_ok=True)
    return host.journal


def record_of(host: PreparedHost) -> Record:
    """What stands. A torn last line was being written when the program was cut off: what it would have announced was
    not begun, and what it would have ended is not known to have ended.

    Raises:
        StateError: the journal is damaged in its middle: what it does not hold cannot be put back by guessing.
        ConflictError: others can write the journal: its commands would be run as root.
    """
    _require_ours(host)
    contents = host.journal.read()
    broken = [damage for damage in contents.damage if not damage.torn]
    if broken:
        raise StateError(
            f"line {broken[0].line} of the journal cannot be believed ({broken[0].why})",
            where=str(host.journal.path),
            fix=f"the copies of the files are in {host.home.preparation}/backups, under their SHA-256",
        )
    return fold(contents.entries)


def _require_ours(host: PreparedHost) -> None:
    for path in (host.home.preparation, host.journal.path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        except PermissionError:
            return  # root's: the reader says so
        if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ConflictError(
                "others than you can write the record of this host's preparation, so that it is not believed",
                where=str(path),
                fix=f"ls -ld {path}; HYPERSCALER_HOME must be in a directory of your own",
            )


def forget(host: PreparedHost) -> None:
    """Copies first: only the journal knows of them. What was kept for people stays."""
    directory = host.home.preparation
    if not directory.is_dir():
        return
    host.files.forget()
    for path in directory.iterdir():
        if not path.is_dir():
            path.unlink()  # the journal, and what was torn of it
    with suppress(OSError):  # not empty: there is something to keep
        directory.rmdir()


@contextmanager
def alone(host: PreparedHost, command: str, result: Outcome, reporter: Reporter) -> Iterator[None]:
    """One at a time, and on the host's record of who changed what."""
    log, identity = AuditLog(host.home.audit), uuid.uuid4().hex
    with exclusive_lock(host.home.host_locks / "preparation.lock", purpose=command):
        started = time.monotonic()
        _require_ours(host)
        contents = host.journal.read()
        if contents.damage and all(damage.torn for damage in contents.damage):
            host.journal.rewrite(contents.entries)
        _note(log, {"id": identity, **begin_entry("", command)}, reporter)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            changes = [{"action": command.split()[-1], "id": title} for title in result.done]
            seconds = round(time.monotonic() - started, 3)
            entry = {"id": identity, "event": "end", **outcome(error), "changes": changes, "seconds": seconds}
            _note(log, entry, reporter)


def _note(log: AuditLog, entry: dict[str, object], reporter: Reporter) -> None:
    try:
        log.append(entry)
    except HyperscalerError as error:
        reporter.warn(str(error))


def backups_of(home: Home) -> Path:
    return home.preparation / "backups"
