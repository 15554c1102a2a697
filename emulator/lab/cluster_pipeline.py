"""The clusters of a lab side by side: each boots, is configured and verified on its own, and one that fails leaves the
others to go on to their end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from emulator.apply.state import StateStore
from emulator.core.errors import HyperscalerError, VerifyError
from emulator.core.ports import log
from emulator.guests.verify.report import CheckResult
from emulator.labfile.model import ClusterKind, ClusterSpec

CONFIGURE_FACT = "phase/configure"
VERIFY_FACT = "phase/verify"

NAMES: Mapping[ClusterKind, str] = {ClusterKind.HPC: "Slurm", ClusterKind.CLOUD: "Kubernetes"}


@dataclass(frozen=True, slots=True)
class ClusterOutcome:
    """How far a cluster came. `changed`: tasks that Ansible changed, by node, None while it was not configured."""

    kind: ClusterKind
    changed: Mapping[str, int] | None = None
    checks: tuple[CheckResult, ...] = ()
    error: HyperscalerError | None = None

    def describe(self) -> str:
        """What there is to say of this cluster beside the failure of another."""
        if self.error is not None:
            return f"the {NAMES[self.kind]} cluster failed, too: {self.error.what}"
        if self.checks:
            return f"the {NAMES[self.kind]} cluster is not affected: all of its {len(self.checks)} checks passed"
        return f"the {NAMES[self.kind]} cluster is not affected: it is configured"


@dataclass(frozen=True, slots=True)
class ClusterSteps:
    """What is done with one cluster, in this order; a step that is None is left out."""

    boot: Callable[[ClusterKind], None] | None = None
    configure: Callable[[ClusterKind], Mapping[str, int]] | None = None
    verify: Callable[[ClusterKind], tuple[CheckResult, ...]] | None = None


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
        """Raise the failure to tell, with a line on how each other cluster is.

        Args:
            first: a failure before the clusters were worked on, told rather than theirs.
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


def work_on_clusters(
    spec: ClusterSpec,
    steps: ClusterSteps,
    store: StateStore,
    *,
    kinds: Sequence[ClusterKind] | None = None,
    record: bool = True,
) -> Clusters:
    """Do the steps with all clusters, or those of `kinds`, at once, and note in the journal how they went.

    Args:
        spec: the lab.
        steps: what to do with each cluster.
        store: of the lab's journal.
        kinds: the clusters, if not all.
        record: False for steps that leave the lab as configured and as verified as it was.
    """
    kinds = spec.clusters if kinds is None else kinds
    if record and steps.configure is not None:
        store.fact(CONFIGURE_FACT, "begun")
    with ThreadPoolExecutor(max_workers=max(1, len(kinds)), thread_name_prefix="cluster") as pool:
        runs = [pool.submit(_work_on, spec, kind, steps) for kind in kinds]
    outcomes = tuple(run.result() for run in runs)
    if not record:
        return Clusters(outcomes)
    complete = len(outcomes) == len(spec.clusters)
    if steps.configure is not None and complete and all(outcome.changed is not None for outcome in outcomes):
        store.fact(CONFIGURE_FACT, "done")
    if steps.verify is not None and any(outcome.checks for outcome in outcomes):
        store.fact(VERIFY_FACT, "done" if complete and not any(outcome.error for outcome in outcomes) else "failed")
    return Clusters(outcomes)


def _work_on(spec: ClusterSpec, kind: ClusterKind, steps: ClusterSteps) -> ClusterOutcome:
    outcome = ClusterOutcome(kind)
    try:
        if steps.boot is not None:
            steps.boot(kind)
        if steps.configure is not None:
            outcome = dataclasses.replace(outcome, changed=steps.configure(kind))
        if steps.verify is not None:
            outcome = dataclasses.replace(outcome, checks=steps.verify(kind))
            _require(spec, kind, outcome.checks)
    except HyperscalerError as error:
        return dataclasses.replace(outcome, error=error)
    except Exception as error:  # noqa: BLE001  whatever it is, the other cluster goes on and is told of
        log.exception("the %s cluster ended with an error that nobody expected", NAMES[kind])
        return dataclasses.replace(outcome, error=_unexpected(error))
    return outcome


def _unexpected(error: Exception) -> HyperscalerError:
    """The error as one that a person can act on; its traceback is in the log."""
    if isinstance(error, OSError):
        told = HyperscalerError(error.strerror or str(error), where=str(error.filename or ""))
    else:
        told = HyperscalerError(
            f"this is a fault of hyperscaler itself: {type(error).__name__}: {error}",
            fix="report it with the traceback at the end of this run's log, in the directory logs of the lab",
        )
    told.__cause__ = error
    return told


def _require(spec: ClusterSpec, kind: ClusterKind, checks: Sequence[CheckResult]) -> None:
    failed = [check for check in checks if not check.ok]
    if failed:
        lines = "\n    ".join(f"{check.name}: {check.detail}" for check in failed)
        raise VerifyError(
            f"{len(failed)} of {len(checks)} checks failed:\n    {lines}",
            where=spec.name,
            fix=f"hyperscaler ssh {spec.name} {spec.nodes_of(kind)[0].name}, then look at the services' logs",
        )
