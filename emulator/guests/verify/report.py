"""What was verified and how it went; the same for every cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's answer; `detail` says what was seen."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, in `seconds`."""

    name: str
    ok: bool
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class VerifyReport:
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed; a report without checks proves nothing and is not ok."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)


def check_from(name: str, verdict: Verdict, seconds: float) -> Check:
    return Check(name, verdict.ok, verdict.detail, seconds)
