"""A guest that prints without end: a process that writes to a console log as QEMU does stands for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator.core.console_log import marked_lines
from emulator.core.ports.guest_accounts import RESERVED
from emulator.services.console_limits import ConsoleLimits

MIB = 1 << 20
LIMIT, KEPT = MIB, 64 * 1024
KEY = "hyperscaler-host-key: ssh-ed25519 AAAA\n"

# Some five times what an emulated serial port carries. Lines without end and control characters, as an attacker would.
FILLER = """
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
while True:
    os.write(log, b"\\x1b[2J" + b"A" * 65532)
    time.sleep(0.005)
"""


@contextmanager
def filled(log: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", FILLER, log])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_console_stays_bounded_however_much_is_printed(tmp_path: Path) -> None:
    log = tmp_path / "hpc-compute-1.log"
    log.write_text(KEY)
    limits = ConsoleLimits(tmp_path, limit=LIMIT, kept=KEPT)
    sizes, cuts = [], 0
    with filled(log):
        while cuts < 8:
            before = limits.removed
            time.sleep(limits.look())
            cuts += limits.removed > before
            sizes.append(log.stat().st_size)
    assert limits.removed > 8 * (LIMIT - KEPT)
    # It is looked at when it is about half full, so that most looks find little; a busy host may be late now and then.
    assert sorted(sizes)[len(sizes) // 2] < 3 * LIMIT
    limits.look()
    assert log.stat().st_size <= LIMIT
    assert marked_lines(log) == KEY, "the node is still known by its key"
    assert b"\0" not in log.read_bytes(), "the writer left no hole"


@pytest.mark.parametrize("planted", ["soft", "hard"])
def test_a_planted_name_does_not_cost_another_file(tmp_path: Path, planted: str) -> None:
    """The directory is root's; if it were not, a guest's QEMU could have another file cut."""
    precious, console = tmp_path / "journal.jsonl", tmp_path / "console"
    precious.write_bytes(b"x" * 2 * LIMIT)
    console.mkdir()
    name = console / "hpc-compute-1.log"
    name.symlink_to(precious) if planted == "soft" else name.hardlink_to(precious)
    ConsoleLimits(console, limit=LIMIT, kept=KEPT).look()
    assert precious.stat().st_size == 2 * LIMIT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_guest_that_gives_its_log_another_name_is_bounded_all_the_same(tmp_path: Path) -> None:
    """One that broke out of QEMU owns the log: it may make names of it wherever it can write."""
    (tmp_path / "console").mkdir()
    log = tmp_path / "console" / "node.log"
    log.write_bytes(b"x" * 5000)
    os.chown(log, RESERVED[0][0], RESERVED[0][0])
    os.link(log, tmp_path / "elsewhere")
    ConsoleLimits(tmp_path / "console", limit=1000, kept=100).look()
    assert log.stat().st_size < 300
