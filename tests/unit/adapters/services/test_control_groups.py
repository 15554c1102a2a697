"""Control groups as files in a directory: which are made and what is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.services.control_groups import ControlGroups
from emulator.core.ports.services import ServiceRequest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    unit = tmp_path / "cgroup" / "system.slice" / "x.service"
    unit.mkdir(parents=True)
    (unit / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "self").write_text("1:name=systemd:/elsewhere\n0::/system.slice/x.service\n")
    return tmp_path


def delegated(tree: Path) -> ControlGroups | None:
    return ControlGroups.delegated(tree / "cgroup", tree / "self")


def test_the_supervisor_makes_room_and_passes_its_controllers_on(tree: Path) -> None:
    assert delegated(tree) is not None
    unit = tree / "cgroup" / "system.slice" / "x.service"
    assert (unit / "supervisor" / "cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_a_service_gets_its_limits(tree: Path) -> None:
    groups = delegated(tree)
    assert groups is not None
    join = groups.make(ServiceRequest("web", "d", "/bin/web", memory_mib=64, processes=5, cpu_weight=20000))
    group = tree / "cgroup" / "system.slice" / "x.service" / "web"
    assert join == group / "cgroup.procs"
    written = {file.name: file.read_text() for file in group.iterdir()}
    assert written == {"memory.max": str(64 << 20), "pids.max": "5", "cpu.weight": "10000"}
    groups.kill("web")
    assert (group / "cgroup.kill").read_text() == "1"
    for file in group.iterdir():
        file.unlink()  # as the kernel does
    groups.remove("web")
    assert not group.exists()


@pytest.mark.parametrize("text", ["", "3:memory:/docker/x\n1:name=systemd:/x\n", "0::/gone\n"])
def test_without_version_2_or_a_group_of_its_own_there_are_none(tree: Path, text: str) -> None:
    (tree / "self").write_text(text)
    assert delegated(tree) is None
