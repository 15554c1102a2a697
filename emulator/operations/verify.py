"""Verify: prove that a provisioned lab works."""

from __future__ import annotations

from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.lab.cluster_pipeline import Step, work_on_clusters
from emulator.lab.environment import Environment
from emulator.lab.run import provisioned_run
from emulator.operations.credentials.rotator import Rotator


def verify(env: Environment, name: str, reporter: Reporter, *, wait_seconds: float = 0.0) -> tuple[CheckResult, ...]:
    """Probe a provisioned lab.

    Raises:
        VerifyError: names every check that failed.
    """
    with provisioned_run(env, name, "verify", reporter, StopFlag(), wait_seconds=wait_seconds) as run:
        run.begin()
        Rotator(run).settle()
        clusters = work_on_clusters(run, Step.VERIFY)
        clusters.conclude()
        return clusters.checks
