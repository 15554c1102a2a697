"""Files of the host under the editor: exact copies back, and hands off what is no ordinary file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.system.host_edits import HostEdits
from emulator.core.errors import ConflictError, StateError
from emulator.core.ports.files import FileLook


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def edits(root: Path) -> HostEdits:
    return HostEdits(root, root.parent / "private" / "backups")


def test_a_file_comes_back_with_mode_and_time(root: Path, edits: HostEdits) -> None:
    file = root / "etc" / "conf"
    file.write_bytes(b"caf\xe9\n")
    file.chmod(0o604)
    os.utime(file, ns=(1_000_000_007, 1_000_000_007))
    look = edits.look("/etc/conf")
    edits.back_up("/etc/conf", look)
    edits.write("/etc/conf", "other\n", mode=0o600)
    assert edits.look("/etc/conf") != look
    edits.put_back("/etc/conf", look)
    assert file.read_bytes() == b"caf\xe9\n"
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime_ns) == (0o604, 1_000_000_007)
    assert edits.look("/etc/conf") == look


def test_absence_comes_back_and_the_directories_made_for_it_go(root: Path, edits: HostEdits) -> None:
    look = edits.look("/etc/a/b/conf")
    assert look == FileLook(None)
    made = edits.missing_parents("/etc/a/b/conf")
    assert made == ("/etc/a", "/etc/a/b")
    edits.write("/etc/a/b/conf", "x\n")
    assert (root / "etc/a/b").stat().st_mode & 0o777 == 0o755
    edits.put_back("/etc/a/b/conf", look)
    for directory in reversed(made):
        edits.remove_directory(directory)
    assert list((root / "etc").iterdir()) == []


def test_a_directory_that_others_use_stays(root: Path, edits: HostEdits) -> None:
    edits.write("/etc/a/conf", "x\n")
    (root / "etc/a/theirs").write_text("")
    edits.put_back("/etc/a/conf", FileLook(None))
    edits.remove_directory("/etc/a")
    assert (root / "etc/a/theirs").exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "pipe", "link on the way"])
def test_what_is_no_ordinary_file_is_refused(root: Path, edits: HostEdits, kind: str) -> None:
    path = root / "etc" / "conf"
    asked = "/etc/conf"
    if kind == "link":
        (root / "etc" / "real").write_text("x")
        path.symlink_to("real")
    elif kind == "dangling":
        path.symlink_to("nothing")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(root.parent)
        asked = "/etc/conf/inside"
    with pytest.raises(ConflictError):
        edits.look(asked)


def test_a_damaged_copy_is_not_put_back(root: Path, edits: HostEdits) -> None:
    (root / "etc" / "conf").write_text("precious\n")
    look = edits.look("/etc/conf")
    edits.back_up("/etc/conf", look)
    copy = root.parent / "private" / "backups" / str(look.digest)
    copy.write_text("damaged\n")
    edits.write("/etc/conf", "other\n")
    with pytest.raises(StateError, match="its copy is damaged"):
        edits.put_back("/etc/conf", look)
    copy.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        edits.put_back("/etc/conf", look)
    assert (root / "etc" / "conf").read_text() == "other\n"
