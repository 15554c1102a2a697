"""What is taken off a node that starts over, and what is never touched."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.playbook_modules import kubeadm_reset


def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *paths: str) -> Path:
    table = tmp_path / "mounts"
    table.write_text("".join(f"tmpfs {path} tmpfs rw 0 0\n" for path in ("/", *paths)))
    monkeypatch.setattr(kubeadm_reset, "MOUNTS", str(table))
    return table


def test_mounts_with_blanks_in_their_names_are_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(tmp_path, monkeypatch, "/k/pods/a", r"/k/pods/a/my\040data\134x")
    assert kubeadm_reset.mounts_below("/k") == ["/k/pods/a/my data\\x", "/k/pods/a"]


def test_nothing_is_removed_below_what_stays_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(tmp_path, monkeypatch, "/var/lib/kubelet/pods/a")
    asked: list[list[str]] = []

    def run(argv: list[str], timeout: int, **_: Any) -> Any:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 32, "", "target is busy")

    removed: list[str] = []
    monkeypatch.setattr(kubeadm_reset, "run", run)
    monkeypatch.setattr(kubeadm_reset.shutil, "rmtree", lambda path, **_: removed.append(path))
    monkeypatch.setattr(kubeadm_reset.os, "unlink", lambda path: removed.append(path))
    with pytest.raises(kubeadm_reset.NodeError, match=r"still mounted.*/var/lib/kubelet/pods/a"):
        kubeadm_reset.reset()
    assert removed == []
    assert ["umount", "--lazy", "/var/lib/kubelet/pods/a"] in asked
