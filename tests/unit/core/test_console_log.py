from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.core.console_log import KEY_MARK, cut_log, marked_lines, read_tail

KEY = b"hyperscaler-host-key: ssh-ed25519 AAAA\n"


def test_a_short_log_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(KEY)
    before = log.stat()
    assert cut_log(log, limit=1000, kept=100) == 0
    assert (log.read_bytes(), log.stat().st_mtime_ns) == (KEY, before.st_mtime_ns)


def test_a_long_log_keeps_its_end_and_the_host_keys_and_says_what_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"boot\n" + KEY + b"x" * 50_000 + b"\nthe end\n")
    inode, gone = log.stat().st_ino, cut_log(log, limit=10_000, kept=1000)
    assert gone == 50_000 + len(b"boot\n" + KEY + b"\nthe end\n") - 1000
    assert log.stat().st_ino == inode, "its writer has it open"
    assert marked_lines(log) == KEY.decode()
    assert log.read_bytes().endswith(b"xxx\nthe end\n")
    assert f"{gone} bytes of this log were removed, the limit is 10000" in log.read_text()
    assert log.stat().st_size < 1300
    assert cut_log(log, limit=10_000, kept=1000) == 0


def test_the_writer_goes_on_at_the_new_end(tmp_path: Path) -> None:
    """As QEMU has it open: for appending."""
    log = tmp_path / "a.log"
    writer = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(writer, b"x" * 50_000)
    cut_log(log, limit=10_000, kept=1000)
    os.write(writer, b"more")
    os.close(writer)
    content = log.read_bytes()
    assert content.endswith(b"xmore") and b"\0" not in content


def test_a_guest_that_prints_keys_without_end_keeps_no_more_than_others(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes((KEY.strip() + b"y" * 100_000 + b"\n") * 100)
    cut_log(log, limit=10_000, kept=1000)
    assert log.stat().st_size < 32 * 4097 + 2000


def test_links_and_files_that_have_another_name_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * 5000)
    (tmp_path / "soft.log").symlink_to(precious)
    os.link(precious, tmp_path / "hard.log")
    os.mkfifo(tmp_path / "pipe.log")
    with pytest.raises(OSError, match="symbolic"):
        cut_log(tmp_path / "soft.log", limit=10, kept=1)
    assert cut_log(tmp_path / "hard.log", limit=10, kept=1) == 0
    assert cut_log(tmp_path / "pipe.log", limit=10, kept=1) == 0
    assert precious.read_bytes() == b"x" * 5000


def test_on_a_full_disk_the_bound_counts_more_than_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 5000)

    def full(_descriptor: int, _content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert cut_log(log, limit=1000, kept=100) == 4900
    assert log.stat().st_size == 0
    assert read_tail(log) == ""


def test_a_key_across_two_reads_is_found(tmp_path: Path) -> None:
    """A console is looked through in pieces of 1 MiB before it is taken apart by lines."""
    log = tmp_path / "a.log"
    for before in range((1 << 20) - len(KEY_MARK), (1 << 20) + 1):
        log.write_bytes(b"x" * (before - 1) + b"\n" + KEY)
        assert marked_lines(log) == KEY.decode(), before
