"""A lab file that changes while it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.lab.lab_files import load_lab_file
from emulator.labfile import load
from emulator.labfile.read.read_file import read_lab_file

DEMO = (share_dir() / "config" / "demo.yaml").read_bytes()


def test_what_was_checked_is_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of the file exchanges it right after it was read; root provisions, and keeps, what was checked."""
    file, reads = tmp_path / "cluster.yaml", []
    file.write_bytes(DEMO)
    really = read_lab_file

    def exchanged(path: Path) -> object:
        reads.append(path)
        found = really(path)
        path.write_bytes(DEMO.replace(b"name: demo", b"name: evil"))
        return found

    monkeypatch.setattr(load, "read_lab_file", exchanged)
    loaded = load_lab_file(file)
    assert loaded.spec.name == "demo"
    assert loaded.source == DEMO
    assert reads == [file]


def test_a_byte_order_mark_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + DEMO)
    assert load_lab_file(file).source == DEMO


def test_of_a_file_with_errors_nothing_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("version: 7\n")
    assert load_lab_file(file).source == b""
