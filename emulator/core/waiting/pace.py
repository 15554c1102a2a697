"""What this host can, as one factor of patience. Pure; `emulator/adapters/system/host_pace.py` measures.

All seconds in the program are meant for a quiet host with hardware virtualisation, and most of them are generous. The
factor is what this host takes longer: its processor, what else runs on it, emulation, and guests that share few cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from emulator.core.waiting.watch import Patience

MOST = 10.0
"""The factor's bound: a wait without progress on the slowest of hosts still ends on the same day."""

REFERENCE_SECONDS = 0.05
"""Processor seconds that the calibration's work takes on a server core of 2020 (3 GHz)."""

EMULATION = 2.0
"""What the waits need more under TCG. It is ten to thirty times slower than KVM; but the seconds were chosen on hosts
without KVM, so that most of it is in them."""

_PART_BOUND = 8.0  # of each part, so that one odd reading does not decide alone
_FORKS, _BOOTS_KVM = 16, 8
# A guest that boots keeps one core busy under TCG, and hardly half of one under KVM.
_TCG_BOOTS_PER_CORE, _KVM_BOOTS_PER_CORE = 1, 4
_TCG_GUESTS_PER_CORE, _KVM_GUESTS_PER_CORE = 2, 8


@dataclass(frozen=True, slots=True)
class PaceReadings:
    """What was measured.

    Attributes:
        cores: that this process may use (its affinity and its cgroup's quota).
        load: of the last minute, as the kernel counts it.
        pressure: percentage of the last ten seconds in which some task waited for a processor (PSI); None where the
            kernel does not say.
        work_cpu, work_wall: seconds of processor time and of time that a fixed piece of work took.
    """

    cores: float
    load: float
    pressure: float | None
    work_cpu: float
    work_wall: float


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient to be on this host.

    Attributes:
        factor: 1 (as fast as any) to `MOST`; every wait is that much longer.
        boots: guests that may boot at once.
        forks: nodes that Ansible works on at once.
        why: the readings behind it, in words.
    """

    factor: float = 1.0
    boots: int = _BOOTS_KVM
    forks: int = _FORKS
    why: str = "not measured"

    def seconds(self, base: float) -> float:
        """For one question or command that takes at most `base` seconds on a fast host."""
        return base * self.factor

    def patience(self, base: float) -> Patience:
        """For a wait that takes at most `base` seconds on a fast host. It has at least these; on a slow host as long as
        there is progress."""
        return replace(Patience.within(self.seconds(base)), usual=base)

    def __str__(self) -> str:
        return f"{self.why}: waits are {self.factor:.1f} times as long, {self.boots} nodes boot at once"


def pace_of(readings: PaceReadings, *, accelerated: bool, guests: int) -> Pace:
    """The pace of a host.

    Args:
        readings: of the host.
        accelerated: whether guests run on KVM.
        guests: of the lab.
    """
    cores = max(readings.cores, 0.1)
    slow = _bounded(readings.work_cpu / REFERENCE_SECONDS)
    shared = _bounded(max(*_competition(readings, cores)))
    per_core = _KVM_GUESTS_PER_CORE if accelerated else _TCG_GUESTS_PER_CORE
    crowded = _bounded(guests / (per_core * cores))
    factor = min(slow * shared * crowded * (1.0 if accelerated else EMULATION), MOST)
    boots_per_core = _KVM_BOOTS_PER_CORE if accelerated else _TCG_BOOTS_PER_CORE
    return Pace(
        factor=factor,
        boots=max(1, min(_BOOTS_KVM, math.floor(boots_per_core * cores))),
        # Each fork takes some 60 MiB and, while it starts a task, most of a core.
        forks=max(4, min(_FORKS, math.floor(4 * cores))),
        why=_why(readings, shared, accelerated=accelerated),
    )


def _competition(readings: PaceReadings, cores: float) -> tuple[float, float, float]:
    """By three signs, what work takes longer here than on a host of its own."""
    waited = readings.work_wall / max(readings.work_cpu, 1e-6)
    crowd = (readings.load + 1.0) / max(cores, 1.0)
    # The kernel says how often a task waited, not how many did: at its most, two share what one would have.
    pressed = 1.0 + min(max(readings.pressure or 0.0, 0.0), 100.0) / 100.0
    return waited, crowd, pressed


def _bounded(part: float) -> float:
    return min(max(part, 1.0), _PART_BOUND) if math.isfinite(part) else 1.0


def _why(readings: PaceReadings, shared: float, *, accelerated: bool) -> str:
    other = "other work on them" if shared >= 1.5 else "hardly other work on them"
    count = f"{readings.cores:g} core{'' if readings.cores == 1 else 's'}"
    return f"{count} {'with' if accelerated else 'without'} KVM, {other} (load {readings.load:.1f})"
