"""Starting a process so that a signal cannot part it from the program that started it."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future

_PATIENCE = 10.0
"""Seconds for a start that was interrupted to be over; the fork is on its way by then."""


class Starting:
    """A process that is started once, and known from the first moment on.

    Handlers of signals run in the main thread, between any two of its instructions. One that raises in the middle of
    `Popen`, or before its result has a name, would leave a process behind that nobody ends. So the main thread lets
    another one start it; other threads, which no handler interrupts, do it themselves.

    Args:
        start: starts the process.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._found: Future[subprocess.Popen[bytes]] = Future()
        self._begun = False

    def process(self) -> subprocess.Popen[bytes]:
        """Start it; raises what the start raises. Call it where what follows calls `found` if anything is raised."""
        self._begun = True
        if threading.current_thread() is threading.main_thread():
            threading.Thread(target=self._run, name="start", daemon=True).start()
        else:
            self._run()
        return self._found.result()

    def found(self) -> subprocess.Popen[bytes] | None:
        """The process, if there is one, also when its start was interrupted."""
        if self._begun:
            with contextlib.suppress(Exception):  # the start failed, which `process` has raised
                return self._found.result(_PATIENCE)
        return None

    def _run(self) -> None:
        try:
            self._found.set_result(self._start())
        except BaseException as error:  # noqa: BLE001  it is raised where the process is asked for
            self._found.set_exception(error)
