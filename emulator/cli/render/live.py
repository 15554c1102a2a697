"""Live progress on a terminal: every stage under way with its rows, finished stages as one line each above them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emulator.cli.render.stages import Row, Shown, Stage, Stages, fitted
from emulator.cli.render.timings import Timings
from emulator.cli.wrapping import wrapped
from emulator.core.ports import log
from emulator.core.progress import Event, Status, shown
from emulator.core.units import human_duration, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

_MARKS = {
    Status.STARTED: ("…", ">", "cyan"),
    Status.RUNNING: ("…", ">", "cyan"),
    Status.DONE: ("✓", "+", "green"),
    Status.FAILED: ("✗", "x", "red"),
    Status.SKIPPED: ("-", "-", "dim"),
}
_SLOW_SECONDS = 10.0
"""A step that runs longer says how long it took the last time, in few words: the message gets what is left."""
_SPARE_LINES = 4
"""Lines of the screen that are left to the title, the prompt and what was printed before."""


class LiveReporter:
    """`Reporter` on a terminal.

    Args:
        timings: how long steps took in earlier runs.
        console: where to draw; stderr if not given.
        now: seconds of a monotonic clock.
        refresh: draw by itself, eight times a second; tests draw when they look.
    """

    def __init__(
        self,
        timings: Timings,
        *,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
        refresh: bool = True,
    ) -> None:
        from rich.console import Console

        self._timings = timings
        self._now = now
        self._lock = threading.RLock()
        self._console = console or Console(stderr=True)
        self._plain = not self._console.encoding.lower().startswith("utf")
        self._stages = Stages()
        self._started = now()
        self._refresh = refresh
        self._live = self._drawing()

    def _drawing(self) -> Live:
        from rich.live import Live

        return Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=8,
            transient=True,
            auto_refresh=self._refresh,
            vertical_overflow="crop",
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        with self._lock:
            self._conclude(self._stages.end())
        self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the screen to a question."""
        self._live.stop()
        try:
            yield
        finally:
            # A new one: the old one would begin by erasing as many lines as it had drawn, and these are the question's.
            self._live = self._drawing()
            self._live.start()

    def refresh(self) -> None:
        self._live.refresh()

    def event(self, event: Event) -> None:
        event = shown(event)
        log.info("%s %s %s: %s", event.phase, event.subject, event.status.value, event.message)
        with self._lock:
            now = self._now()
            self._timings.take(event, now)
            self._conclude(self._stages.take(event, now))

    def note(self, message: str) -> None:
        message = printable(message)
        log.info("%s", message)
        self._say(message)

    def warn(self, message: str) -> None:
        message = printable(message)
        log.warning("%s", message)
        self._say(("warning:", "yellow"), f" {message}")

    def _conclude(self, ended: list[Stage]) -> None:
        for stage in ended:
            for row in stage.failed:
                self._say(
                    (self._mark(Status.FAILED), "red"), f" {_place(stage)} {row.event.subject}: {row.event.message}"
                )
            if not stage.failed and not stage.running:
                last = max((row.ended for row in stage.rows.values() if row.ended is not None), default=self._now())
                spent = human_duration(last - stage.began)
                self._say((self._mark(Status.DONE), "green"), f" {_place(stage)} {stage.summary} ", (spent, "dim"))

    def _say(self, *parts: str | tuple[str, str]) -> None:
        from rich.text import Text

        texts = [part if isinstance(part, str) else part[0] for part in parts]
        styles = ["" if isinstance(part, str) else part[1] for part in parts]
        # rich breaks a path that is longer than a line in its middle, and the command that a remedy is.
        for line in wrapped(texts, self._console.width):
            text = Text.assemble(*((piece, styles[number]) for number, piece in line))
            self._console.print(text, highlight=False, soft_wrap=True)

    def _mark(self, status: Status) -> str:
        utf, plain, _ = _MARKS[status]
        return plain if self._plain else utf

    def _render(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, max_width=34)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True, justify="right")
        with self._lock:
            now = self._now()
            height = max(4, self._console.size.height - _SPARE_LINES)
            for shown in fitted(list(self._stages), height):
                self._add(table, shown, now)
        table.add_row("", Text(human_duration(now - self._started), style="dim"), "", "")
        return table

    def _add(self, table: Table, shown: Shown, now: float) -> None:
        from rich.text import Text

        stage = shown.stage
        table.add_row(
            "", Text(_place(stage), style="bold"), Text(_count(shown)), Text(human_duration(now - stage.began))
        )
        for row in shown.rows:
            mark = Text(self._mark(row.event.status), style=_MARKS[row.event.status][2])
            spent = Text(self._spent(row, now), style="dim")
            table.add_row(mark, Text(row.event.subject), Text(row.event.message, style="dim"), spent)

    def _spent(self, row: Row, now: float) -> str:
        spent = human_duration(row.spent(now))
        last = self._timings.last(row.event) if row.running else None
        if last is None or now - row.step_began < _SLOW_SECONDS:
            return spent
        return f"{human_duration(now - row.step_began)} (was {human_duration(last)})"


def _place(stage: Stage) -> str:
    return f"{stage.phase:<9} {stage.cluster}".rstrip()


def _count(shown: Shown) -> str:
    """What of the stage does not fit on the screen; running rows are never passed over in silence."""
    words = []
    if shown.hidden_running:
        words.append(f"and {shown.hidden_running} more running")
    if shown.hidden_ended:
        words.append(f"{shown.hidden_ended} more done" if words else f"and {shown.hidden_ended} more done")
    return ", ".join(words)
