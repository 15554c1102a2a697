"""Carries out a plan: a bounded pool of threads over the dependency graph, every effect journalled.

A step starts when all steps that it waits for have ended and are recorded. After a stop request no new step starts,
running steps finish, and everything done stays on record for the next run. The same happens after a failure, except
that a cluster that no failed step serves is completed. A cluster is reported as ready as soon as all is there that it
needs, while steps of others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, Protocol

from emulator.apply.handler import ApplyContext, Handler
from emulator.apply.state import StateStore
from emulator.core.errors import HyperscalerError, InterruptedRunError, StateError
from emulator.core.pool import threads
from emulator.core.progress import ClusterReporter, Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.plan.course import Course
from emulator.plan.model import Action, Plan
from emulator.plan.resources import Resource
from emulator.plan.steps import Step

_HELD_PAUSE = 1.0
"""Seconds between two questions to the gate, when steps are kept back."""

HandlerTable = Mapping[str, Handler[Any]]


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
        error = self.run(plan)
        if error is not None:
            raise error

    def run(
        self, plan: Plan, clusters: Collection[str] = (), ready: Callable[[str], None] = lambda _cluster: None
    ) -> HyperscalerError | None:
        """Carry out all changes that can be carried out; returns why it was not all of them.

        Args:
            plan: the changes.
            clusters: those (`hpc`, `cloud`) that the caller waits for. One that no failed step serves is completed.
            ready: called from this thread with each of them as soon as everything that it needs is there and on record.
                Steps of others go on meanwhile, so it must return at once.
        """
        course = Course(plan, clusters)
        running: dict[Future[None], Step] = {}
        noted: set[str] = set()
        with threads(self._workers, "apply") as pool:
            while True:
                for cluster in course.newly_ready():
                    ready(cluster)
                held = False
                for step in [] if self._stop.is_set() else course.possible():
                    if len(running) == self._workers or self._stop.is_set():
                        break  # a queued step would still start after a stop or a failure
                    if self._is_held(step, course, noted):
                        held = True
                        continue
                    course.begun(step)
                    running[pool.submit(self._run, plan.lab, step, self._reporter_of(step, course))] = step
                if not running and (not held or self._stop.wait(_HELD_PAUSE)):
                    break
                done, _ = wait(running, timeout=_HELD_PAUSE if held else None, return_when=FIRST_COMPLETED)
                for future in [each for each in running if each in done]:  # in the order in which they began
                    self._end(running.pop(future), future.exception(), course)
        self._roll_back(plan.lab, course)
        return self._error(course)

    def _end(self, step: Step, error: BaseException | None, course: Course) -> None:
        self._gate.ended(step.resource)
        if error is None:
            course.done(step)
        elif isinstance(error, HyperscalerError):
            course.failed(step, error)
        else:
            raise error

    def _reporter_of(self, step: Step, course: Course) -> Reporter:
        cluster = course.cluster_of(step)
        return ClusterReporter(self._reporter, cluster) if cluster else self._reporter

    def _is_held(self, step: Step, course: Course, noted: set[str]) -> bool:
        """Whether the gate keeps the step back, which is said once."""
        why = "" if step.is_delete else self._gate.admits(step.resource)
        if why and step.key not in noted:
            noted.add(step.key)
            waits = Event("apply", step.resource.id, Status.STARTED, f"waits: {why}")
            self._reporter_of(step, course).event(waits)
        return bool(why)

    def _roll_back(self, lab: str, course: Course) -> None:
        """Undo, newest first, the steps of this run in groups that contain a failure.

        A step that cannot be undone stays on record for the next run; its error is reported in addition to the first.
        """
        groups = {failure.resource.group for failure in course.failures} - {""}
        for step in reversed(course.finished):
            if step.resource.group in groups and step.action is Action.CREATE:
                undo = Step(f"delete {step.resource.id}", Action.DELETE, step.resource, None, True, "rolled back")
                try:
                    self._run(lab, undo, self._reporter_of(step, course))
                except HyperscalerError as error:
                    self._reporter.warn(f"{step.resource.id} could not be rolled back: {error.what}")

    def _error(self, course: Course) -> HyperscalerError | None:
        failures, unstarted = course.failures, course.unstarted
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

    def _run(self, lab: str, step: Step, reporter: Reporter) -> None:
        handler = self._handlers.get(step.resource.kind)
        if handler is None:
            raise StateError(f"this version has no handler for a {step.resource.kind}", where=step.resource.id)
        subject = step.resource.id
        started = time.monotonic()

        def report(line: str) -> None:
            reporter.event(Event("apply", subject, Status.RUNNING, line, time.monotonic() - started))

        resumed = self._store.open_action(subject) == Action.DELETE.value
        context = ApplyContext(lab, self._store.handle, report, resumed)
        action = Action.DELETE.value if step.is_delete else step.action.value
        reporter.event(Event("apply", subject, Status.STARTED, f"{action}: {step.reason}"))
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
            reporter.event(Event("apply", subject, Status.FAILED, error.what, time.monotonic() - started))
            raise
        reporter.event(Event("apply", subject, Status.DONE, action, time.monotonic() - started))

    def _record_failure(self, action: str, resource: Resource, failure: HyperscalerError) -> None:
        """Record the failure. If that fails as well, the step's own error is reported: its open `begin` suffices."""
        try:
            self._store.fail(action, resource, failure.what)
        except HyperscalerError as error:
            self._reporter.warn(f"{resource.id}: its failure could not be recorded: {error.what}")
