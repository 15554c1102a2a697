"""Undo what `host prepare` did to this host."""

from __future__ import annotations

from emulator.apply.host_preparation import DoneStep, Record
from emulator.core.errors import ConflictError, HyperscalerError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.host.prepare.steps import FINISH_PACKAGES, installs_packages
from emulator.host.prepare.undo import is_undoing, why_not_undone
from emulator.operations.host.record import (
    ENVIRONMENT,
    Outcome,
    PreparedHost,
    alone,
    forget,
    go_on,
    journal_of,
    record_of,
)


def restore(host: PreparedHost, reporter: Reporter, *, force: bool = False, stop: StopFlag | None = None) -> Outcome:
    """Put everything back as it was before the first `prepare`, except files that others have changed since.

    With `force` a file that `prepare` wrote itself is put back even then, and the changed content is kept aside. Files
    that a command changed (groups, GRUB's) belong to others, too: commands undo what was added there.

    Raises:
        ConflictError: another command prepares or restores this host.
        InterruptedRunError: `stop` was set: the step under way was finished, and the record still has all steps.
    """
    result = Outcome()
    with alone(host, "host restore", result, reporter):
        record = record_of(host)
        paths, left = _files_back(host, record, result, reporter, force=force)
        steps = _undo(host, record, left, result, reporter, stop)
        settled = {path for step in steps for path in record.steps[step].paths} | set(paths)
        for directory in reversed(record.made):
            host.files.remove_directory(directory)
        everything = not (record.steps.keys() - steps or record.touched.keys() - settled)
        if not record.is_empty:
            entry = {"type": "restored", "paths": sorted(settled), "steps": sorted(steps), "all": everything}
            journal_of(host).append(entry)
        if everything:
            forget(host)
        return result


def _files_back(
    host: PreparedHost, record: Record, result: Outcome, reporter: Reporter, *, force: bool
) -> tuple[list[str], dict[str, str]]:
    """Paths that are as they were, and paths that are not, each with the reason."""
    settled: list[str] = []
    left: dict[str, str] = {}
    for path, touched in reversed(record.touched.items()):
        try:
            now = host.files.look(path)
            host.files.tidy(path)
            if now != touched.before:
                ours = touched.exact and touched.left_by_us(now)
                if not ours and not (force and touched.written):
                    left[path] = "it has been changed since"
                    continue
                if not ours and now.digest is not None:
                    kept = host.files.keep(path, now)
                    result.lasting.append(f"what was in {path} is kept: {kept}")
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
    """Undo steps and return their ids. Commands run unless all files that a step touched are back as they were."""
    settled: set[str] = set()
    for step in reversed(record.steps.values()):
        open_paths = [path for path in step.paths if path in left]
        if step.paths and not open_paths:
            settled.add(step.id)
            continue
        if not step.undo and open_paths:
            result.failed.extend((path, left[path]) for path in open_paths)
            continue
        go_on(stop, f"take back: {step.title}")
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
            settled.add(step.id)  # it had no effect, so there is nothing to undo
        if step.lasting and step.ended:
            result.lasting.append(step.lasting)
    return settled


def _run_back(host: PreparedHost, step: DoneStep, result: Outcome, reporter: Reporter) -> None:
    # Packages stay, but none half installed.
    finish = (FINISH_PACKAGES,) if installs_packages(step.id) and not step.ended else ()
    for words in step.undo or finish:
        if words == FINISH_PACKAGES and " ".join(words) in result.done:
            continue
        if not is_undoing(words):
            raise ConflictError(
                f"the record holds a command that undoes no step: {' '.join(words)}",
                where=str(host.journal.path),
                fix="find out who has changed the record; the copies of the files are below backups in its directory",
            )
        stays = why_not_undone(words, step.sets, host.read())
        if stays is not None:
            if stays and step.ended:
                result.lasting.append(stays)
            continue
        reporter.note(" ".join(words))
        host.runner.run(words, timeout=1800.0, env=ENVIRONMENT)
        result.done.append(" ".join(words))


def _traces_back(host: PreparedHost, record: Record, step: DoneStep, open_paths: list[str]) -> None:
    """Restore traces (times, old copies, locks) if commands have restored the content of all files that they belong to.
    Otherwise others have changed these files, and their traces are no longer ours."""
    informative = [path for path in step.paths if path not in step.traces]
    if all(host.files.look(path) == record.touched[path].before for path in informative):
        for path in open_paths:
            host.files.put_back(path, record.touched[path].before)
