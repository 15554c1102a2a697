"""What was verified and how it went; the same for every cluster."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.waiting.watch import GivenUp

SUMMARY_SECONDS = 12.0
"""Seconds on a fast host that a cluster has to say how its nodes are, for a status display."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's answer; `detail` says what was seen."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was verified: by a probe of a cluster, or as the proof of a rotated secret.

    A check of the host is another type, `emulator.host.checks.result.HostCheckResult`: it judges standing facts, has
    three levels, a reason and a fix, and takes no time.

    Attributes:
        name: what was looked at, unique in its report.
        ok: whether it holds.
        detail: what was seen.
        seconds: how long it took.
    """

    name: str
    ok: bool
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class VerifyReport:
    checks: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed; a report without checks proves nothing and is not ok."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if not check.ok)


def after_waiting(verdict: Verdict, given_up: GivenUp | None) -> Verdict:
    """A verdict that was waited for in vain says how long."""
    if verdict.ok or given_up is None:
        return verdict
    return Verdict(False, f"{verdict.detail} (given up {given_up})")


def check_from(name: str, verdict: Verdict, seconds: float) -> CheckResult:
    return CheckResult(name, verdict.ok, verdict.detail, seconds)
