"""Requests to guests that nobody can hold up: a guest that does not answer keeps only its own waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from emulator.core.errors import HyperscalerError

MOST = 4
"""Requests that wait at a time. libvirtd answers five of one client's (max_client_requests), and one is for looking."""
_PATIENCE = 5.0


class Requests:
    """Requests by the name of a guest, each in a thread of its own.

    QEMU itself answers what libvirt asks it, without a time limit: a guest that broke out of it need not.

    Args:
        patience: seconds for all requests of one call to `make`.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._threads: dict[str, threading.Thread] = {}

    @property
    def waiting(self) -> frozenset[str]:
        """Guests of which a request is not answered yet."""
        return frozenset(name for name, thread in self._threads.items() if thread.is_alive())

    def make(self, wanted: Mapping[str, Callable[[], object]]) -> dict[str, str]:
        """Make the requests, except for guests of which one waits already; why some were not met, in words."""
        failed: dict[str, str] = {}
        started: list[str] = []
        for name, request in wanted.items():
            waiting = self.waiting
            if name in waiting or len(waiting) >= MOST:
                failed[name] = _NO_ANSWER if name in waiting else "others do not answer"
                continue
            self._threads[name] = threading.Thread(target=_attempt, args=(name, request, failed), daemon=True)
            self._threads[name].start()
            started.append(name)
        deadline = time.monotonic() + self._patience
        for name in started:
            self._threads[name].join(max(deadline - time.monotonic(), 0.0))
            if self._threads[name].is_alive():
                failed[name] = _NO_ANSWER
            else:
                del self._threads[name]
        return failed.copy()


_NO_ANSWER = "no answer yet"


def _attempt(name: str, request: Callable[[], object], failed: dict[str, str]) -> None:
    try:
        request()
    except HyperscalerError as error:
        failed[name] = "".join(error.what.splitlines()[:1])
