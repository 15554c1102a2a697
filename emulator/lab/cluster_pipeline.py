"""Boot, configure and verify the clusters of a lab, side by side: when one fails, the others go on to their end.

Each is begun on its own, as soon as its machines are there: what another one still waits for (an image that is built)
does not keep it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from emulator.core.errors import HyperscalerError, InterruptedRunError, VerifyError
from emulator.core.pool import threads
from emulator.core.ports import log
from emulator.core.progress import ClusterReporter, Event, Status
from emulator.guests.ports import Access
from emulator.guests.verify.report import CheckResult
from emulator.lab.run import LabRun
from emulator.lab.wait_for_ssh import HostKeyBook, boot_cluster, open_host_keys
from emulator.labfile.model import CLUSTER_NAMES, ClusterKind, ClusterSpec

CONFIGURE_FACT = "phase/configure"
VERIFY_FACT = "phase/verify"


class Step(StrEnum):
    BOOT = "boot"
    CONFIGURE = "configure"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class ClusterOutcome:
    """How far a cluster came. `changed`: tasks that Ansible changed, by node, None while it was not configured."""

    kind: ClusterKind
    changed: Mapping[str, int] | None = None
    checks: tuple[CheckResult, ...] = ()
    error: HyperscalerError | None = None

    def describe(self) -> str:
        """One line about this cluster, for the report of another one's failure."""
        name = CLUSTER_NAMES[self.kind]
        if isinstance(self.error, InterruptedRunError):
            return f"the {name} cluster was stopped, too: {self.error.what}"
        if self.error is not None:
            return f"the {name} cluster failed, too: {self.error.what}"
        if self.checks:
            return (
                f"the {CLUSTER_NAMES[self.kind]} cluster is not affected: all of its {len(self.checks)} checks passed"
            )
        return f"the {CLUSTER_NAMES[self.kind]} cluster is not affected: it is configured"


@dataclass(frozen=True, slots=True)
class Clusters:
    """The outcomes of all clusters that were worked on."""

    outcomes: tuple[ClusterOutcome, ...] = field(default=())

    @property
    def changed(self) -> Mapping[str, int]:
        return {node: count for outcome in self.outcomes for node, count in (outcome.changed or {}).items()}

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        return tuple(check for outcome in self.outcomes for check in outcome.checks)

    def conclude(self, first: HyperscalerError | None = None) -> None:
        """Raise the failure to report, with a line on how each other cluster is.

        Args:
            first: why not all clusters were begun; it is reported rather than their failures.
        """
        failed = [outcome for outcome in self.outcomes if outcome.error is not None]
        error = first or (failed[0].error if failed else None)
        if error is None:
            return
        others = [outcome for outcome in self.outcomes if outcome.error is not error]
        error.what += "".join(f"\n    {outcome.describe()}" for outcome in others)
        if self.outcomes:
            error.details["clusters"] = {
                outcome.kind.value: "failed" if outcome.error is not None else "done" for outcome in self.outcomes
            }
        raise error


class ClusterWork:
    """The clusters of a lab on their way through some steps, each from when it is begun."""

    def __init__(self, run: LabRun, steps: frozenset[Step], pool: Executor, tags: tuple[str, ...] = ()) -> None:
        self._run = run
        self._steps = steps
        self._pool = pool
        self._tags = tags
        self._keys = open_host_keys(run) if Step.BOOT in steps else None
        self._begun: dict[ClusterKind, Future[ClusterOutcome]] = {}

    def begin(self, kind: ClusterKind) -> None:
        """Take a cluster whose machines are there, and on record, through the steps; returns at once."""
        work = _Work(self._run, self._steps, self._run.access, self._keys, self._tags)
        self._begun[kind] = self._pool.submit(_bring_up, work, kind)

    def end(self) -> Clusters:
        """Wait until all that were begun are at their end, and record how far the lab has come."""
        clusters = Clusters(
            tuple(self._begun[kind].result() for kind in self._run.spec.clusters if kind in self._begun)
        )
        if self._tags:
            return clusters
        complete, store = len(clusters.outcomes) == len(self._run.spec.clusters), self._run.store
        configured = complete and all(outcome.changed is not None for outcome in clusters.outcomes)
        if Step.CONFIGURE in self._steps and configured:
            store.fact(CONFIGURE_FACT, "done")
        if Step.VERIFY in self._steps and clusters.checks:
            errors = [outcome.error for outcome in clusters.outcomes if outcome.error is not None]
            if any(not isinstance(error, InterruptedRunError) for error in errors):
                store.fact(VERIFY_FACT, "failed")
            elif complete and not errors:
                store.fact(VERIFY_FACT, "done")
        return clusters


@contextmanager
def clusters_at_work(run: LabRun, *steps: Step, tags: tuple[str, ...] = ()) -> Iterator[ClusterWork]:
    """Clusters can be begun in the block; whatever ends it, what was begun has come to its end after it."""
    with threads(len(run.spec.clusters), "cluster") as pool:
        yield ClusterWork(run, frozenset(steps), pool, tags)


def work_on_clusters(run: LabRun, *steps: Step) -> Clusters:
    """Take all clusters through the steps side by side, and record how far they came."""
    with clusters_at_work(run, *steps) as work:
        for kind in run.spec.clusters:
            work.begin(kind)
        return work.end()


def configure_tagged(run: LabRun, tags: tuple[str, ...], kinds: Sequence[ClusterKind] | None = None) -> None:
    """Run only the tasks with one of `tags`, on all clusters or those of `kinds`.

    For what is not in the lab file: users, keys, certificates. The lab stays as configured and as verified as it was.

    Raises:
        ConfigureError: a task failed on a node, or a node did not answer.
    """
    with clusters_at_work(run, Step.CONFIGURE, tags=tags) as work:
        for kind in run.spec.clusters if kinds is None else kinds:
            work.begin(kind)
        work.end().conclude()


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done with each cluster. `keys` are needed for booting; `tags` narrow down the tasks of Ansible."""

    run: LabRun
    steps: frozenset[Step]
    access: Access
    keys: HostKeyBook | None
    tags: tuple[str, ...] = ()


def _bring_up(work: _Work, kind: ClusterKind) -> ClusterOutcome:
    """Boot, configure, verify: the steps that were asked for, in this order, up to the first that fails."""
    outcome, guests = ClusterOutcome(kind), work.run.env.guests
    run = dataclasses.replace(work.run, reporter=ClusterReporter(work.run.reporter, CLUSTER_NAMES[kind]))
    try:
        if work.keys is not None:
            boot_cluster(run, kind, work.keys)
        if Step.CONFIGURE in work.steps:
            _require_no_stop(run, "before it was configured")
            if not work.tags:
                run.store.fact(CONFIGURE_FACT, "begun")
            done = guests.configure(run.spec, kind, work.access, run.reporter, run.stop, work.tags)
            outcome = dataclasses.replace(outcome, changed=done.changed)
        if Step.VERIFY in work.steps:
            _require_no_stop(run, "before it was verified")
            # The probes report their results only; something must be seen to run until the first one has.
            run.reporter.event(Event("verify", "all checks", Status.RUNNING, "running jobs and probes"))
            outcome = dataclasses.replace(outcome, checks=guests.verify(run.spec, kind, work.access, run.reporter))
            run.reporter.event(_verified(outcome.checks))
            _require(run.spec, kind, outcome.checks)
    except HyperscalerError as error:
        return dataclasses.replace(outcome, error=error)
    except Exception as error:  # noqa: BLE001  whatever it is, the other cluster goes on, and its outcome is reported
        log.exception("unexpected error while working on the %s cluster", CLUSTER_NAMES[kind])
        return dataclasses.replace(outcome, error=_unexpected(error))
    return outcome


def _require_no_stop(run: LabRun, when: str) -> None:
    if run.stop.is_set():
        raise InterruptedRunError(f"stopped on request {when}", fix="run the same command again to go on")


def _unexpected(error: Exception) -> HyperscalerError:
    """The error as one that says how to go on; its traceback is in the log."""
    if isinstance(error, OSError):
        shown = HyperscalerError(error.strerror or str(error), where=str(error.filename or ""))
    else:
        shown = HyperscalerError(
            f"this is a fault of hyperscaler itself: {type(error).__name__}: {error}",
            fix="report it with the traceback at the end of this run's log, in the directory logs of the lab",
        )
    shown.__cause__ = error
    return shown


def _verified(checks: Sequence[CheckResult]) -> Event:
    failed = sum(not check.ok for check in checks)
    text = f"{failed} of {len(checks)} failed" if failed else f"{len(checks)} passed"
    return Event("verify", "all checks", Status.FAILED if failed else Status.DONE, text)


def _require(spec: ClusterSpec, kind: ClusterKind, checks: Sequence[CheckResult]) -> None:
    failed = [check for check in checks if not check.ok]
    if failed:
        lines = "\n    ".join(f"{check.name}: {check.detail}" for check in failed)
        raise VerifyError(
            f"{len(failed)} of {len(checks)} checks failed:\n    {lines}",
            where=spec.name,
            fix=f"hyperscaler ssh {spec.name} {spec.nodes_of(kind)[0].name}, then look at the services' logs",
        )
