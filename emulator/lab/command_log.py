"""The host's record of who changed what: one entry when a command begins to change a lab, one when it ends."""

from __future__ import annotations

import os
import pwd
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from emulator.apply.audit import AuditLog
from emulator.apply.lock import exclusive_lock
from emulator.apply.state import StateStore
from emulator.core.errors import HyperscalerError, InterruptedRunError
from emulator.core.paths import Home
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.core.trust.caller import claimed_user, login_uid
from emulator.core.trust.identity import ProcessIdentity

DONE, FAILED, INTERRUPTED, ABORTED = "done", "failed", "interrupted", "aborted"


class CommandLog:
    """The entries of one command. Nothing is written until `begin`."""

    def __init__(self, log: AuditLog, lab: str, command: str, reporter: Reporter) -> None:
        self._log, self._lab, self._command, self._reporter = log, lab, command, reporter
        self._store: StateStore | None = None
        self._started = time.monotonic()
        self._details: dict[str, Any] = {}

    def begin(self, store: StateStore, **facts: str) -> None:
        """Open a run in the lab's journal and in the host's audit log."""
        store.start_run(self._command, **facts)
        self._store = store
        self._append(begin_entry(self._lab, self._command))

    def add(self, **details: str) -> None:
        """Add details to the entry of the end, such as who was given access."""
        self._details |= details

    def end(self, error: BaseException | None) -> None:
        """Close what `begin` opened; does nothing without it."""
        if self._store is None:
            return
        changes = [{"action": action, "id": resource} for action, resource in self._store.done]
        entry: dict[str, Any] = {"event": "end", **outcome(error), "changes": changes, **self._details}
        self._append({**entry, "seconds": round(time.monotonic() - self._started, 3)})

    def _append(self, entry: Mapping[str, Any]) -> None:
        assert self._store is not None  # noqa: S101  set by begin
        try:
            self._log.append({"id": self._store.run_id, **entry})
        except HyperscalerError as error:  # a log that cannot be written must not keep a lab from being removed
            self._reporter.warn(str(error))


@contextmanager
def logged_lock(
    home: Home, lab: str, command: str, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> Iterator[CommandLog]:
    """Hold the lab's lock while the block runs, and log how the block ends. `stop` ends the wait for the lock.

    The lock's file goes with the lab: a mistyped name leaves nothing behind.

    Raises:
        ConflictError: another command works on the lab.
    """
    lock, directory = home.locks / f"{lab}.lock", home.lab(lab).root
    with exclusive_lock(
        lock,
        purpose=f"{command} {lab}",
        wait_seconds=wait_seconds,
        stop=stop,
        goes=lambda: not os.path.lexists(directory),
    ):
        log = CommandLog(AuditLog(home.audit), lab, command, reporter)
        try:
            yield log
        except BaseException as error:
            log.end(error)
            raise
        log.end(None)


def begin_entry(lab: str, command: str) -> dict[str, Any]:
    """The entry of the beginning: who does what. `user` is who logged in where the kernel knows that (`login`), else
    the account of this process; `sudo_user` is what the environment claims."""
    login = login_uid()
    who = {"user": user_name(os.getuid() if login is None else login), "login": login is not None, "as": user_name()}
    process = ProcessIdentity.of(os.getpid()).to_json()
    entry = {"event": "begin", "lab": lab, "command": command, **who, **process, "host": socket.gethostname()}
    if claimed_user():
        entry["sudo_user"] = claimed_user()
    return entry


def outcome(error: BaseException | None) -> dict[str, Any]:
    """How a command ended, for the entry of its end."""
    match error:
        case None:
            return {"result": DONE, "exit_code": 0}
        case InterruptedRunError():
            return {"result": INTERRUPTED, "exit_code": int(error.exit_code), "error": error.what[:500]}
        case HyperscalerError():
            where = f"{error.where}: " if error.where else ""
            return {"result": FAILED, "exit_code": int(error.exit_code), "error": f"{where}{error.what}"[:500]}
        case KeyboardInterrupt():
            return {"result": ABORTED, "exit_code": 130}
        case _:
            return {"result": FAILED, "exit_code": 1, "error": f"{type(error).__name__}: {error}"[:500]}


def user_name(uid: int | None = None) -> str:
    """Name of a user, by default of the one that this process runs as; the number if there is no name."""
    uid = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
