"""The stages that the live view shows, as data: one row for each node, check or resource. Pure.

A stage is one phase of one cluster, or of the lab as a whole. The clusters of a lab work side by side, so several
stages are under way at once; each ends when its own cluster goes on to another phase, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from emulator.core.progress import Event, Status

_ENDED = frozenset({Status.DONE, Status.FAILED, Status.SKIPPED})


@dataclass(slots=True)
class Row:
    """One subject of a stage. Times are in seconds of the reporter's clock; `ended` None while it runs."""

    event: Event
    began: float
    step_began: float
    ended: float | None = None

    @property
    def running(self) -> bool:
        return self.ended is None

    def spent(self, now: float) -> float:
        """Seconds so far, or in all: a row that has ended stands still."""
        if self.ended is None:
            return now - self.began
        return self.event.seconds or self.ended - self.began

    def take(self, event: Event, now: float) -> None:
        if event.step != self.event.step or not self.running:
            self.step_began = now
        self.event = event
        self.ended = now if event.status in _ENDED else None


@dataclass(slots=True)
class Stage:
    """One phase of one cluster (empty: of the lab)."""

    phase: str
    cluster: str
    began: float
    rows: dict[str, Row] = field(default_factory=dict)

    def take(self, event: Event, now: float) -> None:
        row = self.rows.get(event.subject)
        if row is None:
            row = self.rows[event.subject] = Row(event, now, now)
        row.take(event, now)

    @property
    def running(self) -> list[Row]:
        return [row for row in self.rows.values() if row.running]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows.values() if row.event.status is Status.FAILED]

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        if len(self.rows) == 1:
            return next(iter(self.rows.values())).event.message
        return f"{len(self.rows)} done"


class Stages:
    """All stages under way, in the order in which they began."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []

    def take(self, event: Event, now: float) -> list[Stage]:
        """Note an event; returns the stages that it has brought to their end."""
        ended = [stage for stage in self._stages if _is_over(stage, event)]
        self._stages = [stage for stage in self._stages if stage not in ended]
        stage = next(
            (each for each in self._stages if (each.phase, each.cluster) == (event.phase, event.cluster)), None
        )
        if stage is None:
            stage = Stage(event.phase, event.cluster, now)
            self._stages.append(stage)
        stage.take(event, now)
        return ended

    def end(self) -> list[Stage]:
        """Everything is over; returns what was still under way."""
        left, self._stages = self._stages, []
        return left

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)


def _is_over(stage: Stage, event: Event) -> bool:
    """Whether an event shows that a stage has ended: its own cluster has gone on to another phase.

    A stage of the lab as a whole has ended with the next phase of anything, unless something of it still runs.
    """
    if stage.phase == event.phase or stage.running:
        return False
    return not stage.cluster or stage.cluster == event.cluster or not event.cluster


@dataclass(frozen=True, slots=True)
class Shown:
    """The rows of one stage that fit on the screen, and how many more there are of each kind."""

    stage: Stage
    rows: tuple[Row, ...]
    hidden_running: int = 0
    hidden_ended: int = 0


def fitted(stages: Sequence[Stage], height: int) -> list[Shown]:
    """What of the stages fits into `height` lines, a title for each stage included.

    Rows that have ended give way first, the oldest before the others; of rows that run, those that began first stay,
    since they are what takes long. Each stage keeps its title and at least one row, whatever the height.
    """
    room = max(height - len(stages), len(stages))
    kept: dict[int, list[Row]] = {id(stage): [] for stage in stages}
    queues = [stage.running for stage in stages]
    room = _deal(stages, queues, kept, room)
    ended = [[row for row in reversed(stage.rows.values()) if not row.running] for stage in stages]
    _deal(stages, ended, kept, room)
    return [_shown(stage, kept[id(stage)]) for stage in stages]


def _deal(stages: Sequence[Stage], queues: list[list[Row]], kept: dict[int, list[Row]], room: int) -> int:
    """Hand out lines, one to each stage in turn, so that no cluster crowds out another; returns what is left."""
    turn = 0
    while room > 0 and any(turn < len(queue) for queue in queues):
        for stage, queue in zip(stages, queues, strict=True):
            if turn < len(queue) and room > 0:
                kept[id(stage)].append(queue[turn])
                room -= 1
        turn += 1
    return room


def _shown(stage: Stage, kept: list[Row]) -> Shown:
    rows = tuple(row for row in stage.rows.values() if any(row is each for each in kept))
    hidden = [row for row in stage.rows.values() if not any(row is each for each in kept)]
    running = sum(row.running for row in hidden)
    return Shown(stage, rows, running, len(hidden) - running)
