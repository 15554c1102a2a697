"""The one hook through which every call of a simulated adapter goes: it counts, and it can be made to fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _nothing(name: str) -> None:
    del name


class CallHook:
    """Tests give `before` and `after`; what these raise reaches the caller as if the call had failed there.

    An error from `before` means that nothing was done, one from `after` that the effect took place and the
    caller never heard of it: the two halves of a crash.
    """

    def __init__(self, *, before: Callable[[str], None] = _nothing, after: Callable[[str], None] = _nothing) -> None:
        self.before = before
        self.after = after
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def before_call(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1
        self.before(name)

    def after_call(self, name: str) -> None:
        self.after(name)

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Wraps the body of a simulated call."""
        self.before_call(name)
        yield
        self.after_call(name)
