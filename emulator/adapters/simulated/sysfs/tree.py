"""Contents of the simulated `/sys`: PCI functions, drivers, IOMMU groups, both vGPU frameworks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial

from emulator.adapters.simulated.nvml import engine_vgpu as vgpu
from emulator.adapters.simulated.nvml.engine import gpu_model
from emulator.adapters.simulated.nvml.store import GpuStore, SimFunction, SimGpu, SimState, SimVgpu
from emulator.adapters.simulated.sysfs.acting_files import Device, Directory, File, Link, Node, refuse
from emulator.adapters.simulated.sysfs.vgpu_files import mdev_bus_entry, vendor_directory
from emulator.gpu.ports import VgpuFramework

_DRIVERS = ("nvidia", "vfio-pci", "snd_hda_intel", "nvme", "ixgbe", "pcieport")
Entries = Mapping[str, Callable[[], Node]]


class Tree:
    """Gives the root directory; the same one until the state changes.

    `opened` returns whether this process has NVML open, and with it every GPU that the nvidia driver serves.
    """

    def __init__(self, store: GpuStore, opened: Callable[[], bool]) -> None:
        self._store = store
        self._opened = opened
        self._cached: tuple[SimState, bool, Directory] | None = None

    def __call__(self) -> Directory:
        state, opened = self._store.look(), self._opened()
        cached = self._cached
        if cached is None or cached[0] is not state or cached[1] is not opened:
            cached = self._cached = (state, opened, _root(self._store, state, opened=opened))
        return cached[2]


def _root(store: GpuStore, state: SimState, *, opened: bool) -> Directory:
    return _directories(
        {
            "sys/bus/pci/devices": lambda: _links(addresses(state), "/sys/devices/{}"),
            "sys/bus/pci/drivers": lambda: Directory(
                {name: partial(_driver, store, state, name, opened=opened) for name in _DRIVERS}
            ),
            "sys/bus/pci/drivers_probe": lambda: File(write=partial(_probe, store)),
            "sys/bus/mdev/devices": lambda: _mdevs(state),
            "sys/class/mdev_bus": lambda: _links(_mdev_parents(state), "/sys/devices/{}"),
            "sys/devices": lambda: Directory(
                {item: partial(_function, store, state, item) for item in addresses(state)}
            ),
            "sys/kernel/iommu_groups": lambda: _groups(state),
            "dev/vfio": lambda: _vfio_nodes(state),
            "proc/driver/nvidia/gpus": lambda: _proc_gpus(state),
            "proc/driver/nvidia/version": lambda: File(f"NVRM version: NVIDIA UNIX {state.driver_version}\n"),
            "usr/lib/nvidia/sriov-manage": lambda: File("#!/bin/bash\n"),
            **_processes(state, opened=opened),
        }
    )


def _directories(paths: Entries) -> Directory:
    """Nested directories from paths such as `a/b/c`."""
    entries: dict[str, Callable[[], Node]] = {}
    nested: dict[str, dict[str, Callable[[], Node]]] = {}
    for path, make in paths.items():
        head, _, rest = path.partition("/")
        if rest:
            nested.setdefault(head, {})[rest] = make
        else:
            entries[head] = make
    for head, below in nested.items():
        entries[head] = partial(_directories, below)
    return Directory(entries)


def _links(names: list[str], target: str) -> Directory:
    return Directory({name: partial(Link, f"../../..{target.format(name)}", target.format(name)) for name in names})


# ---------------------------------------------------------------- PCI functions
def addresses(state: SimState) -> list[str]:
    """All PCI functions: GPUs, their virtual functions, and others."""
    found = [item.address for item in state.functions]
    for gpu in state.gpus:
        if not gpu.lost:
            found += [gpu.pci_address, *vgpu.vfs(gpu)]
    return found


def owner(state: SimState, address: str) -> SimGpu | None:
    """The GPU that a physical or virtual function belongs to."""
    for gpu in state.gpus:
        if address == gpu.pci_address or address in vgpu.vfs(gpu):
            return gpu
    return None


def _vf_group(gpu: SimGpu, address: str) -> int:
    return 1000 + gpu.minor * 64 + vgpu.vfs(gpu).index(address)


def _function(store: GpuStore, state: SimState, address: str) -> Node:
    for item in state.functions:
        if item.address == address:
            return Directory(_other(store, item))
    gpu = owner(state, address)
    if gpu is None:
        raise refuse(errno.ENODEV, address)
    if address == gpu.pci_address:
        return Directory(_physical(store, state, gpu))
    return Directory(_virtual(store, state, gpu, address))


def _facts(vendor: str, device: str, class_code: str, driver: str, override: str, group: int) -> dict[str, Node]:
    facts: dict[str, Node] = {
        "vendor": File(f"0x{vendor}\n"),
        "device": File(f"0x{device}\n"),
        "class": File(f"0x{class_code}\n"),
        "iommu_group": Link(f"../../kernel/iommu_groups/{group}", f"/sys/kernel/iommu_groups/{group}"),
        "driver_override": File(f"{override or '(null)'}\n"),
    }
    if driver:
        facts["driver"] = Link(f"../../bus/pci/drivers/{driver}", f"/sys/bus/pci/drivers/{driver}")
    return facts


def _made(facts: Mapping[str, Node]) -> dict[str, Callable[[], Node]]:
    return {name: partial(_same, node) for name, node in facts.items()}


def _same(node: Node) -> Node:
    return node


def _other(store: GpuStore, item: SimFunction) -> Entries:
    facts = _facts(item.vendor, item.device, item.class_code, item.driver, item.override, item.group)
    facts["driver_override"] = File(f"{item.override or '(null)'}\n", partial(_override, store, item.address))
    if item.net:
        facts["net"] = Directory({item.net: Directory})
    return _made(facts)


def _physical(store: GpuStore, state: SimState, gpu: SimGpu) -> Entries:
    vendor, device = gpu_model(gpu.model).pci_ids[0].split(":")
    facts = _facts(vendor, device, "030200", gpu.driver, gpu.override, gpu.group)
    facts["driver_override"] = File(f"{gpu.override or '(null)'}\n", partial(_override, store, gpu.pci_address))
    total = vgpu.total_vfs(gpu)
    if total:
        facts["sriov_totalvfs"] = File(f"{total}\n")
        # The driver rejects direct writes; sriov-manage is the way.
        facts["sriov_numvfs"] = File(f"{gpu.numvfs}\n", partial(_reject, errno.EPERM))
    for number, address in enumerate(vgpu.vfs(gpu)):
        facts[f"virtfn{number}"] = Link(f"../{address}", f"/sys/devices/{address}")
    return {**_made(facts), **_vgpu_part(store, state, gpu, gpu.pci_address)}


def _virtual(store: GpuStore, state: SimState, gpu: SimGpu, address: str) -> Entries:
    vendor, device = gpu_model(gpu.model).pci_ids[0].split(":")
    facts = _facts(vendor, device, "030200", "nvidia", "", _vf_group(gpu, address))
    facts["physfn"] = Link(f"../{gpu.pci_address}", f"/sys/devices/{gpu.pci_address}")
    return {**_made(facts), **_vgpu_part(store, state, gpu, address)}


def _vgpu_part(store: GpuStore, state: SimState, gpu: SimGpu, address: str) -> Entries:
    if address not in vgpu.parents(gpu):
        return {}
    if state.framework == VgpuFramework.MDEV:
        return mdev_bus_entry(store, gpu, address)
    return {"nvidia": partial(vendor_directory, store, gpu, address)}


def _reject(number: int, _text: str) -> None:
    raise refuse(number, "")


# ---------------------------------------------------------------- drivers
def _driver(store: GpuStore, state: SimState, name: str, *, opened: bool) -> Directory:
    bound = [item.pci_address for item in state.gpus if item.driver == name]
    bound += [item.address for item in state.functions if item.driver == name]
    entries = dict(_links(bound, "/sys/devices/{}").entries)
    entries["bind"] = lambda: File(write=partial(_bind, store, name))
    entries["unbind"] = lambda: File(write=partial(_unbind, store, name, opened=opened))
    return Directory(entries)


def _bindable(state: SimState, address: str) -> SimGpu | SimFunction:
    for gpu in state.gpus:
        if gpu.pci_address == address and not gpu.lost:
            return gpu
    for item in state.functions:
        if item.address == address:
            return item
    raise refuse(errno.ENODEV, address)


def _override(store: GpuStore, address: str, text: str) -> None:
    with store.change() as state:
        _bindable(state, address).override = text.strip()


def _bind(store: GpuStore, driver: str, text: str) -> None:
    with store.change() as state:
        item = _bindable(state, text.strip())
        if item.driver:
            raise refuse(errno.EBUSY, text)
        # vfio-pci has no ids of its own: without an override it binds nothing.
        if item.override != driver and (item.override or driver == "vfio-pci" or not _knows(driver, item)):
            raise refuse(errno.ENODEV, text)
        item.driver = driver


def _knows(driver: str, item: SimGpu | SimFunction) -> bool:
    if isinstance(item, SimGpu):
        return driver == "nvidia"
    return _natural(item) == driver


def _natural(item: SimFunction) -> str:
    """The driver that the kernel itself picks for a function."""
    return {"0403": "snd_hda_intel", "0108": "nvme", "0200": "ixgbe", "0604": "pcieport"}.get(item.class_code[:4], "")


def _unbind(store: GpuStore, driver: str, text: str, *, opened: bool) -> None:
    with store.change() as state:
        item = _bindable(state, text.strip())
        if item.driver != driver:
            raise refuse(errno.ENODEV, text)
        if isinstance(item, SimGpu):
            if item.held or item.processes or (opened and driver == "nvidia"):
                # On hardware this blocks until the holder ends; the simulation answers at once.
                raise refuse(errno.EBUSY, text)
            item.numvfs = 0
            item.instances.clear()
            item.vgpus.clear()
        item.driver = ""


def _probe(store: GpuStore, text: str) -> None:
    """`drivers_probe` succeeds even if nothing binds."""
    with store.change() as state:
        item = _bindable(state, text.strip())
        if not item.driver:
            item.driver = item.override or ("nvidia" if isinstance(item, SimGpu) else _natural(item))


# ---------------------------------------------------------------- the rest
def _groups(state: SimState) -> Directory:
    members: dict[int, list[str]] = {}
    for item in state.functions:
        members.setdefault(item.group, []).append(item.address)
    for gpu in state.gpus:
        members.setdefault(gpu.group, []).append(gpu.pci_address)
        for address in vgpu.vfs(gpu):
            members[_vf_group(gpu, address)] = [address]
    return Directory(
        {
            str(group): partial(Directory, {"devices": partial(_links, found, "/sys/devices/{}")})
            for group, found in members.items()
        }
    )


def _vfio_nodes(state: SimState) -> Directory:
    nodes: dict[str, Callable[[], Node]] = {}
    for gpu in state.gpus:
        if gpu.driver == "vfio-pci":
            nodes[str(gpu.group)] = partial(Device, busy=gpu.held)
        for address in vgpu.vfs(gpu):
            on = vgpu.vgpu_on(gpu, address)
            if on is not None:
                nodes[str(_vf_group(gpu, address))] = partial(Device, busy=on.held)
    return Directory(nodes)


def _mdev_parents(state: SimState) -> list[str]:
    if state.framework != VgpuFramework.MDEV:
        return []
    return [address for gpu in state.gpus for address in vgpu.parents(gpu)]


def _mdevs(state: SimState) -> Directory:
    found: list[SimVgpu] = [item for gpu in state.gpus for item in gpu.vgpus if item.uuid]
    return Directory({item.uuid: partial(_mdev_link, item) for item in found})


def _mdev_link(item: SimVgpu) -> Link:
    return Link(f"../../../devices/{item.parent}/{item.uuid}", f"/sys/devices/{item.parent}/{item.uuid}")


def _proc_gpus(state: SimState) -> Directory:
    def information(gpu: SimGpu) -> Node:
        text = f"Model: \t\t {gpu_model(gpu.model).product_name}\nDevice Minor: \t {gpu.minor}\n"
        return _directories({"information": lambda: File(text)})

    return Directory({gpu.pci_address: partial(information, gpu) for gpu in state.gpus if gpu.driver == "nvidia"})


def _processes(state: SimState, *, opened: bool) -> Entries:
    found: dict[str, Callable[[], Node]] = {}
    for gpu in state.gpus:
        node = f"/dev/nvidia{gpu.minor}"
        if opened and gpu.driver == "nvidia":
            found[f"proc/{os.getpid()}/comm"] = partial(File, "hyperscaler\n")
            found[f"proc/{os.getpid()}/fd/{40 + gpu.minor}"] = partial(Link, node, node)
        for process in gpu.processes:
            found[f"proc/{process.pid}/comm"] = partial(File, f"{process.name}\n")
            found[f"proc/{process.pid}/fd/7"] = partial(Link, node, node)
    return found
