"""Progress for people: a live table on a terminal, plain lines elsewhere, and a log file in both cases."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.cli.output import is_terminal, say
from emulator.core.progress import Event, Reporter, Status, shown
from emulator.core.units import human_duration, printable

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger("hyperscaler")
log.addHandler(logging.NullHandler())  # without a run log, records go nowhere instead of to Python's last resort

_DETAIL_SECONDS = 15.0
_INDENT = "\n    "
_MARKS = {
    Status.STARTED: ("…", "cyan"),
    Status.RUNNING: ("…", "cyan"),
    Status.DONE: ("✓", "green"),
    Status.FAILED: ("✗", "red"),
    Status.SKIPPED: ("-", "dim"),
}


class PlainReporter:
    """One line per step: start and end, with the time since the run began. For logs and unattended runs.

    Of a step that tells its details line by line ("install packages: Get:1 ..."), one in `_DETAIL_SECONDS` is shown.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], tuple[str, float]] = {}

    def event(self, event: Event) -> None:
        event = shown(event)
        log.info("%s %s %s: %s", event.phase, event.subject, event.status.value, event.message)
        key, (step, _, detail) = (event.phase, event.subject), event.message.partition(": ")
        now = time.monotonic()
        if event.status is Status.RUNNING:
            last_step, last_shown = self._last.get(key, ("", 0.0))
            if last_step == step and (not detail or now - last_shown < _DETAIL_SECONDS):
                return
        self._last[key] = (step, now)
        spent = f" ({human_duration(event.seconds)})" if event.status is Status.DONE and event.seconds else ""
        mark = {Status.DONE: "ok ", Status.FAILED: "FAILED "}.get(event.status, "")
        self._line(f"{event.phase:<9} {event.subject}: {mark}{event.message}{spent}")

    def note(self, message: str) -> None:
        message = printable(message)
        log.info("%s", message)
        self._line(message)

    def warn(self, message: str) -> None:
        message = printable(message)
        log.warning("%s", message)
        self._line(f"warning: {message}")

    def _line(self, text: str) -> None:
        with self._lock:
            clock = time.monotonic() - self._started
            # Further lines are set in, so that none of them passes for a line of ours.
            say(f"[{clock:7.1f}s] {text.replace(chr(10), _INDENT)}", err=True)


class QuietReporter:
    """Warnings only, without a clock: for commands that are over at once."""

    def event(self, event: Event) -> None:
        event = shown(event)
        log.info("%s %s %s: %s", event.phase, event.subject, event.status.value, event.message)

    def note(self, message: str) -> None:
        log.info("%s", printable(message))

    def warn(self, message: str) -> None:
        message = printable(message)
        log.warning("%s", message)
        say(f"warning: {message}", err=True)


class LiveReporter:
    """A table with one row per node or resource of the present phase; finished phases shrink to one line."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._console = Console(stderr=True)
        self._rows: dict[str, tuple[Event, float]] = {}
        self._phase = ""
        self._phase_started = self._started
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8, transient=True)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        with self._lock:
            self._finish_phase()
        self._live.stop()

    def pause(self) -> None:
        """Leave the screen to a question."""
        self._live.stop()

    def event(self, event: Event) -> None:
        event = shown(event)
        log.info("%s %s %s: %s", event.phase, event.subject, event.status.value, event.message)
        with self._lock:
            if event.phase != self._phase:
                self._finish_phase()
                self._phase, self._phase_started = event.phase, time.monotonic()
            began = self._rows[event.subject][1] if event.subject in self._rows else time.monotonic()
            self._rows[event.subject] = (event, began)

    def note(self, message: str) -> None:
        message = printable(message)
        log.info("%s", message)
        self._console.print(message, markup=False, highlight=False)

    def warn(self, message: str) -> None:
        message = printable(message)
        log.warning("%s", message)
        self._console.print(f"[yellow]warning:[/yellow] {_escape(message)}", highlight=False)

    def _finish_phase(self) -> None:
        if not self._rows:
            return
        spent = time.monotonic() - self._phase_started
        failed = [row for row, _ in self._rows.values() if row.status is Status.FAILED]
        for row in failed:
            text = f"{row.phase} {row.subject}: {row.message}"
            self._console.print(f"[red]✗[/red] {_escape(text)}", highlight=False)
        if not failed:
            count = len(self._rows)
            only = next(iter(self._rows.values()))[0]
            what = only.message if count == 1 else f"{count} done"
            self._console.print(
                f"[green]✓[/green] {self._phase:<9} {_escape(what)} [dim]{human_duration(spent)}[/dim]",
                highlight=False,
            )
        self._rows = {}

    def _render(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        with self._lock:
            now = time.monotonic()
            title = f"{self._phase} · {human_duration(now - self._started)}" if self._phase else ""
            table.add_row("", Text(title, style="bold"), "", "")
            rows = list(self._rows.values())
            busy = [row for row in rows if row[0].status in (Status.STARTED, Status.RUNNING)]
            height = max(4, self._console.size.height - 4)
            shown = rows if len(rows) <= height else busy[:height]
            for event, began in shown:
                mark, style = _MARKS[event.status]
                ended = event.status in (Status.DONE, Status.FAILED)
                spent = event.seconds if ended and event.seconds else now - began
                table.add_row(
                    Text(mark, style=style),
                    Text(event.subject),
                    Text(event.message[:100], style="dim"),
                    Text(human_duration(spent), style="dim"),
                )
            if len(shown) < len(rows):
                table.add_row("", Text(f"and {len(rows) - len(shown)} more", style="dim"), "", "")
        return table


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def reporting(*, live: bool) -> Iterator[Reporter]:
    """A reporter that suits where stderr goes; the live one is taken off the screen at the end."""
    if not (live and is_terminal(sys.stderr)):
        yield PlainReporter()
        return
    reporter = LiveReporter()
    reporter.start()
    try:
        yield reporter
    finally:
        reporter.stop()


@contextmanager
def run_log(directory: Path, command: str) -> Iterator[None]:
    """Everything logged inside goes to `<directory>/<time>-<command>.log` (0600), if the lab's directory exists.

    The directory appears while a first provision runs, so the file is opened at the first record after that.
    """
    handler = _LateFileHandler(directory / f"{time.strftime('%Y%m%dT%H%M%S')}-{command}.log")
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(threadName)s %(message)s"))
    log.addHandler(handler)
    previous = log.level
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(previous)
        handler.close()


class _PrintableFormatter(logging.Formatter):
    """Makes every record safe to read on a terminal, since commands and guests choose its text. Further lines are set
    in: each line that is not begins a record."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record)).replace("\n", _INDENT)


class _LogFile(logging.FileHandler):
    """A log file whose failures are told in a line, where `logging` would print a traceback for each record."""

    def __init__(self, path: Path, tell: Callable[[BaseException], None]) -> None:
        super().__init__(path, encoding="utf-8")
        self._tell = tell

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        del record
        self._tell(sys.exc_info()[1] or OSError("not known"))


class _LateFileHandler(logging.Handler):
    """Keeps records until the log directory exists, then writes them and all later ones."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._early: list[logging.LogRecord] = []
        self._file: logging.FileHandler | None = None
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except OSError as error:
            self._tell(error)

    def _emit(self, record: logging.LogRecord) -> None:
        if self._file is None and self._path.parent.is_dir():
            self._path.touch(mode=0o600)
            self._file = _LogFile(self._path, self._tell)
            self._file.setFormatter(self.formatter)
            for early in self._early:
                self._file.emit(early)
            self._early.clear()
        if self._file is None:
            self._early.append(record)
        elif self._path.parent.is_dir():
            self._file.emit(record)

    def _tell(self, error: BaseException) -> None:
        """Once: a full disk is no reason to stop, nor to fill the screen."""
        if not self._told:
            self._told = True
            why = error.strerror if isinstance(error, OSError) else str(error)
            say(f"warning: {self._path} cannot be written: {why}; the log has gaps", err=True)

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:  # what was not written yet is written now
                self._tell(error)
        super().close()
