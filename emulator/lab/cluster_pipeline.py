"""Boot, configure and verify the clusters of a lab, side by side: when one fails, the others go on to their end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from emulator.core.errors import HyperscalerError, VerifyError
from emulator.core.pool import threads
from emulator.core.ports import log
from emulator.core.progress import ClusterReporter, Event, Status
from emulator.guests.ports import Access
from emulator.guests.verify.report import CheckResult
from emulator.lab.run import LabRun
from emulator.lab.wait_for_ssh import HostKeyBook, boot_cluster, open_host_keys
from emulator.labfile.model import ClusterKind, ClusterSpec

CONFIGURE_FACT = "phase/configure"
VERIFY_FACT = "phase/verify"

NAMES: Mapping[ClusterKind, str] = {ClusterKind.HPC: "Slurm", ClusterKind.CLOUD: "Kubernetes"}


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
        if self.error is not None:
            return f"the {NAMES[self.kind]} cluster failed, too: {self.error.what}"
        if self.checks:
            return f"the {NAMES[self.kind]} cluster is not affected: all of its {len(self.checks)} checks passed"
        return f"the {NAMES[self.kind]} cluster is not affected: it is configured"


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
            first: a failure from before the clusters were worked on; it is reported rather than theirs.
        """
        failed = [outcome for outcome in self.outcomes if outcome.error is not None]
        error = first or (failed[0].error if failed else None)
        if error is None:
            return
        others = [outcome for outcome in self.outcomes if outcome.error is not error]
        error.what += "".join(f"\n    {outcome.describe()}" for outcome in others)
        error.details["clusters"] = {
            outcome.kind.value: "failed" if outcome.error is not None else "done" for outcome in self.outcomes
        }
        raise error


def work_on_clusters(run: LabRun, *steps: Step, kinds: Sequence[ClusterKind] | None = None) -> Clusters:
    """Take all clusters, or only those of `kinds`, through the steps side by side, and record how far they came."""
    kinds = run.spec.clusters if kinds is None else kinds
    work = _Work(run, frozenset(steps), run.access, open_host_keys(run) if Step.BOOT in steps else None)
    if Step.CONFIGURE in steps:
        run.store.fact(CONFIGURE_FACT, "begun")
    clusters = _side_by_side(work, kinds)
    complete = len(clusters.outcomes) == len(run.spec.clusters)
    if Step.CONFIGURE in steps and complete and all(outcome.changed is not None for outcome in clusters.outcomes):
        run.store.fact(CONFIGURE_FACT, "done")
    if Step.VERIFY in steps and clusters.checks:
        proven = complete and not any(outcome.error for outcome in clusters.outcomes)
        run.store.fact(VERIFY_FACT, "done" if proven else "failed")
    return clusters


def configure_tagged(run: LabRun, tags: tuple[str, ...], kinds: Sequence[ClusterKind] | None = None) -> None:
    """Run only the tasks with one of `tags`, on all clusters or those of `kinds`.

    For what is not in the lab file: users, keys, certificates. The lab stays as configured and as verified as it was.

    Raises:
        ConfigureError: a task failed on a node, or a node did not answer.
    """
    work = _Work(run, frozenset({Step.CONFIGURE}), run.access, None, tags)
    _side_by_side(work, run.spec.clusters if kinds is None else kinds).conclude()


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done with each cluster. `keys` are needed for booting; `tags` narrow down the tasks of Ansible."""

    run: LabRun
    steps: frozenset[Step]
    access: Access
    keys: HostKeyBook | None
    tags: tuple[str, ...] = ()


def _side_by_side(work: _Work, kinds: Sequence[ClusterKind]) -> Clusters:
    with threads(len(kinds), "cluster") as pool:
        runs = [pool.submit(_bring_up, work, kind) for kind in kinds]
    return Clusters(tuple(each.result() for each in runs))


def _bring_up(work: _Work, kind: ClusterKind) -> ClusterOutcome:
    """Boot, configure, verify: the steps that were asked for, in this order, up to the first that fails."""
    outcome, guests = ClusterOutcome(kind), work.run.env.guests
    run = dataclasses.replace(work.run, reporter=ClusterReporter(work.run.reporter, NAMES[kind]))
    try:
        if work.keys is not None:
            boot_cluster(run, kind, work.keys)
        if Step.CONFIGURE in work.steps:
            done = guests.configure(run.spec, kind, work.access, run.reporter, run.stop, work.tags)
            outcome = dataclasses.replace(outcome, changed=done.changed)
        if Step.VERIFY in work.steps:
            # The probes report their results only; something must be seen to run until the first one has.
            run.reporter.event(Event("verify", "all checks", Status.RUNNING, "running jobs and probes"))
            outcome = dataclasses.replace(outcome, checks=guests.verify(run.spec, kind, work.access, run.reporter))
            run.reporter.event(_verified(outcome.checks))
            _require(run.spec, kind, outcome.checks)
    except HyperscalerError as error:
        return dataclasses.replace(outcome, error=error)
    except Exception as error:  # noqa: BLE001  whatever it is, the other cluster goes on, and its outcome is reported
        log.exception("unexpected error while working on the %s cluster", NAMES[kind])
        return dataclasses.replace(outcome, error=_unexpected(error))
    return outcome


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
