"""Requests to guests that nobody can hold up: a guest that does not answer keeps only its own waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from emulator.core.errors import HyperscalerError

T = TypeVar("T")
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


class Question(Generic[T]):
    """A question that is asked again and again, of one who may not answer. It is not asked again before it is answered,
    and a late answer counts for the next time.

    Args:
        ask: asks it; may raise `HyperscalerError`.
        patience: seconds to wait for the answer each time.
    """

    def __init__(self, ask: Callable[[], T], patience: float = _PATIENCE) -> None:
        self._ask, self._patience = ask, patience
        self._thread: threading.Thread | None = None
        self._answer: T | HyperscalerError | None = None

    def answer(self) -> T:
        """The answer.

        Raises:
            HyperscalerError: there is none, or not yet.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._thread.join(self._patience)
        if self._thread.is_alive():
            raise HyperscalerError(f"no answer after {self._patience:g} s")
        self._thread = None
        if isinstance(self._answer, HyperscalerError):
            raise self._answer
        assert self._answer is not None  # noqa: S101  the thread has ended, and left one
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except HyperscalerError as error:
            self._answer = error


_NO_ANSWER = "no answer yet"


def _attempt(name: str, request: Callable[[], object], failed: dict[str, str]) -> None:
    try:
        request()
    except HyperscalerError as error:
        failed[name] = "".join(error.what.splitlines()[:1])
