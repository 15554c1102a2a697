"""The log of a run: one file in the directory of the lab, with everything that the program logs."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from emulator.cli.output import say
from emulator.cli.render.progress import INDENT
from emulator.core.errors import StateError
from emulator.core.ports import log
from emulator.core.trust.opening import open_own
from emulator.core.units import printable


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
        return printable(super().format(record)).replace("\n", INDENT)


class _LogFile(logging.FileHandler):
    """A log file whose failures are reported in one line, where `logging` would print a traceback for each record."""

    def __init__(self, path: Path, report: Callable[[BaseException], None]) -> None:
        self._report = report
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        descriptor = open_own(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(descriptor, "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        del record
        self._report(sys.exc_info()[1] or OSError("not known"))


class _LateFileHandler(logging.Handler):
    """Keeps records until the log directory exists, then writes them and all later ones."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._early: list[logging.LogRecord] = []
        self._file: logging.FileHandler | None = None
        self._reported = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except (OSError, StateError) as error:
            self._report(error)

    def _emit(self, record: logging.LogRecord) -> None:
        if self._file is None and self._path.parent.is_dir():
            self._file = _LogFile(self._path, self._report)
            self._file.setFormatter(self.formatter)
            for early in self._early:
                self._file.emit(early)
            self._early.clear()
        if self._file is None:
            self._early.append(record)
        elif self._path.parent.is_dir():
            self._file.emit(record)

    def _report(self, error: BaseException) -> None:
        """Once: a full disk is no reason to stop, nor to fill the screen."""
        if not self._reported:
            self._reported = True
            why = error.strerror if isinstance(error, OSError) else str(error)
            say(f"warning: {self._path} cannot be written: {why}; the log has gaps", err=True)

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:  # what was not written yet is written now
                self._report(error)
        super().close()
