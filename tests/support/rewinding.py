"""A lab on a hypervisor of its own, and what a test asks of its snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.adapters.simulated.disks import backing_of, data_of
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.core.ports import DomainState
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import LoadedLab
from emulator.lab.snapshots.manifest import Manifest
from emulator.lab.snapshots.store import SnapshotStore
from emulator.operations.snapshots.create import create_snapshot
from emulator.operations.snapshots.delete import delete_snapshot
from emulator.operations.snapshots.restore import Restored, RestoreOptions, restore_snapshot
from tests.support.simulated_world import LAB, SimulatedHost, lab_text

NODES = ("hpc-controller", "hpc-compute-1")


@dataclass
class Rewound:
    """The lab `demo` of one controller and one compute node."""

    host: SimulatedHost
    text: str = field(default_factory=lab_text)

    def __post_init__(self) -> None:
        self.host.provision(self.lab)

    @property
    def lab(self) -> LoadedLab:
        return self.host.lab_file(self.text)

    def provision(self) -> None:
        self.host.provision(self.lab)

    def create(self, name: str = "first", **options: Any) -> Manifest:
        return create_snapshot(self.host.environment(), LAB, name, SilentReporter(), StopFlag(), **options)

    def restore(self, name: str = "first", **options: Any) -> Restored:
        wanted = RestoreOptions(**options)
        return restore_snapshot(self.host.environment(), LAB, name, wanted, SilentReporter(), StopFlag())

    def delete(self, name: str = "first") -> int:
        return delete_snapshot(self.host.environment(), LAB, name, SilentReporter(), StopFlag())

    # ---------------------------------------------------------------- looks
    @property
    def hypervisor(self) -> SimulatedHypervisor:
        return self.host.hypervisor(self.host.home.lab(LAB), quiet=True)

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore(self.host.home.lab(LAB))

    def remember(self, text: str) -> None:
        """Something into the memory of every guest."""
        for node in NODES:
            self.hypervisor.remember(f"{LAB}-{node}", f"{node} {text}")

    def memories(self) -> Mapping[str, str]:
        return {node: self.hypervisor.remembers(f"{LAB}-{node}") for node in NODES}

    def states(self) -> Mapping[str, DomainState | None]:
        found = {node: self.hypervisor.domain(f"{LAB}-{node}") for node in NODES}
        return {node: info.state if info is not None else None for node, info in found.items()}

    def disks(self) -> Mapping[str, tuple[str, ...]]:
        """The data of each node's disk and of the layers under it, the uppermost first."""
        found = {}
        for node in NODES:
            layer, chain = self.store.disk(node), []
            while token := data_of(layer):
                chain.append(token)
                below = backing_of(layer)
                assert below is not None
                layer = below
            found[node] = tuple(chain)
        return found

    def assert_well(self, where: str = "") -> None:
        """All machines run, nothing is half done, and there is nothing for `provision` to do."""
        assert set(self.states().values()) == {DomainState.RUNNING}, where
        assert self.store.operation() is None, where
        plan = self.host.plan(self.lab)
        assert plan.is_empty and not plan.blockers, (where, plan)
        assert not any(item.open_action for item in self.host.state().resources.values()), where
