"""Control groups as files in a directory: which are made and what is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.control_groups.services import ServiceGroups
from emulator.core.ports.services import ServiceRequest
from tests.support.fake_cgroups import FakeCgroups

UNIT = "system.slice/x.service"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCgroups:
    """The host's tree, with a unit that systemd has delegated to this process."""
    kernel = FakeCgroups(tmp_path / "cgroup", monkeypatch, me=os.getpid())
    for group in (kernel.root, kernel.root / "system.slice"):
        for controller in ("cpu", "memory", "pids"):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        if group == kernel.root:
            (group / "system.slice").mkdir()
    (kernel.root / UNIT).mkdir()
    kernel.enter(os.getpid(), kernel.root / UNIT)
    (tmp_path / "self").write_text(f"1:name=systemd:/elsewhere\n0::/{UNIT}\n")
    return kernel


def delegated(kernel: FakeCgroups) -> ServiceGroups | None:
    return ServiceGroups.delegated(kernel.root, kernel.root.parent / "self")


def test_the_supervisor_makes_room_and_passes_its_controllers_on(kernel: FakeCgroups) -> None:
    assert delegated(kernel) is not None
    assert kernel.of(os.getpid()) == f"/{UNIT}/supervisor"
    assert (kernel.root / UNIT / "cgroup.subtree_control").read_text() == "cpu memory pids"


def test_a_service_gets_its_limits(kernel: FakeCgroups) -> None:
    groups = delegated(kernel)
    assert groups is not None
    join = groups.make(ServiceRequest("web", "d", "/bin/web", memory_mib=64, processes=5, cpu_weight=20000))
    group = kernel.root / UNIT / "web"
    assert join == group / "cgroup.procs"
    written = {name: (group / name).read_text() for name in ("memory.max", "pids.max", "cpu.weight")}
    assert written == {"memory.max": str(64 << 20), "pids.max": "5", "cpu.weight": "10000"}
    groups.remove("web")
    assert not group.exists()


def test_everything_in_a_service_s_group_is_ended(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    ServiceGroups(tmp_path).kill("web")
    assert (tmp_path / "web" / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize("text", ["", "3:memory:/docker/x\n1:name=systemd:/x\n", "0::/gone\n"])
def test_without_version_2_or_a_group_of_its_own_there_are_none(kernel: FakeCgroups, text: str) -> None:
    (kernel.root.parent / "self").write_text(text)
    assert delegated(kernel) is None
