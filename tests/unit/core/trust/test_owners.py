"""What another account could swap is neither written to nor believed. Other accounts are only there for root."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from emulator.core.errors import ConflictError
from emulator.core.trust.owners import make_own_empty_directory, require_own
from emulator.images.packer.files import prepare_directory

SOMEBODY = 12345

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")


@needs_root
def test_an_empty_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / "build"
    planted.mkdir(mode=0o755)
    os.chown(planted, SOMEBODY, -1)
    with pytest.raises(ConflictError, match=f"belongs to another user \\(uid {SOMEBODY}\\)") as told:
        prepare_directory(planted)
    assert "name a new directory" in told.value.fix
    assert list(planted.iterdir()) == []
    assert stat.S_IMODE(planted.stat().st_mode) == 0o755


@needs_root
def test_a_directory_below_one_of_somebody_else_is_refused_and_not_made(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, SOMEBODY, -1)
    with pytest.raises(ConflictError, match="belongs to another user"):
        prepare_directory(theirs / "new" / "build")
    assert list(theirs.iterdir()) == []


def test_a_directory_in_a_place_that_all_can_write_to(tmp_path: Path) -> None:
    """It is taken in one like /var/tmp, where nobody renames what is another's, and in no other."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConflictError, match="others can write to this directory") as told:
        prepare_directory(shared / "build")
    assert told.value.where == str(shared)
    shared.chmod(0o1777)
    assert stat.S_IMODE(prepare_directory(shared / "build").stat().st_mode) == 0o700


@needs_root
def test_a_link_on_the_way(tmp_path: Path) -> None:
    """One's own may lead to a place that is safe too; somebody else's may not, wherever it leads."""
    safe, shared = tmp_path / "safe", tmp_path / "shared"
    for directory in (safe, shared):
        directory.mkdir()
    mine = tmp_path / "link"
    mine.symlink_to("safe")
    assert prepare_directory(mine / "build") == mine / "build"
    shared.chmod(0o777)
    onwards = tmp_path / "onwards"
    onwards.symlink_to(shared)
    with pytest.raises(ConflictError, match="others can write"):
        prepare_directory(onwards / "build")
    os.chown(mine, SOMEBODY, -1, follow_symlinks=False)
    with pytest.raises(ConflictError, match="belongs to another user"):
        prepare_directory(mine / "other")
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(OSError, match="Too many levels"):
        prepare_directory(circle / "build")


def test_what_is_put_in_before_the_directory_is_closed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "build"
    directory.mkdir()
    close = Path.chmod

    def late(path: Path, mode: int) -> None:
        (path / "http").mkdir()
        close(path, mode)

    monkeypatch.setattr(Path, "chmod", late)
    with pytest.raises(ConflictError, match="not an empty directory"):
        make_own_empty_directory(directory)


@needs_root
@pytest.mark.parametrize("links", [(), ("one",), ("one", "two")])
def test_a_file_is_believed_if_nobody_else_can_change_it(tmp_path: Path, links: Sequence[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    path = file
    for name in links:
        (tmp_path / name).symlink_to(path.name)
        path = tmp_path / name
    require_own(path, fix="")
    file.chmod(0o664)
    with pytest.raises(ConflictError, match="others can write"):
        require_own(path, fix="")
    file.chmod(0o644)
    os.chown(file, SOMEBODY, -1)
    with pytest.raises(ConflictError, match="belongs to another user"):
        require_own(path, fix="")
