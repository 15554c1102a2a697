"""Make this machine ready to be a host of labs, and put everything back as it was.

Each step is announced in a journal, with copies of the files that it touches on the disk, before it is taken. What was
cut off is taken again by the next `prepare`, or taken back by `restore`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from emulator.app.work import begin_entry, outcome
from emulator.apply.audit import AuditLog
from emulator.apply.executor import InterruptedRunError
from emulator.apply.handler import StopFlag
from emulator.apply.journal import Journal
from emulator.apply.lock import exclusive_lock
from emulator.apply.preparation import DoneStep, Record, fold, look_to_json
from emulator.errors import ConflictError, HyperscalerError, StateError
from emulator.file_ports import HostFileEditor
from emulator.host.preparation import FINISH_PACKAGES, PreparationPlan, Step, installs_packages, plan_preparation
from emulator.host.readings import HostReadings
from emulator.paths import Home
from emulator.ports import ProcessRunner
from emulator.progress import Reporter

# Packages ask nothing, and a unit is enabled without the scripts that would rewrite /etc/rc*.d for System V init.
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "SYSTEMCTL_SKIP_SYSV": "1"}


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


@dataclass(frozen=True, slots=True)
class Wish:
    """`user`: who is to use libvirt without being root; `gpus` None: if there are NVIDIA GPUs here."""

    user: str | None = None
    gpus: bool | None = None


@dataclass(slots=True)
class Outcome:
    """What came of it. `failed`: title of a step and why it could not be done; `skipped`: the same of what labs do
    without; `lasting`: what stays all the same."""

    done: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    plan: PreparationPlan = field(default_factory=lambda: PreparationPlan(()))


def plan(host: PreparedHost, wish: Wish) -> PreparationPlan:
    """What `prepare` would do. Changes nothing."""
    return _plan(host, wish, _record(host))


def prepare(host: PreparedHost, wish: Wish, reporter: Reporter, *, stop: StopFlag | None = None) -> Outcome:
    """Take every step that this host needs; one that fails leaves the others to go on.

    Raises:
        ConflictError: another command prepares or restores this host.
        InterruptedRunError: `stop` was set: the step under way has ended, and no other was begun.
        StateError: the journal cannot be written: nothing is done that is not announced there.
    """
    result = Outcome()
    with _alone(host, "host prepare", result, reporter):
        tried: set[str] = set()
        # What packages bring (groups, units, programs) is seen only after they are there: plan again then.
        for _ in range(2):
            result.plan = _plan(host, wish, _record(host))
            todo = [step for step in result.plan.steps if step.id not in tried]
            if not todo:
                break
            _journal(host).append({"type": "plan", "steps": [step.id for step in todo]})
            packages = [step for step in todo if installs_packages(step.id)]
            for step in packages or todo:
                _go_on(stop, step.title)
                tried.add(step.id)
                _take(host, step, result, reporter)
        result.plan = _plan(host, wish, _record(host))
        return result


def restore(host: PreparedHost, reporter: Reporter, *, force: bool = False, stop: StopFlag | None = None) -> Outcome:
    """Put everything back as it was before the first `prepare`; a file that others have changed since is left, unless
    `force` is given.

    Raises:
        ConflictError: another command prepares or restores this host.
        InterruptedRunError: `stop` was set: what was under way has ended, and the record tells of all of it still.
    """
    result = Outcome()
    with _alone(host, "host restore", result, reporter):
        record = _record(host)
        paths, left = _files_back(host, record, result, reporter, force=force)
        steps = _undo(host, record, left, result, reporter, stop)
        settled = {path for step in steps for path in record.steps[step].paths} | set(paths)
        for directory in reversed(record.made):
            host.files.remove_directory(directory)
        everything = not (record.steps.keys() - steps or record.touched.keys() - settled)
        if not record.is_empty:
            entry = {"type": "restored", "paths": sorted(settled), "steps": sorted(steps), "all": everything}
            _journal(host).append(entry)
        if everything:
            _forget(host)
        return result


def standing(host: PreparedHost) -> tuple[str, ...]:
    """Titles of what an earlier `prepare` did to this host."""
    return tuple(step.title for step in _record(host).steps.values())


# ---------------------------------------------------------------- doing
def _plan(host: PreparedHost, wish: Wish, record: Record) -> PreparationPlan:
    readings = host.read()
    gpus = bool(readings.boards) if wish.gpus is None else wish.gpus
    return plan_preparation(readings, user=wish.user, gpus=gpus, leftover=record.leftover)


def _go_on(stop: StopFlag | None, following: str) -> None:
    if stop is not None and stop.is_set():
        raise InterruptedRunError(
            f"stopped on request, before: {following}",
            fix="run the same command again to go on",
        )


def _take(host: PreparedHost, step: Step, result: Outcome, reporter: Reporter) -> None:
    journal = _journal(host)
    touches = (step.path,) if step.path else (*step.touches, *step.traces)
    try:
        looks = {path: host.files.look(path) for path in touches}
        if step.path:
            _refuse_stranger(host, step, looks[step.path].digest)
        for path, look in looks.items():
            host.files.back_up(path, look)
        made = host.files.missing_parents(step.path) if step.path else ()
    except (HyperscalerError, OSError) as error:
        result.failed.append((step.title, str(error)))
        return
    journal.append(
        {
            "type": "begin",
            "step": step.id,
            "title": step.title,
            "touches": {path: look_to_json(look) for path, look in looks.items()},
            "traces": list(step.traces),
            "writes": hashlib.sha256(step.content.encode()).hexdigest() if step.path else None,
            "made": list(made),
            "undo": [list(words) for words in step.undo],
            "lasting": step.lasting,
        }
    )
    reporter.note(step.title)
    try:
        if step.path:
            host.files.write(step.path, step.content)
        else:
            _run(host, step)
        after = {path: look_to_json(host.files.look(path)) for path in touches}
    except (HyperscalerError, OSError) as error:
        why = error.what if isinstance(error, HyperscalerError) else str(error)
        journal.append({"type": "failed", "step": step.id, "why": why[:500], "after": _left_by(host, touches)})
        (result.skipped if step.optional else result.failed).append((step.title, why))
        return
    journal.append({"type": "end", "step": step.id, "after": after})
    result.done.append(step.title)


def _left_by(host: PreparedHost, touches: tuple[str, ...]) -> dict[str, list[object]]:
    """How a step that failed has left the files that can be looked at."""
    looks = {}
    for path in touches:
        with suppress(HyperscalerError, OSError):
            looks[path] = look_to_json(host.files.look(path))
    return looks


def _refuse_stranger(host: PreparedHost, step: Step, digest: str | None) -> None:
    """A file of ours that is there and not as we left it belongs to whoever changed it."""
    known = _record(host).touched.get(step.path)
    ours: set[str | None] = {None}
    if known is not None:
        ours |= {known.before.digest, *(known.possible if known.after is None else (known.after.digest,))}
    if digest not in ours:
        raise HyperscalerError(
            "it is there, and not as this program left it",
            where=step.path,
            fix=f"look at it, then move it away: mv {step.path} /root/",
        )


def _run(host: PreparedHost, step: Step) -> None:
    for words in step.first:
        host.runner.run(words, timeout=step.timeout, check=False, env=_ENVIRONMENT)
    host.runner.run(step.argv, timeout=step.timeout, env=_ENVIRONMENT)


# ---------------------------------------------------------------- undoing
def _files_back(
    host: PreparedHost, record: Record, result: Outcome, reporter: Reporter, *, force: bool
) -> tuple[list[str], dict[str, str]]:
    """Paths that are as they were, and those that are not, each with the reason."""
    settled: list[str] = []
    left: dict[str, str] = {}
    for path, touched in reversed(record.touched.items()):
        try:
            now = host.files.look(path)
            host.files.tidy(path)
            if now != touched.before:
                if not force and not (touched.exact and touched.left_by_us(now)):
                    left[path] = "somebody has changed it since"
                    continue
                reporter.note(f"put back {path}")
                host.files.put_back(path, touched.before)
                result.done.append(f"{path} is {'as it was' if touched.before.digest else 'gone, as it was'}")
            settled.append(path)
        except (HyperscalerError, OSError) as error:
            left[path] = error.what if isinstance(error, HyperscalerError) else str(error)
    return settled, left


def _undo(
    host: PreparedHost,
    record: Record,
    left: dict[str, str],
    result: Outcome,
    reporter: Reporter,
    stop: StopFlag | None,
) -> set[str]:
    """Steps that are taken back. Their commands run unless the files that they touched are all back as they were."""
    settled: set[str] = set()
    for step in reversed(record.steps.values()):
        open_paths = [path for path in step.paths if path in left]
        if step.paths and not open_paths:
            settled.add(step.id)
            continue
        if not step.undo and open_paths:
            result.failed.extend((path, left[path]) for path in open_paths)
            continue
        _go_on(stop, f"take back: {step.title}")
        try:
            if not step.paths or not step.traces.issuperset(open_paths):
                _run_back(host, step, result, reporter)
            _traces_back(host, record, step, open_paths)
            settled.add(step.id)
        except (HyperscalerError, OSError) as error:
            if not step.failed:
                why = error.what if isinstance(error, HyperscalerError) else str(error)
                result.failed.append((f"take back: {step.title}", why))
                continue
            settled.add(step.id)  # it never came about, so that there is nothing to take back
        if step.lasting and step.ended:
            result.lasting.append(step.lasting)
    return settled


def _run_back(host: PreparedHost, step: DoneStep, result: Outcome, reporter: Reporter) -> None:
    # Packages stay, but not by halves.
    finish = (FINISH_PACKAGES,) if installs_packages(step.id) and not step.ended else ()
    for words in step.undo or finish:
        if _has_no_effect(host, words) or (words == FINISH_PACKAGES and " ".join(words) in result.done):
            continue
        reporter.note(" ".join(words))
        host.runner.run(words, timeout=1800.0, env=_ENVIRONMENT)
        result.done.append(" ".join(words))


def _has_no_effect(host: PreparedHost, words: tuple[str, ...]) -> bool:
    """gpasswd fails for who is not in the group: a step that was cut off may not have come so far."""
    match words:
        case ("gpasswd", "-d", user, group):
            return user not in host.read().groups.get(group, ())
    return False


def _traces_back(host: PreparedHost, record: Record, step: DoneStep, open_paths: list[str]) -> None:
    """Where commands have led the files back to what they were, nobody else has changed them: then times, and copies
    and locks beside them, come back, too. Else they are others' by now."""
    told = [path for path in step.paths if path not in step.traces]
    if all(host.files.look(path) == record.touched[path].before for path in told):
        for path in open_paths:
            host.files.put_back(path, record.touched[path].before)


# ---------------------------------------------------------------- record
def _journal(host: PreparedHost) -> Journal:
    host.home.preparation.mkdir(mode=0o700, parents=True, exist_ok=True)
    return host.journal


def _record(host: PreparedHost) -> Record:
    """What stands. A torn last line was being written when the program was cut off: what it would have announced was
    not begun, and what it would have ended is not known to have ended.

    Raises:
        StateError: the journal is damaged in its middle: what it does not tell cannot be put back by guessing.
        ConflictError: others can write the journal: what it tells would be run as root.
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


def _forget(host: PreparedHost) -> None:
    """Copies first: the journal is what tells of them."""
    directory = host.home.preparation
    if not directory.is_dir():
        return
    host.files.forget()
    for path in directory.iterdir():
        path.unlink()  # the journal, and what was torn of it
    directory.rmdir()


@contextmanager
def _alone(host: PreparedHost, command: str, result: Outcome, reporter: Reporter) -> Iterator[None]:
    """One at a time, and on the host's record of who changed what."""
    log, identity = AuditLog(host.home.audit), uuid.uuid4().hex
    with exclusive_lock(host.home.locks / "host.lock", purpose=command):
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
