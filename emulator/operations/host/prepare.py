"""Make this machine ready to be a host of labs.

Before a step is taken, it is announced in a journal, and copies of the files that it touches are on the disk. An
interrupted step is taken again by the next `prepare`, or undone by `restore`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from emulator.apply.host_preparation import Record, look_to_json
from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.host.prepare.modules import loads_module, tried_modules
from emulator.host.prepare.step import Step
from emulator.host.prepare.steps import PreparationPlan, installs_packages, plan_preparation
from emulator.operations.host.record import ENVIRONMENT, Outcome, PreparedHost, alone, go_on, journal_of, record_of


@dataclass(frozen=True, slots=True)
class Wish:
    """`user` is to use libvirt without being root; `gpus` None prepares for GPUs if there are NVIDIA GPUs here."""

    user: str | None = None
    gpus: bool | None = None


def plan(host: PreparedHost, wish: Wish) -> PreparationPlan:
    """The plan of `prepare`. Changes nothing."""
    return _plan(host, wish, record_of(host))


def prepare(host: PreparedHost, wish: Wish, reporter: Reporter, *, stop: StopFlag | None = None) -> Outcome:
    """Take every step that this host needs; if one fails, the others are taken nevertheless.

    Raises:
        ConflictError: another command prepares or restores this host.
        HostNotFitError: hosts of this kind are not prepared.
        InterruptedRunError: `stop` was set: the step under way was finished, and no other was begun.
        StateError: the journal cannot be written, and no step is taken that is not announced there.
    """
    result = Outcome()
    with alone(host, "host prepare", result, reporter):
        tried: set[str] = set()
        # Packages bring groups, units and programs, and only trying shows which modules this kernel loads: plan again
        # after each of these.
        for _ in range(3):
            result.plan = _plan(host, wish, record_of(host), tried)
            require_preparable(result.plan)
            todo = [step for step in result.plan.steps if step.id not in tried]
            if not todo:
                break
            journal_of(host).append({"type": "plan", "steps": [step.id for step in todo]})
            packages = [step for step in todo if installs_packages(step.id)]
            modules = [step for step in todo if loads_module(step.id)]
            for step in packages or modules or todo:
                go_on(stop, step.title)
                tried.add(step.id)
                _take(host, step, result, reporter)
        result.plan = _plan(host, wish, record_of(host), tried)
        return result


# ---------------------------------------------------------------- doing
def _plan(host: PreparedHost, wish: Wish, record: Record, tried: Collection[str] = ()) -> PreparationPlan:
    """`tried` are ids of steps that this run has taken; the next run tries failed steps again."""
    readings = host.read()
    gpus = bool(readings.gpus) if wish.gpus is None else wish.gpus
    modules = tried_modules(
        # An interrupted step has loaded its module, or is planned again.
        [step.id for step in record.steps.values() if not step.failed],
        {step.id for step in record.steps.values() if step.failed and step.id in tried},
    )
    return plan_preparation(readings, user=wish.user, gpus=gpus, leftover=record.leftover, modules=modules)


def require_preparable(plan: PreparationPlan) -> None:
    """Raise for a host of a kind that is not prepared.

    Raises:
        HostNotFitError: it names the kind and what to do instead.
    """
    if plan.refusal is not None:
        what, fix = plan.refusal
        raise HostNotFitError(what, fix=fix)


def _take(host: PreparedHost, step: Step, result: Outcome, reporter: Reporter) -> None:
    journal = journal_of(host)
    touches = (step.path,) if step.path else (*step.touches, *step.traces)
    try:
        looks = {path: host.files.look(path) for path in touches}
        if step.path:
            _refuse_foreign_file(host, step, looks[step.path].digest)
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
            "sets": step.sets,
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
    """The state in which a failed step has left the files, as far as they can be read."""
    looks = {}
    for path in touches:
        with suppress(HyperscalerError, OSError):
            looks[path] = look_to_json(host.files.look(path))
    return looks


def _refuse_foreign_file(host: PreparedHost, step: Step, digest: str | None) -> None:
    """A file under one of our names that is not as we left it belongs to the person who changed it."""
    known = record_of(host).touched.get(step.path)
    ours: set[str | None] = {None}
    if known is not None:
        ours |= {known.before.digest, *(known.possible if known.after is None else (known.after.digest,))}
    if digest not in ours:
        raise HyperscalerError(
            "the file exists, and is not as this program left it",
            where=step.path,
            fix=f"look at it, then move it away: mv {step.path} /root/",
        )


def _run(host: PreparedHost, step: Step) -> None:
    for words in step.first:
        host.runner.run(words, timeout=step.timeout, check=False, env=ENVIRONMENT)
    host.runner.run(step.argv, timeout=step.timeout, env=ENVIRONMENT)
