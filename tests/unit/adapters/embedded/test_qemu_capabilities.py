"""What is kept of libvirt's cache between labs, and what never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities

NAME, OTHER = f"{'a' * 64}.xml", f"{'b' * 64}.xml"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A libvirtd's cache directory with one entry."""
    entries(tmp_path / "cache").mkdir(parents=True)
    (entries(tmp_path / "cache") / NAME).write_text("<qemuCaps/>")
    return tmp_path / "cache"


def entries(cache: Path) -> Path:
    return cache / "qemu" / "capabilities"


def test_the_next_libvirtd_gets_what_the_last_one_found(shared: Path, cache: Path, tmp_path: Path) -> None:
    QemuCapabilities(shared).keep(cache)
    QemuCapabilities(shared).give(tmp_path / "next")
    assert (entries(tmp_path / "next") / NAME).read_text() == "<qemuCaps/>"
    assert shared.stat().st_mode & 0o777 == 0o700


def test_a_newer_entry_takes_the_place_of_an_older_one(shared: Path, cache: Path) -> None:
    QemuCapabilities(shared).keep(cache)
    (entries(cache) / NAME).write_text("<qemuCaps>new</qemuCaps>")
    QemuCapabilities(shared).keep(cache)
    assert [(path.name, path.read_text()) for path in shared.iterdir()] == [(NAME, "<qemuCaps>new</qemuCaps>")]


def test_only_files_of_libvirts_own_names_are_taken(shared: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (entries(cache) / OTHER).symlink_to(tmp_path / "secret")
    (entries(cache) / "notes.txt").write_text("x")
    (entries(cache) / f"{'c' * 64}.xml").write_text("")
    (entries(cache) / f"{'d' * 64}.xml").mkdir()
    os.mkfifo(entries(cache) / f"{'e' * 64}.xml")
    QemuCapabilities(shared).keep(cache)
    assert [path.name for path in shared.iterdir()] == [NAME]


def test_a_link_in_its_place_is_replaced_and_not_followed(shared: Path, cache: Path, tmp_path: Path) -> None:
    shared.mkdir()
    (tmp_path / "victim").write_text("mine")
    (shared / NAME).symlink_to(tmp_path / "victim")
    QemuCapabilities(shared).keep(cache)
    assert (tmp_path / "victim").read_text() == "mine"
    assert (shared / NAME).read_text() == "<qemuCaps/>"


@pytest.mark.parametrize("what", ["missing", "a file"])
def test_nothing_known_is_nothing_given(shared: Path, tmp_path: Path, what: str) -> None:
    if what == "a file":
        shared.write_text("in the way")
    QemuCapabilities(shared).give(tmp_path / "next")
    QemuCapabilities(shared).keep(tmp_path / "next")
    assert not (tmp_path / "next").exists()


def test_no_room_costs_time_only(shared: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_source: object, _target: object, **_directories: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    QemuCapabilities(shared).keep(cache)
    assert list(shared.iterdir()) == []
