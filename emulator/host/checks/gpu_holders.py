"""Processes that have a GPU open, and whether a lab can be made nevertheless."""

from __future__ import annotations

from collections.abc import Iterable

from emulator.gpu.ports import DeviceHolder
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.readings import HostReadings

# Process (cut at 15 characters) -> unit of services that hold a GPU as long as they run.
_UNITS = {"nvidia-persiste": "nvidia-persistenced", "nv-hostengine": "nvidia-dcgm", "nvsm_core": "nvsm"}
# They serve vGPUs or keep their GPU awake. Only a GPU that goes to a guest as a whole has to be free of them.
_SERVING_SLICES = frozenset({"nvidia-persiste", "nvidia-vgpu-mgr", "nvidia-vgpud"})
NO_GPU = "no NVIDIA GPU"


def check_holders(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    """A failure only if another process has a GPU open that the lab asks for."""
    id_, title = "gpu.holders", "processes on GPUs"
    why = "a GPU in use can be neither cut into slices nor given to a guest"
    unseen = bool(host.gpus) and not host.user.is_root
    blind = " (only this user's: run as root to see all)" if unseen else ""
    holders = _foreign(host, wanted)
    if not holders:
        found = f"none{blind}" if host.gpus else NO_GPU
        if unseen:
            fix = "sudo hyperscaler host check"
            return HostCheckResult(id_, title, Level.WARN, found, why, fix, unseen=True)
        return ok(id_, title, found, why)
    held = _held(host, wanted, holders)
    level = Level.FAIL if held else Level.WARN
    asked = f"; the lab asks for {' and '.join(held)}" if held else ""
    return HostCheckResult(id_, title, level, f"{_named(holders)}{asked}{blind}", why, _fix(holders), unseen=unseen)


def _foreign(host: HostReadings, wanted: Wanted) -> tuple[DeviceHolder, ...]:
    """Holders other than the lab's own guests, which hold the GPUs that the lab has given them."""
    own = {gpu.node for gpu in host.gpus if gpu.pci.address in wanted.own_gpus}
    return tuple(item for item in host.holders if not (item.path in own and item.path.startswith("/dev/vfio/")))


def _held(host: HostReadings, wanted: Wanted, holders: Iterable[DeviceHolder]) -> list[str]:
    """The GPUs of the lab file that others hold, each with its holders."""
    names = {address: name for name, address in wanted.devices}
    in_the_way = [item for item in holders if wanted.whole or item.name not in _SERVING_SLICES]
    found = []
    for gpu in host.gpus:
        mine = [item for item in in_the_way if gpu.node and item.path == gpu.node]
        if mine and gpu.pci.address in names:
            found.append(f"{names[gpu.pci.address]} ({gpu.pci.address}), which {_named(mine)} has open")
    return found


def _named(holders: Iterable[DeviceHolder]) -> str:
    return ", ".join(sorted({f"{item.name} ({item.pid})" for item in holders}))


def _fix(holders: Iterable[DeviceHolder]) -> str:
    units = sorted({_UNITS[item.name] for item in holders if item.name in _UNITS})
    stop = f"systemctl stop {' '.join(units)}; " if units else ""
    pids = " ".join(str(pid) for pid in sorted({item.pid for item in holders}))
    return f"{stop}when they are done, end them: kill {pids}"
