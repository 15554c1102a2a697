"""Shared by `host prepare` and `host restore`: the host, the record of what was done to it, and who may write that."""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from emulator.apply.audit import AuditLog
from emulator.apply.host_preparation import Record, fold
from emulator.apply.journal import Journal
from emulator.apply.lock import exclusive_lock
from emulator.core.errors import ConflictError, HyperscalerError, InterruptedRunError, StateError
from emulator.core.paths import Home
from emulator.core.ports import ProcessRunner
from emulator.core.ports.files import HostFileEditor
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.host.prepare.steps import PreparationPlan
from emulator.host.readings import HostReadings
from emulator.lab.command_log import begin_entry, outcome

# Packages ask no questions, and no System V scripts rewrite /etc/rc*.d when a unit is enabled.
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
    """The result of a run: titles of steps that were `done`; titles and reasons of steps that `failed`, and of optional
    ones that were `skipped`; sentences about what remains (`lasting`)."""

    done: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    plan: PreparationPlan = field(default_factory=lambda: PreparationPlan(()))


def standing(host: PreparedHost) -> tuple[str, ...]:
    """Titles of the steps of earlier runs that are in effect on this host."""
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
    """The steps that are in effect.

    A torn last line was being written when the program was interrupted: a step that it would have announced was not
    begun, and a step that it would have ended is not known to have ended.

    Raises:
        StateError: the journal is damaged in its middle, and what is missing cannot be guessed.
        ConflictError: others can write the journal, whose commands would run as root.
    """
    _require_ours(host)
    contents = host.journal.read()
    broken = [damage for damage in contents.damage if not damage.torn]
    if broken:
        raise StateError(
            f"line {broken[0].line} of the journal is damaged ({broken[0].why})",
            where=str(host.journal.path),
            fix=f"the copies of the files are in {host.home.preparation}/backups, under their SHA-256",
        )
    return fold(contents.entries)


def _require_ours(host: PreparedHost) -> None:
    """Refuse a record that others can write, or whose directories others can exchange: its commands run as root."""
    _require_own_place(host.home.preparation.absolute())
    _require_own_place(host.home.preparation.resolve())
    for path in (host.home.preparation, host.journal.path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        except PermissionError:
            return  # it is root's, and reading it will say so
        if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ConflictError(
                "users other than you can write the record of this host's preparation, so it is not trusted",
                where=str(path),
                fix=f"ls -ld {path}; HYPERSCALER_HOME must be in a directory of your own",
            )


def _require_own_place(path: Path) -> None:
    """Every directory above `path` is root's or this user's, and others cannot rename what is in it."""
    for parent in path.parents:
        try:
            status = parent.lstat()
        except (FileNotFoundError, PermissionError):
            continue
        exchangeable = stat.S_ISDIR(status.st_mode) and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if exchangeable or status.st_uid not in (0, os.geteuid()):
            raise ConflictError(
                "users other than you can exchange the record of this host's preparation, so it is not trusted",
                where=str(parent),
                fix=f"ls -ld {parent}; HYPERSCALER_HOME must be in a directory of your own",
            )


def forget(host: PreparedHost) -> None:
    """Remove the copies, then the journal, which names them. Files that were kept for people stay."""
    directory = host.home.preparation
    if not directory.is_dir():
        return
    host.files.forget()
    for path in directory.iterdir():
        if not path.is_dir():
            path.unlink()  # the journal and its torn remains
    with suppress(OSError):  # not empty: kept files are in it
        directory.rmdir()


@contextmanager
def alone(host: PreparedHost, command: str, result: Outcome, reporter: Reporter) -> Iterator[None]:
    """Run one command at a time, and write it to the host's audit log."""
    with exclusive_lock(host.home.host_locks / "preparation.lock", purpose=command):
        _require_ours(host)
        contents = host.journal.read()
        if contents.damage and all(damage.torn for damage in contents.damage):
            host.journal.rewrite(contents.entries)
        with audited(host.home, command, result.done, reporter):
            yield


@contextmanager
def audited(home: Home, command: str, done: Sequence[str], reporter: Reporter) -> Iterator[None]:
    """Write a command that changes the host itself to its audit log, with its end; `done` is what it did by then."""
    log, identity, started = AuditLog(home.audit), uuid.uuid4().hex, time.monotonic()
    _note(log, {"id": identity, **begin_entry("", command)}, reporter)
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        changes = [{"action": command.split()[-1], "id": title} for title in done]
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
