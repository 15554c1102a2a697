"""How much a guest may use of the host, and that a host without the means for it is no failure."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from emulator.adapters.libvirt import hypervisor as module
from emulator.adapters.libvirt.errors import load_libvirt
from emulator.adapters.libvirt.guest_limits import (
    TASKS,
    GuestLimits,
    limit_by_libvirt,
    limit_tasks,
    limits_of,
    processes_of,
)
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.core.ports import DomainInfo, DomainState
from emulator.core.ports.guest_accounts import GuestAccount

libvirt = load_libvirt()
GUEST = GuestAccount(2113929217, 2113929216)
INFO = DomainInfo("demo-a", UUID(int=1), DomainState.SHUTOFF, None, vcpus=4, memory_mib=8192, account=GUEST.label)
LIMITS = GuestLimits(memory_mib=11264, tasks=2048, cpu_weight=400)


def test_the_limits_leave_room_for_qemu_itself() -> None:
    emulated = limits_of(INFO)
    accelerated = limits_of(replace(INFO, accelerated=True))
    assert emulated == GuestLimits(8192 + 512 + 2048, TASKS, 400)
    assert accelerated == GuestLimits(8192 + 512 + 1024, TASKS, 400)
    assert limits_of(replace(INFO, vcpus=0)).cpu_weight == 100
    assert limits_of(replace(INFO, vcpus=288)).cpu_weight == 10_000, "the kernel takes no more"


class Running:
    """A running domain; `refuses` is what its libvirt answers."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.refuses, self.set = refuses, list[tuple[dict[str, int], int]]()

    def setMemoryParameters(self, values: dict[str, int], flags: int) -> int:  # noqa: N802 - libvirt's name
        return self._set(values, flags)

    def setSchedulerParametersFlags(self, values: dict[str, int], flags: int) -> int:  # noqa: N802 - libvirt's name
        return self._set(values, flags)

    def setBlkioParameters(self, values: dict[str, int], flags: int) -> int:  # noqa: N802 - libvirt's name
        return self._set(values, flags)

    def _set(self, values: dict[str, int], flags: int) -> int:
        if self.refuses is not None:
            raise self.refuses
        self.set.append((values, flags))
        return 0


def test_libvirt_limits_a_running_domain_and_stores_nothing() -> None:
    domain, live = Running(), libvirt.VIR_DOMAIN_AFFECT_LIVE
    limit_by_libvirt(domain, LIMITS, where="domain demo-a")
    assert domain.set == [({"hard_limit": 11264 * 1024}, live), ({"cpu_shares": 400}, live), ({"weight": 100}, live)]


def test_a_libvirt_without_control_groups_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    refused = libvirt.libvirtError("Requested operation is not valid: cgroup memory controller is not mounted")
    with caplog.at_level("INFO", "hyperscaler"):
        limit_by_libvirt(Running(refused), LIMITS, where="domain demo-a")
    assert [record.getMessage().partition(": ")[2][:24] for record in caplog.records] == [
        "no limit for its memory:",
        "no limit for its process",
        "no limit for its disk: R",
    ]


def test_tasks_are_bounded_and_a_process_that_ended_is_no_failure() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in set(processes_of(os.geteuid()))
        most = min(77, resource.getrlimit(resource.RLIMIT_NPROC)[1]) if os.geteuid() else 77
        limit_tasks([child.pid], replace(LIMITS, tasks=most))
        assert resource.prlimit(child.pid, resource.RLIMIT_NPROC) == (most, most)
    finally:
        child.communicate(b"\n")
    limit_tasks([child.pid], LIMITS)


def test_root_without_the_right_to_limit_others_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("resource.prlimit", refused)
    with caplog.at_level("INFO", "hyperscaler"):
        limit_tasks([1], LIMITS)
    assert [record.getMessage() for record in caplog.records] == ["process 1: no limit for its tasks"]


def test_processes_of_a_user_are_those_of_no_other(tmp_path: Path) -> None:
    for name in ("10", "11", "self", "meminfo"):
        (tmp_path / name).mkdir()
    assert set(processes_of(os.geteuid(), tmp_path)) == {10, 11}
    assert set(processes_of(os.geteuid() + 1, tmp_path)) == set()


class Groups:
    def __init__(self, *, ours: bool) -> None:
        self.ours, self.asked = ours, list[tuple[int, str]]()

    def limit(self, pid: int, name: str, limits: GuestLimits) -> bool:
        assert limits == limits_of(INFO)
        self.asked.append((pid, name))
        return self.ours


@pytest.mark.parametrize(
    ("account", "ours", "asked", "by_libvirt"),
    [
        (GUEST.label, True, [(7, "demo-a")], 0),
        (GUEST.label, False, [(7, "demo-a")], 3),
        ("+64055:+107", False, [], 0),  # a guest of an earlier version: others have the same user
        ("", False, [], 0),
    ],
)
def test_a_guest_is_limited_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, account: str, ours: bool, asked: list[tuple[int, str]], by_libvirt: int
) -> None:
    tasks: list[int] = []
    monkeypatch.setattr(module, "processes_of", lambda uid: [7] if uid == GUEST.uid else [8])
    monkeypatch.setattr(module, "limit_tasks", lambda pids, limits: tasks.extend(pids))
    monkeypatch.setattr(LibvirtHypervisor, "_connect", lambda self: None)
    hypervisor, domain, groups = LibvirtHypervisor("qemu:///system"), Running(), Groups(ours=ours)
    hypervisor._groups = groups  # type: ignore[assignment]
    hypervisor._limit(domain, replace(INFO, account=account))
    assert (groups.asked, len(domain.set), tasks) == (asked, by_libvirt, [7] if asked else [])
