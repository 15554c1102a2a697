"""An environment for the GPU verbs: simulated GPUs and a simulated hypervisor, and nothing else to call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.adapters.simulated.packet_filter import SimulatedPacketFilter
from emulator.adapters.simulated.services import SimulatedSupervisor
from emulator.adapters.system.systemd_units import SystemdUnits
from emulator.apply.gpu_ownership import GpuLedger
from emulator.core.hypervisors import SystemHypervisor
from emulator.core.paths import Home
from emulator.lab.environment import Environment
from tests.support.gpu_lab import GpuLab, gpu_machine
from tests.support.guest_accounts import accounts_in

URI = "test:///simulated"


class GpuEnvironment:
    """`lab` is the lab `demo` with its record where the verbs look for it."""

    def __init__(self, home: Home, lab: GpuLab) -> None:
        self.home, self.lab = home, lab
        self.hypervisor = SimulatedHypervisor()
        self.packet_filter = SimulatedPacketFilter()
        self.opened: list[tuple[str, bool]] = []
        paths = home.lab("demo")
        paths.root.mkdir(parents=True, mode=0o700)
        lab.journal = paths.journal
        self.paths = paths
        unused = cast(Any, None)
        self.environment = Environment(
            home=home,
            host_locks=home.locks,
            gpu_ledger=GpuLedger(home.gpu_owners),
            guest_accounts=accounts_in(home.root),
            runner=unused,
            disks=unused,
            images=lambda _kubernetes: unused,
            guests=unused,
            choose_hypervisor=lambda _wanted: URI,
            system_hypervisor=lambda _lab: SystemHypervisor.ANSWERS,
            accelerate=unused,
            daemon=unused,
            connect=lambda _uri, _prefix: self.hypervisor,
            packet_filter=lambda _prefix: self.packet_filter,
            host_facts=unused,
            supervisor=lambda directory: SimulatedSupervisor(directory, home.root / "running"),
            gpus=self._open,
            units=SystemdUnits(unused, home.root / "units", home.root / "none"),
            upgrade_files=unused,
        )

    def _open(self, backend: str, paths: object, devices: object, *, dry: bool) -> Any:
        self.opened.append((backend, dry))
        return self.lab.host

    def provisioned(self) -> None:
        """Say in the record what a provisioned lab says."""
        store = self.lab.store
        store.fact("hypervisor", URI)
        store.fact("gpu", "nvml")


@contextmanager
def gpu_environment(directory: Path) -> Iterator[GpuEnvironment]:
    with gpu_machine(directory) as lab:
        yield GpuEnvironment(Home(directory / "home"), lab)
