"""Threads that work side by side: every pool of the product is started here, so that tests can order its work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor


def threads(most: int, name: str) -> Executor:
    """A pool of at most `most` threads (at least one), which bear `name`; to be used with `with`."""
    return start(max(1, most), name)


def _start(most: int, name: str) -> Executor:
    return ThreadPoolExecutor(max_workers=most, thread_name_prefix=name)


start: Callable[[int, str], Executor] = _start
"""How a pool is started. A test that needs the same order in every run puts another function in its place."""
