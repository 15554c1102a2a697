"""The host's GPUs, for people: what is there, what would fit, and what is going on on them. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emulator.apply.gpu_ownership import slice_key
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.apply.journal import Journal
from emulator.apply.state import State, StateStore
from emulator.core.errors import GpuError, UsageError
from emulator.core.paths import Home
from emulator.core.ports import log
from emulator.gpu.model import GpuInstance
from emulator.gpu.placement.demand import Assignment, GpuState, Infeasible
from emulator.gpu.ports import NvmlGpu, Utilisation
from emulator.guests.inventory.mdev_map import HeldGpu, HeldSlice
from emulator.host.gpus import DeviceDifference, Gpu, check_devices, discover_gpus, kept_for_guests
from emulator.lab.environment import Environment, host_gpus
from emulator.lab.lab_files import lab_names, require_lab_name
from emulator.lab.mdev_map import held_devices, lab_mdev_map
from emulator.lab.planning.gpu_placement import GPU_FACT
from emulator.labfile.model import ClusterSpec, GpuBackend, GpuDeviceSpec
from emulator.plan.gpu_allocation import GpuAllocation, allocate, gpu_states
from emulator.plan.gpu_build import current_assignments


# ---------------------------------------------------------------- discover
@dataclass(frozen=True, slots=True)
class Discovery:
    """The GPUs, who owns what on them (keys of the GPU ledger), and how the lab file differs."""

    gpus: tuple[Gpu, ...]
    owners: Mapping[str, str]
    differences: tuple[DeviceDifference, ...]
    simulated: bool

    def owner(self, gpu: Gpu, instance: GpuInstance | None = None) -> str | None:
        """The lab that owns a slice, or without `instance` the GPU as a whole."""
        if instance is None:
            return self.owners.get(gpu.pci_address)
        return self.owners.get(slice_key(gpu.pci_address, instance.profile, instance.placement.start))


def discover(host: GpuHost, devices: Sequence[GpuDeviceSpec] = (), *, whole: bool = False) -> Discovery:
    """Every GPU of the host, compared with the `devices` of a lab file, which asks for `whole` GPUs or does not.

    Raises:
        HostNotFitError: there is no NVIDIA driver, and no GPU that does without.
    """
    gpus = discover_gpus(host.nvml, host.pci)
    owners = host.ledger.in_effect()
    # GPUs that labs have as a whole are out of NVML's sight, as they should be.
    out = {key for key in owners if "/" not in key} | (kept_for_guests(gpus) if whole else set())
    differences = check_devices(devices, gpus, out=out)
    return Discovery(gpus, owners, differences, simulated=not host.real)


# ---------------------------------------------------------------- plan
@dataclass(frozen=True, slots=True)
class Layout:
    """The GPUs of a file and what goes where on them, or why that cannot be."""

    gpus: tuple[GpuState, ...]
    answer: GpuAllocation | Infeasible


def plan_file(spec: ClusterSpec, state: State) -> Layout:
    """Where the slices of a file go; those of a lab that is there stay where they are if they can."""
    gpus = gpu_states(spec.gpu)
    resources = [record.resource for record in state.resources.values()]
    current = current_assignments(resources)
    return Layout(gpus, allocate(spec, gpus, current))


def assignments_of(layout: Layout) -> Sequence[Assignment]:
    """What to draw: all of it, or the largest part that fits."""
    if isinstance(layout.answer, Infeasible):
        return layout.answer.placed
    return layout.answer.solution.assignments


# ---------------------------------------------------------------- top
@dataclass(frozen=True, slots=True)
class SliceUse:
    """A GPU instance: its place, who holds it, and its memory where NVML shows it (not while a guest has it)."""

    instance: GpuInstance
    lab: str | None
    node: str | None
    use: Utilisation | None


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """A GPU. `use` is None for one that NVML does not see; `node` holds it as a whole."""

    pci_address: str
    name: str
    use: Utilisation | None
    lab: str | None
    node: str | None
    slices: tuple[SliceUse, ...]


def usage(host: GpuHost, labs: Mapping[str, State]) -> tuple[GpuUsage, ...]:
    """Memory and utilisation of all GPUs and their slices, with the nodes that hold them by the labs' records."""
    slices: dict[str, HeldSlice] = {}
    whole: dict[str, HeldGpu] = {}
    for state in labs.values():
        for item in held_devices(state):
            if isinstance(item, HeldSlice):
                slices[slice_key(item.pci_address, item.profile, item.start)] = item
            else:
                whole[item.pci_address] = item
    owners = host.ledger.in_effect()
    gpus = discover_gpus(host.nvml, host.pci)
    return tuple(_gpu_use(host, gpu, owners, slices, whole.get(gpu.pci_address)) for gpu in gpus)


def _gpu_use(
    host: GpuHost, gpu: Gpu, owners: Mapping[str, str], held: Mapping[str, HeldSlice], whole: HeldGpu | None
) -> GpuUsage:
    node = whole.node if whole else None
    use, inside = _utilisation(host, gpu.nvml) if gpu.nvml is not None else (None, {})
    slices = []
    for instance in gpu.nvml.instances if gpu.nvml else ():
        key = slice_key(gpu.pci_address, instance.profile, instance.placement.start)
        holder = held.get(key)
        number = instance.gi_id
        memory = inside.get(number) if number is not None else None
        slices.append(SliceUse(instance, owners.get(key), holder.node if holder else None, memory))
    return GpuUsage(gpu.pci_address, gpu.name, use, owners.get(gpu.pci_address), node, tuple(slices))


def _utilisation(host: GpuHost, gpu: NvmlGpu) -> tuple[Utilisation | None, Mapping[int, Utilisation]]:
    """A GPU that fails to answer must not hide the others; it is shown without figures."""
    try:
        use = host.nvml.utilisation(gpu.pci_address)
        return use, host.nvml.instance_utilisation(gpu.pci_address) if gpu.instances else {}
    except GpuError as error:
        log.warning("%s", error)
        return None, {}


# ---------------------------------------------------------------- records
def recorded_state(home: Home, lab: str) -> State:
    """What is on record of a lab; empty when there is no such lab."""
    return StateStore(Journal(home.lab(lab).journal)).state


def recorded_states(home: Home, lab: str | None = None) -> Mapping[str, State]:
    """The records of one lab, or of all labs of the host."""
    return {name: recorded_state(home, name) for name in ([lab] if lab else lab_names(home))}


def recorded_backend(env: Environment, lab: str, state: State) -> str:
    """`nvml` or `simulated`, by the record or, where that is lost, by the host's GPU ledger; empty without GPUs."""
    return state.facts.get(GPU_FACT, "") or ("nvml" if env.gpu_ledger.of(lab) else "")


def gpus_of_file(env: Environment, spec: ClusterSpec) -> GpuHost:
    """The GPUs that a lab file means: real ones, or simulated ones as they are in the lab or would be."""
    if spec.gpu.backend is not GpuBackend.SIMULATED:
        return host_gpus(env)
    paths = env.home.lab(spec.name)
    return env.gpus(GpuBackend.SIMULATED.value, paths, None if paths.gpu.is_dir() else spec.gpu.devices, dry=True)


def gpus_of_lab(env: Environment, lab: str) -> GpuHost:
    """The GPUs of a lab that is there.

    Raises:
        UsageError: there is no such lab, or it has no GPUs.
    """
    paths = env.home.lab(lab)
    if not paths.root.is_dir():
        raise UsageError(f"there is no lab {lab}", fix="hyperscaler status lists the labs")
    backend = recorded_backend(env, lab, recorded_state(env.home, lab))
    if not backend:
        raise UsageError(f"lab {lab} has no GPUs", fix="hyperscaler gpu top shows the host's GPUs")
    return env.gpus(backend, paths, None, dry=True)


def recorded_mdev_map(home: Home, lab: str) -> dict[str, object]:
    """The map of a lab of this host, from its record.

    Raises:
        UsageError: there is no such lab.
    """
    require_lab_name(lab)
    if not home.lab(lab).root.is_dir():
        raise UsageError(f"there is no lab {lab}", fix="hyperscaler status lists the labs")
    return lab_mdev_map(home.lab(lab), recorded_state(home, lab))
