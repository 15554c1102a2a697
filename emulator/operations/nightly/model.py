"""One night: what was rebuilt, how it went, and what the host keeps of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from emulator.guests.verify.report import CheckResult


class Place(StrEnum):
    """Where the new lab was built."""

    FIRST = "first"
    NEXT_TO = "next to the last good lab"
    IN_PLACE = "in place of the last good lab"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """A golden image: its digest, and its packages with their versions."""

    name: str
    digest: str
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Good:
    """The last good lab: its name, when it was built (seconds since the epoch), its images."""

    lab: str
    at: int
    images: tuple[ImageFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class PastNight:
    """What is kept of a night to compare others with: seconds by phase."""

    at: int
    good: bool
    seconds: float
    phases: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a lab's nights.

    Attributes:
        good: the last good lab, if there is one.
        made: names of labs that nights made and that may still be there.
        nights: the latest, oldest first.
    """

    good: Good | None = None
    made: tuple[str, ...] = ()
    nights: tuple[PastNight, ...] = ()


@dataclass(frozen=True, slots=True)
class PackageChanges:
    """What differs between two images: version by package, and both versions of those that changed."""

    added: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Night:
    """A night that is over.

    Attributes:
        name: of the lab in the file.
        candidate: the lab that was built.
        at: when it began, in seconds since the epoch.
        error: why it failed, as an error's JSON; None for a good one.
        kept: the lab that is there now; empty for none.
        before: the last good build, which this one is compared with.
        history: earlier nights.
    """

    name: str
    file: str
    candidate: str
    at: int
    seconds: float
    place: Place
    phases: Mapping[str, float]
    images: tuple[ImageFacts, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    warnings: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None
    kept: str = ""
    before: Good | None = None
    history: tuple[PastNight, ...] = ()

    @property
    def good(self) -> bool:
        return self.error is None


def package_changes(before: Mapping[str, str], now: Mapping[str, str]) -> PackageChanges:
    """What changed from one list of packages to another."""
    both = before.keys() & now.keys()
    return PackageChanges(
        added={name: now[name] for name in sorted(now.keys() - both)},
        removed={name: before[name] for name in sorted(before.keys() - both)},
        changed={name: (before[name], now[name]) for name in sorted(both) if before[name] != now[name]},
    )


def usual_seconds(history: tuple[PastNight, ...], phase: str, *, nights: int = 5) -> float | None:
    """The median of a phase in the last good nights; None where none of them had it."""
    found = [night.phases[phase] for night in history if night.good and phase in night.phases][-nights:]
    return sorted(found)[len(found) // 2] if found else None
