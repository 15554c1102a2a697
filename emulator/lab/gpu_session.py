"""The GPUs of one run."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from emulator.apply.handlers.gpu.host import GpuHost


class GpuSession:
    """The GPUs, opened when first asked for. A dry session only looks, until `allow_changes`.

    Handlers hold the session and call it, so that all of them see the same GPUs before and after.
    """

    def __init__(self, open_: Callable[[bool], GpuHost], *, dry: bool) -> None:
        """Args: open_: opens the GPUs; its argument says whether no trace may be left."""
        self._open, self._dry = open_, dry
        self._lock = Lock()
        self._host: GpuHost | None = None

    def __call__(self) -> GpuHost:
        with self._lock:  # two threads must not open the GPUs twice
            if self._host is None:
                self._host = self._open(self._dry)
            return self._host

    def allow_changes(self) -> None:
        """Open the GPUs anew for changes when they are next asked for; does nothing in a session that is not dry."""
        with self._lock:
            if self._dry:
                self._dry, self._host = False, None
