from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.core.errors import StateError
from emulator.supervisor.in_place import SIZE, read_in_place, read_own, write_in_place


def test_what_is_written_is_read_and_the_file_never_grows(tmp_path: Path) -> None:
    file = tmp_path / "status"
    for number in range(3):
        assert write_in_place(file, {"number": number, "words": "x" * (5000 - 2000 * number)})
        assert read_in_place(file)["number"] == number
        assert file.stat().st_size == SIZE
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_does_not_fit_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "status"
    write_in_place(file, {"a": 1})
    assert not write_in_place(file, {"a": "x" * SIZE})
    assert read_in_place(file) == {"a": 1}


@pytest.mark.parametrize(
    "content", [b"", b"zz", b"00000000 {}", b"\xff" * 100, b"0" * SIZE, b"a3830348 1", b"[" * 50000]
)
def test_what_cannot_be_believed_is_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "status"
    file.write_bytes(content)
    file.chmod(0o600)
    assert read_in_place(file) == {}


def test_half_a_write_is_nothing(tmp_path: Path) -> None:
    file = tmp_path / "status"
    write_in_place(file, {"state": "running" * 100})
    whole = file.read_bytes()
    write_in_place(file, {"state": "ended" * 100})
    file.write_bytes(whole[:300] + file.read_bytes()[300:])
    assert read_in_place(file) == {}


def test_files_of_others_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "status"
    write_in_place(file, {"pid": 1})
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "two names").touch(0o600)
    os.link(tmp_path / "two names", tmp_path / "other name")
    assert read_own(tmp_path / "other name", limit=10) is None
    assert read_own(tmp_path / "link", limit=10) is None
    assert read_own(tmp_path / "pipe", limit=10) is None
    assert read_own(tmp_path / "absent", limit=10) is None
    file.chmod(0o620)
    assert read_in_place(file) == {}
    if os.geteuid() == 0:
        file.chmod(0o600)
        os.chown(file, 12345, 12345)
        assert read_in_place(file) == {}


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("data")
    (tmp_path / "status").symlink_to(target)
    with pytest.raises(StateError, match="symbolic link"):
        write_in_place(tmp_path / "status", {})
    assert target.read_text() == "data"
