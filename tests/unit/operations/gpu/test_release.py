"""Giving GPUs back: only the lab's own, only while no guest runs, and whatever the record says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from emulator.core.errors import ConflictError, UsageError
from emulator.core.ids import resource_uuid
from emulator.core.ports import DomainState
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.model import Placement
from emulator.gpu.placement.demand import Assignment
from emulator.lab.mdev_map import write_mdev_map
from emulator.operations.gpu.release import ReleaseResult, release
from emulator.plan.model import Plan
from emulator.plan.resources import Domain, Secret
from tests.support.gpu_environment import GpuEnvironment, gpu_environment
from tests.support.gpu_lab import FIRST, sliced

NODES = {"n1": [sliced("a", "3g.40gb", 4)], "n2": [sliced("b", "1g.10gb", 0), Assignment("w", "gpu-1")]}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[GpuEnvironment]:
    with gpu_environment(tmp_path) as made:
        yield made


def give_back(demo: GpuEnvironment, *, yes: bool = True, name: str = "demo") -> ReleaseResult:
    return release(demo.environment, name, SilentReporter(), StopFlag(), confirm=lambda _plan: yes)


def carved(demo: GpuEnvironment) -> str:
    """Carve; returns what the GPUs were like before."""
    blank = demo.lab.snapshot()
    demo.lab.apply(demo.lab.wanted(**NODES))
    demo.provisioned()
    return blank


def test_only_what_is_on_gpus_goes(demo: GpuEnvironment) -> None:
    blank = carved(demo)
    other = Secret(name="munge", path=str(demo.paths.munge_key), size_bytes=1, encoding="raw")
    demo.lab.store.end("create", other, {})
    demo.lab.host.nvml.create_instance(FIRST, 19, Placement(2, 1))  # somebody else's
    result = give_back(demo)
    assert {change.resource.kind for change in result.plan.changes} == {
        "mig-mode",
        "virtual-functions",
        "gpu-instance",
        "vgpu",
        "whole-gpu",
    }
    assert set(demo.lab.state.resources) == {other.id}
    assert demo.lab.instances() == [("1g.10gb", 2)] and demo.lab.vgpus() == []
    demo.lab.host.nvml.destroy_instance(FIRST, 19, 2)
    assert demo.lab.host.ledger.read() == {}
    assert demo.opened == [("nvml", False)]
    assert blank != ""


def test_the_gpus_are_as_before(demo: GpuEnvironment) -> None:
    blank = carved(demo)
    give_back(demo)
    assert demo.lab.snapshot() == blank
    assert give_back(demo).plan.is_empty


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.PAUSED])
def test_running_guests_are_named_and_nothing_is_touched(demo: GpuEnvironment, state: DomainState) -> None:
    carved(demo)
    record_domain(demo, "n1")
    demo.hypervisor.seed_foreign_domain("demo-n1", resource_uuid("demo", "domain/n1"))
    demo.hypervisor.seed_foreign_domain("elsewhere", UUID(int=9), mac="52:54:00:00:00:09")
    demo.hypervisor.set_state("demo-n1", state)
    before = demo.lab.snapshot()
    with pytest.raises(ConflictError, match=r"guests of lab demo run: demo-n1\n") as caught:
        give_back(demo)
    assert "hyperscaler destroy demo" in caught.value.fix
    assert demo.lab.snapshot() == before
    demo.hypervisor.set_state("demo-n1", DomainState.SHUTOFF)
    give_back(demo)
    assert demo.lab.vgpus() == []


def record_domain(demo: GpuEnvironment, node: str) -> None:
    domain = Domain(
        name=node,
        uuid=str(resource_uuid("demo", f"domain/{node}")),
        node=node,
        vcpus=1,
        memory_mib=512,
        mac="52:54:00:00:00:01",
        ip="10.0.0.2",
        network="network/hpc",
        volume=f"volume/{node}",
        console_log=str(demo.paths.console / f"{node}.log"),
        accelerated=False,
    )
    demo.lab.store.end("create", domain, {})


def test_saying_no_changes_nothing(demo: GpuEnvironment) -> None:
    carved(demo)
    before = demo.lab.snapshot()
    assert give_back(demo, yes=False).declined
    assert demo.lab.snapshot() == before


def test_without_a_record_the_ledger_tells(demo: GpuEnvironment) -> None:
    blank = carved(demo)
    demo.lab.journal.unlink()
    demo.home.gpu_owners.write_bytes((demo.lab.host.ledger._path).read_bytes())  # the host's own ledger
    give_back(demo)
    assert demo.lab.snapshot() == blank


def test_what_cannot_go_stays_on_record_and_in_the_map(demo: GpuEnvironment) -> None:
    carved(demo)
    with demo.lab.gpu() as gpu:
        next(item for item in gpu.vgpus if item.type_id == 624).held = True
    with pytest.raises(GpuBusyError):
        give_back(demo)
    assert any(key.startswith("vgpu/") for key in demo.lab.state.resources)
    with demo.lab.gpu() as gpu:
        for item in gpu.vgpus:
            item.held = False
    give_back(demo)
    assert demo.lab.state.is_empty


def test_no_such_lab(demo: GpuEnvironment) -> None:
    with pytest.raises(UsageError, match="there is no lab absent"):
        give_back(demo, name="absent")


def test_a_lab_without_gpus_has_nothing_to_give_back(demo: GpuEnvironment) -> None:
    demo.lab.store.fact("hypervisor", "test:///simulated")
    assert give_back(demo).plan == Plan("demo", ())


def test_the_map_goes_with_the_gpus(demo: GpuEnvironment) -> None:
    carved(demo)
    write_mdev_map(demo.paths, demo.lab.state)
    file = demo.paths.root / "output" / "mdev_map.json"
    assert set(json.loads(file.read_text())["nodes"]) == {"n1", "n2"}
    give_back(demo)
    assert not file.exists()
