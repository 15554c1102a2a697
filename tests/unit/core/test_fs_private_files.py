"""Files that nobody else may read: whole or not there; a directory that is not ours is left alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from emulator.apply.gpu_ownership import GpuLedger
from emulator.core.errors import StateError
from emulator.core.fs import write_private, write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory such as /tmp."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def test_a_shared_directory_stays_open(shared: Path) -> None:
    (shared / "kc").write_text("old, and readable by all")
    write_whole(shared / "kc", b"secret")
    assert (shared / "kc").read_bytes() == b"secret"
    assert (mode(shared / "kc"), mode(shared)) == (0o600, 0o1777)
    assert [path.name for path in shared.iterdir()] == ["kc"]


def test_a_directory_of_our_own_is_made_and_closed(shared: Path) -> None:
    write_private(shared / "lab" / "key", b"secret")
    assert (mode(shared / "lab" / "key"), mode(shared / "lab"), mode(shared)) == (0o600, 0o700, 0o1777)


def test_the_ledger_does_not_close_the_home_around_it(shared: Path) -> None:
    ledger = GpuLedger(shared / "gpu-owners.json", boot_id=lambda: "boot")
    ledger.claim("0000:41:00.0", "demo")
    assert ledger.of("demo") == ("0000:41:00.0",)
    assert (mode(shared / "gpu-owners.json"), mode(shared)) == (0o600, 0o1777)


def test_a_planted_link_is_not_written_through(shared: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("not ours")
    (shared / ".kc.new").symlink_to(other)
    (shared / "kc").symlink_to(other)
    write_whole(shared / "kc", b"secret")
    assert other.read_text() == "not ours"
    assert not (shared / "kc").is_symlink()


def test_without_a_directory_nothing_is_made(shared: Path) -> None:
    with pytest.raises(StateError, match="cannot be written: No such file or directory"):
        write_whole(shared / "missing" / "kc", b"secret")
    assert list(shared.iterdir()) == []
