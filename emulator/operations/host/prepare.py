"""Make this machine ready to be a host of labs.

Each step is announced in a journal, with copies of the files that it touches on the disk, before it is taken. What was
cut off is taken again by the next `prepare`, or taken back by `restore`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from emulator.apply.host_preparation import Record, look_to_json
from emulator.core.errors import HyperscalerError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.host.prepare.modules import loads_module, tried_modules
from emulator.host.prepare.step import Step
from emulator.host.prepare.steps import PreparationPlan, installs_packages, plan_preparation
from emulator.operations.host.record import ENVIRONMENT, Outcome, PreparedHost, alone, go_on, journal_of, record_of


@dataclass(frozen=True, slots=True)
class Wish:
    """`user`: who is to use libvirt without being root; `gpus` None: if there are NVIDIA GPUs here."""

    user: str | None = None
    gpus: bool | None = None


def plan(host: PreparedHost, wish: Wish) -> PreparationPlan:
    """What `prepare` would do. Changes nothing."""
    return _plan(host, wish, record_of(host))


def prepare(host: PreparedHost, wish: Wish, reporter: Reporter, *, stop: StopFlag | None = None) -> Outcome:
    """Take every step that this host needs; one that fails leaves the others to go on.

    Raises:
        ConflictError: another command prepares or restores this host.
        InterruptedRunError: `stop` was set: the step under way has ended, and no other was begun.
        StateError: the journal cannot be written: nothing is done that is not announced there.
    """
    result = Outcome()
    with alone(host, "host prepare", result, reporter):
        tried: set[str] = set()
        # What packages bring (groups, units, programs) is seen only after they are there, and which modules this kernel
        # loads only after they were tried: plan again then.
        for _ in range(3):
            result.plan = _plan(host, wish, record_of(host), tried)
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
    """`tried`: ids of steps that this run has taken; another run tries again what failed."""
    readings = host.read()
    gpus = bool(readings.gpus) if wish.gpus is None else wish.gpus
    modules = tried_modules(
        # One that was cut off has loaded its module, or is planned again.
        [step.id for step in record.steps.values() if not step.failed],
        {step.id for step in record.steps.values() if step.failed and step.id in tried},
    )
    return plan_preparation(readings, user=wish.user, gpus=gpus, leftover=record.leftover, modules=modules)


def _take(host: PreparedHost, step: Step, result: Outcome, reporter: Reporter) -> None:
    journal = journal_of(host)
    touches = (step.path,) if step.path else (*step.touches, *step.traces)
    try:
        looks = {path: host.files.look(path) for path in touches}
        if step.path:
            _refuse_foreign(host, step, looks[step.path].digest)
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
    """How a step that failed has left the files that can be looked at."""
    looks = {}
    for path in touches:
        with suppress(HyperscalerError, OSError):
            looks[path] = look_to_json(host.files.look(path))
    return looks


def _refuse_foreign(host: PreparedHost, step: Step, digest: str | None) -> None:
    """A file of ours that is there and not as we left it belongs to the one who changed it."""
    known = record_of(host).touched.get(step.path)
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
        host.runner.run(words, timeout=step.timeout, check=False, env=ENVIRONMENT)
    host.runner.run(step.argv, timeout=step.timeout, env=ENVIRONMENT)
