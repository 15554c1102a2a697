"""Carries out a plan: a bounded pool of threads over the dependency graph, every effect journalled.

A step starts when everything it waits for has ended and been recorded. After a failure or a stop request no
new step starts, those under way end, and what was done stays on record for the next run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from emulator.apply.handler import ApplyContext, Handler, StopFlag
from emulator.apply.state import StateStore
from emulator.errors import HyperscalerError, StateError
from emulator.plan.graph import dependents
from emulator.plan.model import Action, Change, Plan
from emulator.plan.resources import Resource
from emulator.progress import Event, Reporter, Status

HandlerTable = Mapping[str, Handler[Any]]


class InterruptedRunError(HyperscalerError):
    """A stop was asked for; the state is saved."""


@dataclass(frozen=True, slots=True)
class Step:
    """Half a replacement, or a whole other change."""

    key: str
    action: Action
    resource: Resource
    previous: Resource | None
    is_delete: bool
    reason: str


@dataclass(frozen=True, slots=True)
class StepFailure:
    resource: Resource
    error: HyperscalerError


def steps_of(plan: Plan) -> tuple[dict[str, Step], dict[str, set[str]]]:
    """The plan as steps by key and, for each, the keys it waits for."""
    steps: dict[str, Step] = {}
    for change in plan.changes:
        for step in _split(change):
            steps[step.key] = step
    waits: dict[str, set[str]] = {key: set() for key in steps}
    needs = {step.resource.id: step.resource.needs for step in steps.values()}
    ends: dict[str, str] = {}
    for key, step in steps.items():
        for need in _needs(step):
            if step.is_delete and f"delete {need}" in steps:
                waits[f"delete {need}"].add(key)  # dependents go first
            elif f"ensure {need}" in steps:
                waits[key].add(f"ensure {need}")  # a delete, too, needs a hypervisor that runs
        if not step.is_delete:
            group = step.resource.waits_for_group
            waits[key] |= {
                other for other, made in steps.items() if group and not made.is_delete and made.resource.group == group
            }
            if f"delete {step.resource.id}" in steps:
                waits[key].add(f"delete {step.resource.id}")
            if chain := step.resource.chain:
                waits[key] |= {ends[chain]} if chain in ends else set()
                ends[chain] = key
            shared = set(step.resource.exclusive)
            # What stands on this very resource (a slice on its MIG mode) can only go after it is as it should be.
            above = dependents(needs, [step.resource.id]) if shared else set()
            waits[key] |= {
                other
                for other, rival in steps.items()
                if rival.is_delete and shared & set(rival.resource.exclusive) and rival.resource.id not in above
            }
    return steps, waits


def _split(change: Change) -> tuple[Step, ...]:
    resource = change.resource
    ensure = Step(f"ensure {resource.id}", change.action, resource, change.previous, False, change.reason)
    if change.action is Action.DELETE:
        return (Step(f"delete {resource.id}", Action.DELETE, resource, None, True, change.reason),)
    if change.action is Action.REPLACE:
        old = change.previous or resource
        return (Step(f"delete {old.id}", Action.DELETE, old, None, True, change.reason), ensure)
    return (ensure,)


def _needs(step: Step) -> tuple[str, ...]:
    return step.resource.needs


class Executor:
    """Applies plans. `workers` bounds how many effects run at once."""

    def __init__(
        self,
        handlers: HandlerTable,
        store: StateStore,
        reporter: Reporter,
        *,
        stop: StopFlag | None = None,
        workers: int = 8,
    ) -> None:
        self._handlers = handlers
        self._store = store
        self._reporter = reporter
        self._stop = stop or StopFlag()
        self._workers = workers

    def apply(self, plan: Plan) -> None:
        """Carry out all changes.

        Raises:
            HyperscalerError: the first failure; its message tells how many others there were. Everything
                done until then is on record.
            InterruptedRunError: a stop was asked for.
        """
        steps, waits = steps_of(plan)
        failures: list[StepFailure] = []
        finished: list[Step] = []
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="apply") as pool:
            while waits or running:
                if not failures and not self._stop.is_set():
                    for key in [key for key, blocked in waits.items() if not blocked]:
                        del waits[key]
                        running[pool.submit(self._run, plan.lab, steps[key])] = key
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    key = running.pop(future)
                    error = future.exception()
                    if error is None:
                        finished.append(steps[key])
                        for blocked in waits.values():
                            blocked.discard(key)
                    elif isinstance(error, HyperscalerError):
                        failures.append(StepFailure(steps[key].resource, error))
                    else:
                        raise error
        self._roll_back(plan.lab, finished, {failure.resource.group for failure in failures} - {""})
        self._conclude(failures, unstarted=sorted(waits))

    def _roll_back(self, lab: str, finished: list[Step], groups: set[str]) -> None:
        """Undo, newest first, what this run made of the groups in which something failed.

        What cannot be undone either stays on record for the next run; its error is reported beside the first.
        """
        for step in reversed(finished):
            if step.resource.group in groups and step.action is Action.CREATE:
                undo = Step(f"delete {step.resource.id}", Action.DELETE, step.resource, None, True, "rolled back")
                try:
                    self._run(lab, undo)
                except HyperscalerError as error:
                    self._reporter.warn(f"{step.resource.id} could not be rolled back: {error.what}")

    def _conclude(self, failures: list[StepFailure], *, unstarted: list[str]) -> None:
        if failures:
            first = failures[0].error
            others = ", ".join(failure.resource.id for failure in failures[1:])
            if others:
                first.what += f" (also failed: {others})"
            if not first.where:
                first.where = failures[0].resource.id
            raise first
        if unstarted and not self._stop.is_set():
            raise StateError(
                "the plan cannot be carried out: its steps wait for each other", where=", ".join(unstarted[:8])
            )
        if unstarted:
            raise InterruptedRunError(
                f"stopped on request with {len(unstarted)} steps still to do; everything done so far is on record",
                fix="run the same command again to go on, or `hyperscaler destroy` to take everything away",
            )

    def _run(self, lab: str, step: Step) -> None:
        handler = self._handlers.get(step.resource.kind)
        if handler is None:
            raise StateError(f"this version has no handler for a {step.resource.kind}", where=step.resource.id)
        subject = step.resource.id
        started = time.monotonic()

        def report(line: str) -> None:
            self._reporter.event(Event("apply", subject, Status.RUNNING, line, time.monotonic() - started))

        context = ApplyContext(lab, self._store.handle, report)
        action = Action.DELETE.value if step.is_delete else step.action.value
        self._reporter.event(Event("apply", subject, Status.STARTED, f"{action}: {step.reason}"))
        self._store.begin(action, step.resource)
        try:
            if step.is_delete:
                handler.delete(step.resource, self._store.handle(subject), context)
                self._store.end(action, step.resource, {})
            else:
                handle = handler.ensure(step.resource, step.previous, context)
                self._store.end(action, step.resource, handle)
        except HyperscalerError as error:
            self._store.fail(action, step.resource, error.what)
            self._reporter.event(Event("apply", subject, Status.FAILED, error.what, time.monotonic() - started))
            raise
        self._reporter.event(Event("apply", subject, Status.DONE, action, time.monotonic() - started))
