"""Files of a node that are complete or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.playbook_modules import whole_file


def test_it_is_complete_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kube-apiserver.yaml"
    file.write_text("old")
    rename = os.rename

    def look(temporary: str, path: str) -> None:
        assert file.read_text() == "old"
        assert Path(temporary).read_text() == "new"
        assert stat.S_IMODE(Path(temporary).stat().st_mode) == 0o640
        assert Path(temporary).name.startswith("."), "kubelet would start it as a pod"
        rename(temporary, path)

    monkeypatch.setattr(os, "rename", look)
    whole_file.write_whole(str(file), b"new", mode=0o640)
    assert file.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_only_its_owner_reads_it_if_nothing_else_is_said(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        whole_file.write_whole(str(tmp_path / "token"), b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["fsync", "fchown", "rename"])
def test_a_failure_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        whole_file.write_whole(str(file), b"new")
    assert file.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
