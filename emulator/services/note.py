"""What a service says of itself, for `status` and for its next start; and when it is to end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.core.errors import StateError
from emulator.supervisor.in_place import read_in_place, write_in_place


class Note:
    """The note of the service that this process is, by what the supervisor gave it in the environment."""

    def __init__(self) -> None:
        self._path = Path(os.environ["HYPERSCALER_NOTE"])
        self._start = os.environ["HYPERSCALER_START"]
        self._said: Mapping[str, Any] = {}
        self._logged = ""

    def before(self) -> Mapping[str, Any]:
        """What its last start had to remember; empty at the first one."""
        data = read_in_place(self._path).get("data")
        return data if isinstance(data, dict) else {}

    def say(self, text: str, data: Mapping[str, Any] | None = None) -> None:
        """Say how it is; the first time means that it is ready. Changes go to the log, too.

        What cannot be written, because the disk was full from the start, is written by the next call.
        """
        said = {"start": self._start, "text": text, "data": dict(data or {})}
        if said == self._said:
            return
        if text != self._logged:
            os.write(1, f"{text}\n".encode())  # to its log, which no terminal shows unchanged
            self._logged = text
        with contextlib.suppress(OSError, StateError):
            if write_in_place(self._path, said):
                self._said = said


def stop_asked() -> threading.Event:
    """An event that is set when the supervisor asks this service to end.

    A handler is needed in any case: the first process of a process namespace ignores signals without one.
    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked.set())
    return asked
