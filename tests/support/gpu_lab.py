"""A lab's GPU resources over simulated GPUs: plan, apply and look, without guests."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus, gpu_at
from emulator.adapters.simulated.nvml.store import SimGpu, SimState
from emulator.apply.executor import Executor
from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.handler import ApplyContext, Handler
from emulator.apply.handlers.gpu.gpu_instance import GpuInstanceHandler
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.apply.handlers.gpu.mig_mode import MigModeHandler
from emulator.apply.handlers.gpu.passthrough import WholeGpuHandler
from emulator.apply.handlers.gpu.vgpu import VgpuHandler
from emulator.apply.handlers.gpu.virtual_functions import VirtualFunctionsHandler
from emulator.apply.journal import Journal
from emulator.apply.state import State, StateStore
from emulator.core.progress import SilentReporter
from emulator.gpu.model import Placement
from emulator.gpu.placement.demand import Assignment
from emulator.gpu.ports import MigModeState, PciDevice, VgpuFramework
from emulator.plan.diff import diff
from emulator.plan.gpu_build import build_gpus
from emulator.plan.gpu_resources import GpuInstance, MigMode, Vgpu, VirtualFunctions
from emulator.plan.model import Plan
from emulator.plan.resources import Resource
from emulator.wiring import assemble_gpus

FIRST, SECOND = "0000:41:00.0", "0000:42:00.0"
SIMULATED_GPUS = {"gpu-0": FIRST, "gpu-1": SECOND}
SIZES = {"1g.10gb": 1, "1g.20gb": 2, "2g.20gb": 2, "3g.40gb": 4, "4g.40gb": 4, "7g.80gb": 8}

MODE = MigMode(name=FIRST, device="gpu-0", pci_address=FIRST)
FUNCTIONS = VirtualFunctions(name=FIRST, needs=(MODE.id,), device="gpu-0", pci_address=FIRST)
ON, OFF = MigModeState(True, True), MigModeState(False, False)


def gpu_instance_at(profile: str, start: int, size: int) -> GpuInstance:
    """A slice of the first GPU, as a resource."""
    return GpuInstance(
        name=f"{FIRST}-{profile}-at-{start}",
        needs=(MODE.id, FUNCTIONS.id),
        device="gpu-0",
        pci_address=FIRST,
        profile=profile,
        start=start,
        size=size,
    )


def vgpu_of(wanted: Sequence[Resource]) -> Vgpu:
    return next(item for item in wanted if isinstance(item, Vgpu))


def sliced(demand: str, profile: str, start: int, gpu: str = "gpu-0") -> Assignment:
    return Assignment(demand, gpu, profile, Placement(start, SIZES[profile]))


class GpuLab:
    """One lab on a simulated machine; several may share the machine."""

    def __init__(self, gpus: SimulatedGpus, host: GpuHost, directory: Path, name: str = "demo") -> None:
        self.gpus, self.host, self.name = gpus, host, name
        self.journal = directory / f"{name}.jsonl"
        self.use(host)

    def use(self, host: GpuHost) -> None:
        self.handlers: dict[str, Handler[Any]] = {
            "mig-mode": MigModeHandler(lambda: host),
            "virtual-functions": VirtualFunctionsHandler(lambda: host, self.name),
            "gpu-instance": GpuInstanceHandler(lambda: host, self.name),
            "vgpu": VgpuHandler(lambda: host, self.name),
            "whole-gpu": WholeGpuHandler(lambda: host, self.name),
        }

    @property
    def store(self) -> StateStore:
        return StateStore(Journal(self.journal), boot_id="b")

    @property
    def state(self) -> State:
        return self.store.state

    def wanted(self, **nodes: Sequence[Assignment]) -> tuple[Resource, ...]:
        return build_gpus(
            self.name, SIMULATED_GPUS, {key.replace("_", "-"): value for key, value in nodes.items()}
        ).resources

    def plan(self, wanted: Sequence[Resource]) -> Plan:
        recorded = dict(self.state.resources)
        observed = {item.id: self.handlers[item.kind].observe(item, recorded.get(item.id)) for item in wanted}
        found = [item for handler in self.handlers.values() for item in handler.find(self.name)]
        return diff(self.name, wanted, recorded, observed, [_ordered(item, found) for item in found])

    def run(self, plan: Plan) -> None:
        assert not plan.blockers, plan.blockers
        Executor(self.handlers, self.store, SilentReporter()).apply(plan)

    def apply(self, wanted: Sequence[Resource]) -> Plan:
        plan = self.plan(wanted)
        self.run(plan)
        return plan

    @property
    def context(self) -> ApplyContext:
        """For a call of a handler outside a plan."""
        return ApplyContext(self.name, self.store.handle)

    def pci(self, address: str = FIRST) -> PciDevice:
        """A device that is there."""
        device = self.host.pci.device(address)
        assert device is not None
        return device

    def mode(self, address: str = FIRST) -> MigModeState:
        found = self.host.nvml.mig_mode(address)
        assert found is not None
        return found

    def handle(self, resource_id: str) -> dict[str, object]:
        return dict(self.store.handle(resource_id))

    def instances(self, address: str = FIRST) -> list[tuple[str, int]]:
        mode = self.host.nvml.mig_mode(address)
        assert mode is not None
        return [(item.profile, item.placement.start) for item in self.host.nvml.instances(address)]

    def vgpus(self) -> list[str]:
        with_parents = self.gpus.store.look().gpus
        return sorted(item.uuid or item.parent for gpu in with_parents for item in gpu.vgpus)

    def snapshot(self) -> str:
        """Everything that the GPUs know, and the ledger."""
        state = dataclasses.replace(copy.deepcopy(self.gpus.store.look()), driver_loads=0, faults=SimState().faults)
        for gpu in state.gpus:
            gpu.vgpus.sort(key=lambda item: item.parent)  # in which order they were made is no matter
            gpu.instances.sort(key=lambda item: item.start)
        return json.dumps([dataclasses.asdict(state), self.host.ledger.read()], sort_keys=True)

    @contextmanager
    def gpu(self, address: str = FIRST) -> Iterator[SimGpu]:
        """The state of a GPU, to be changed behind the product's back."""
        with self.gpus.store.change() as state:
            yield gpu_at(state, address)


_ORDER = ("mig-mode", "virtual-functions", "gpu-instance", "vgpu", "whole-gpu")


def _ordered(item: Resource, found: Sequence[Resource]) -> Resource:
    earlier = _ORDER[: _ORDER.index(item.kind)]
    return dataclasses.replace(item, needs=tuple(other.id for other in found if other.kind in earlier))


@contextmanager
def gpu_machine(
    directory: Path, *, framework: VgpuFramework = VgpuFramework.MDEV, models: Sequence[str] = ("A100-SXM4-80GB",) * 2
) -> Iterator[GpuLab]:
    """A machine with two GPUs and the lab `demo` on it."""
    devices = [
        SimulatedGpu(name, model, address)
        for (name, address), model in zip(SIMULATED_GPUS.items(), models, strict=False)
    ]
    gpus = SimulatedGpus(directory / "gpus", devices, framework=framework)
    put_back = gpus.install()
    host = assemble_gpus(gpus.files, gpus.runner, GpuLedger(directory / "owners.json"), real=False)
    try:
        yield GpuLab(gpus, host, directory)
    finally:
        host.nvml.close()
        put_back()
