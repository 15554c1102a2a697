"""A hook around every call of a simulated adapter: it counts calls and can make them fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _nothing(name: str) -> None:
    del name


class CallHook:
    """Tests set `before` and `after`; an error that these raise reaches the caller as if the call had failed there.

    An error from `before` means that nothing was done; one from `after` means that the effect took place without the
    caller learning of it. These are the two halves of a crash.
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
