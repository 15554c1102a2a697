"""Carries out a plan: a bounded pool of threads over the dependency graph, every effect journalled.

A step starts when all steps that it waits for have ended and are recorded. After a stop request no new step starts,
running steps finish, and everything done stays on record for the next run. The same happens after a failure, except
that a cluster that no failed step serves is completed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from emulator.apply.handler import ApplyContext, Handler
from emulator.apply.state import StateStore
from emulator.core.errors import HyperscalerError, InterruptedRunError, StateError
from emulator.core.pool import threads
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.plan.clusters import clusters_served
from emulator.plan.graph import dependents
from emulator.plan.model import Action, Change, Plan
from emulator.plan.resources import Resource

EVERY_CLUSTER = "*"
"""Clusters that fail with a step that serves no particular cluster."""

_HELD_PAUSE = 1.0
"""Seconds between two questions to the gate, when steps are kept back."""

HandlerTable = Mapping[str, Handler[Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """One half of a replacement, or a whole change of another kind."""

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


@dataclass(frozen=True, slots=True)
class Applied:
    """Result of a plan: `error` says why it was not completed, `doomed` holds the clusters that are incomplete."""

    error: HyperscalerError | None = None
    doomed: frozenset[str] = frozenset()

    def is_intact(self, cluster: str) -> bool:
        """Whether every step that this cluster (`hpc`, `cloud`) needs was carried out."""
        return not self.doomed & {cluster, EVERY_CLUSTER}


def steps_of(plan: Plan) -> tuple[dict[str, Step], dict[str, set[str]]]:
    """The plan as steps by key and, for each step, the keys that it waits for."""
    steps = {step.key: step for change in plan.changes for step in _split(change)}
    waits: dict[str, set[str]] = {key: set() for key in steps}
    _wait_for_needs(steps, waits)
    ends: dict[str, str] = {}
    for key, step in steps.items():
        if step.is_delete:
            continue
        waits[key] |= _group(steps, step.resource.waits_for_group) | _deletes_before(steps, step.resource)
        if chain := step.resource.chain:
            waits[key] |= {ends[chain]} if chain in ends else set()
            ends[chain] = key
    return steps, waits


def _wait_for_needs(steps: Mapping[str, Step], waits: Mapping[str, set[str]]) -> None:
    for key, step in steps.items():
        for need in step.resource.needs:
            made = steps.get(f"ensure {need}")
            if step.is_delete and f"delete {need}" in steps:
                waits[f"delete {need}"].add(key)  # dependents go first
            elif made and step.is_delete and made.resource.outlives_departing:
                waits[made.key].add(key)
            elif made:
                waits[key].add(made.key)  # a delete needs a running hypervisor as well


def _group(steps: Mapping[str, Step], group: str) -> set[str]:
    """Keys of the steps that make resources of the group."""
    return {key for key, step in steps.items() if group and not step.is_delete and step.resource.group == group}


def _deletes_before(steps: Mapping[str, Step], resource: Resource) -> set[str]:
    """Keys of the deletes that make way for the resource: its own, and those of its rivals for something exclusive."""
    own = {f"delete {resource.id}"} & steps.keys()
    shared = set(resource.exclusive)
    if not shared:
        return own
    # Dependents of this resource (a slice on its MIG mode) can only be removed once it is in its wanted state.
    above = dependents({step.resource.id: step.resource.needs for step in steps.values()}, [resource.id])
    return own | {
        key
        for key, rival in steps.items()
        if rival.is_delete and shared & set(rival.resource.exclusive) and rival.resource.id not in above
    }


def _split(change: Change) -> tuple[Step, ...]:
    resource = change.resource
    ensure = Step(f"ensure {resource.id}", change.action, resource, change.previous, False, change.reason)
    if change.action is Action.DELETE:
        return (Step(f"delete {resource.id}", Action.DELETE, resource, None, True, change.reason),)
    if change.action is Action.REPLACE:
        old = change.previous or resource
        return (Step(f"delete {old.id}", Action.DELETE, old, None, True, change.reason), ensure)
    return (ensure,)


@contextmanager
def os_errors_translated(subject: str) -> Iterator[None]:
    """A full disk or a missing permission, possible in any line of a handler, as a failure of that step alone."""
    try:
        yield
    except OSError as error:
        raise HyperscalerError(
            f"{subject} failed: {error.strerror or error}",
            where=str(error.filename or subject),
            fix="free space on that file system or fix its permissions, then run the command again",
        ) from error


class Gate(Protocol):
    """Keeps back steps that could begin, while others are under way."""

    def admits(self, resource: Resource) -> str:
        """Nothing when the resource's step may begin, which then is under way; else what it waits for."""
        ...

    def ended(self, resource: Resource) -> None:
        """A step that was admitted has ended, well or not."""
        ...


class OpenGate:
    """Keeps nothing back."""

    def admits(self, resource: Resource) -> str:
        del resource
        return ""

    def ended(self, resource: Resource) -> None:
        del resource


class Executor:
    """Applies plans. `workers` bounds how many effects run at once, `gate` those that make things."""

    def __init__(
        self,
        handlers: HandlerTable,
        store: StateStore,
        reporter: Reporter,
        *,
        stop: StopFlag | None = None,
        workers: int = 8,
        gate: Gate | None = None,
    ) -> None:
        self._handlers = handlers
        self._store = store
        self._reporter = reporter
        self._stop = stop or StopFlag()
        self._workers = workers
        self._gate = gate or OpenGate()

    def apply(self, plan: Plan) -> None:
        """Carry out all changes.

        Raises:
            HyperscalerError: the first failure; its message counts the others. Everything done until then is on record.
            InterruptedRunError: a stop was requested.
        """
        error = self.run(plan).error
        if error is not None:
            raise error

    def run(self, plan: Plan) -> Applied:
        """Carry out all changes that can be carried out. A cluster that no failed step serves is completed."""
        steps, waits = steps_of(plan)
        serves = clusters_served([step.resource for step in steps.values()])
        failures: list[StepFailure] = []
        finished: list[Step] = []
        doomed: frozenset[str] = frozenset()
        running: dict[Future[None], str] = {}
        noted: set[str] = set()
        with threads(self._workers, "apply") as pool:
            while waits or running:
                held = False
                for key in [key for key, blocked in waits.items() if not blocked]:
                    if len(running) == self._workers:
                        break  # a queued step would still start after a stop or a failure
                    may_go_on = EVERY_CLUSTER not in doomed and serves[steps[key].resource.id] - doomed
                    if not self._stop.is_set() and (not failures or may_go_on):
                        if self._is_held(steps[key], noted):
                            held = True
                            continue
                        del waits[key]
                        running[pool.submit(self._run, plan.lab, steps[key])] = key
                if not running and (not held or self._stop.wait(_HELD_PAUSE)):
                    break
                done, _ = wait(running, timeout=_HELD_PAUSE if held else None, return_when=FIRST_COMPLETED)
                for future in [each for each in running if each in done]:  # in the order in which they began
                    key = running.pop(future)
                    self._gate.ended(steps[key].resource)
                    error = future.exception()
                    if error is None:
                        finished.append(steps[key])
                        for blocked in waits.values():
                            blocked.discard(key)
                    elif isinstance(error, HyperscalerError):
                        failures.append(StepFailure(steps[key].resource, error))
                        doomed |= serves[steps[key].resource.id] or {EVERY_CLUSTER}
                    else:
                        raise error
        self._roll_back(plan.lab, finished, {failure.resource.group for failure in failures} - {""})
        left = frozenset().union(*(serves[steps[key].resource.id] for key in waits))
        return Applied(self._error(failures, unstarted=sorted(waits)), doomed | left)

    def _is_held(self, step: Step, noted: set[str]) -> bool:
        """Whether the gate keeps the step back, which is said once."""
        why = "" if step.is_delete else self._gate.admits(step.resource)
        if why and step.key not in noted:
            noted.add(step.key)
            self._reporter.event(Event("apply", step.resource.id, Status.STARTED, f"waits: {why}"))
        return bool(why)

    def _roll_back(self, lab: str, finished: list[Step], groups: set[str]) -> None:
        """Undo, newest first, the steps of this run in groups that contain a failure.

        A step that cannot be undone stays on record for the next run; its error is reported in addition to the first.
        """
        for step in reversed(finished):
            if step.resource.group in groups and step.action is Action.CREATE:
                undo = Step(f"delete {step.resource.id}", Action.DELETE, step.resource, None, True, "rolled back")
                try:
                    self._run(lab, undo)
                except HyperscalerError as error:
                    self._reporter.warn(f"{step.resource.id} could not be rolled back: {error.what}")

    def _error(self, failures: list[StepFailure], *, unstarted: list[str]) -> HyperscalerError | None:
        if failures:
            first = failures[0].error
            others = [failure.resource.id for failure in failures[1:]]
            if others:
                more = f" and {len(others) - 8} more" if len(others) > 8 else ""
                first.what += f" (also failed: {', '.join(others[:8])}{more})"
            if not first.where:
                first.where = failures[0].resource.id
            return first
        if unstarted and not self._stop.is_set():
            return StateError(
                "the plan cannot be carried out: its steps wait for each other", where=", ".join(unstarted[:8])
            )
        if unstarted:
            return InterruptedRunError(
                f"stopped on request with {len(unstarted)} steps still to do; everything done so far is on record",
                fix="run the same command again to go on, or `hyperscaler destroy` to take everything away",
            )
        return None

    def _run(self, lab: str, step: Step) -> None:
        handler = self._handlers.get(step.resource.kind)
        if handler is None:
            raise StateError(f"this version has no handler for a {step.resource.kind}", where=step.resource.id)
        subject = step.resource.id
        started = time.monotonic()

        def report(line: str) -> None:
            self._reporter.event(Event("apply", subject, Status.RUNNING, line, time.monotonic() - started))

        resumed = self._store.open_action(subject) == Action.DELETE.value
        context = ApplyContext(lab, self._store.handle, report, resumed)
        action = Action.DELETE.value if step.is_delete else step.action.value
        self._reporter.event(Event("apply", subject, Status.STARTED, f"{action}: {step.reason}"))
        self._store.begin(action, step.resource)
        try:
            with os_errors_translated(subject):
                if step.is_delete:
                    handler.delete(step.resource, self._store.handle(subject), context)
                    self._store.end(action, step.resource, {})
                else:
                    handle = handler.ensure(step.resource, step.previous, context)
                    self._store.end(action, step.resource, handle)
        except HyperscalerError as error:
            self._record_failure(action, step.resource, error)
            self._reporter.event(Event("apply", subject, Status.FAILED, error.what, time.monotonic() - started))
            raise
        self._reporter.event(Event("apply", subject, Status.DONE, action, time.monotonic() - started))

    def _record_failure(self, action: str, resource: Resource, failure: HyperscalerError) -> None:
        """Record the failure. If that fails as well, the step's own error is reported: its open `begin` suffices."""
        try:
            self._store.fail(action, resource, failure.what)
        except HyperscalerError as error:
            self._reporter.warn(f"{resource.id}: its failure could not be recorded: {error.what}")
