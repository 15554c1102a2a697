"""How far a plan is carried out: which steps may begin, which clusters have all that they need. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from emulator.core.errors import HyperscalerError
from emulator.plan.clusters import clusters_served, shown_name
from emulator.plan.model import Plan
from emulator.plan.resources import Resource
from emulator.plan.steps import Step, steps_of


@dataclass(frozen=True, slots=True)
class StepFailure:
    resource: Resource
    error: HyperscalerError


class Course:
    """A plan on its way.

    A step that serves no cluster in particular (keys, services) is one that every cluster needs: each waits for it, and
    is not completed when it fails.

    Args:
        plan: what is carried out.
        clusters: those that are waited for (`hpc`, `cloud`); one without a step of its own needs the common ones.
    """

    def __init__(self, plan: Plan, clusters: Collection[str] = ()) -> None:
        self._steps, self._waits = steps_of(plan)
        self._serves = clusters_served([step.resource for step in self._steps.values()])
        self._clusters = tuple(clusters)
        self._unfinished = dict.fromkeys(self._steps)
        self._reported: set[str] = set()
        self._doomed: frozenset[str] = frozenset()
        self._all_doomed = False
        self.failures: list[StepFailure] = []
        self.finished: list[Step] = []

    @property
    def unstarted(self) -> list[str]:
        """Keys of the steps that were not begun."""
        return sorted(self._waits)

    def cluster_of(self, step: Step) -> str:
        """The name that the step's cluster is shown by; empty when it serves several, or none in particular."""
        return shown_name(self._serves[step.resource.id])

    def possible(self) -> list[Step]:
        """Steps that wait for nothing any more. After a failure those that a cluster needs which it does not touch."""
        return [self._steps[key] for key, waits in self._waits.items() if not waits and self._may_begin(key)]

    def _may_begin(self, key: str) -> bool:
        if not self.failures:
            return True
        serves = self._serves[self._steps[key].resource.id] or frozenset(self._clusters)
        return not self._all_doomed and bool(serves - self._doomed)

    def begun(self, step: Step) -> None:
        del self._waits[step.key]

    def done(self, step: Step) -> None:
        """The step has ended well, and is on record."""
        self.finished.append(step)
        del self._unfinished[step.key]
        for waits in self._waits.values():
            waits.discard(step.key)

    def failed(self, step: Step, error: HyperscalerError) -> None:
        self.failures.append(StepFailure(step.resource, error))
        serves = self._serves[step.resource.id]
        self._doomed |= serves
        self._all_doomed |= not serves

    def newly_ready(self) -> list[str]:
        """Clusters that have all that they need by now, each named once."""
        missing = [self._serves[self._steps[key].resource.id] for key in self._unfinished]
        ready = [
            cluster
            for cluster in self._clusters
            if cluster not in self._reported and not any(not serves or cluster in serves for serves in missing)
        ]
        self._reported.update(ready)
        return ready
