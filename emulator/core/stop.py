"""Stop requests: after the first Ctrl-C, running effects finish and no new one starts."""

from __future__ import annotations

import threading


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM: running effects finish, no new one starts."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`; returns True as soon as a stop is requested."""
        return self._event.wait(seconds)
