"""Asking work to stop: the first Ctrl-C ends what is under way and starts nothing new."""

from __future__ import annotations

import threading


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM: the effects under way end, nothing new begins."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`; True as soon as a stop is asked for."""
        return self._event.wait(seconds)
