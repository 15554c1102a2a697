"""For all tests: random examples may take their time on a busy machine, and files of the tests stay in memory."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 1 << 30
"""The tests that need no host write about a quarter of it."""


def pytest_configure(config: pytest.Config) -> None:
    """Where labs are simulated, hundreds of thousands of small files are written and renamed, and a disk takes a
    millisecond or more for each. Tests on a real host keep to the disk: their images are large."""
    # To compile all tests and the program takes half of a run's start, and is done again by each program of a test.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    chosen = "not host" in config.option.markexpr
    if chosen and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # looked for anew


LONG = ("tests/crash/", "tests/property/", "tests/fuzz/")
"""Folders of tests that take long: begun at the end, one of them would be waited for by an idle processor."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish() -> None:
    """What was collected stays to the end: it is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A directory on a disk, for what a file system in memory does not have (attributes of users before Linux 6.6)."""
    with tempfile.TemporaryDirectory(prefix="hyperscaler-tests-", dir="/var/tmp") as name:
        yield Path(name)
