"""Kernel modules that labs need: which to load now, and which to list for every boot. Pure.

A module is listed only after it was loaded, because systemd complains at every boot about a module that is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from emulator.host.prepare.step import HEADER, Step
from emulator.host.readings import CpuVendor, DeviceAnswer, HostReadings

MODULES_FILE = "/etc/modules-load.d/hyperscaler.conf"
_STEP = "module:"


@dataclass(frozen=True, slots=True)
class _Module:
    """A kernel module; `without` says what labs lose without it."""

    name: str
    without: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class TriedModules:
    """Modules that earlier steps loaded, in that order, and modules that they failed to load."""

    loaded: Sequence[str] = ()
    failed: Collection[str] = ()


NONE_TRIED = TriedModules()


def tried_modules(done: Sequence[str], failed: Collection[str]) -> TriedModules:
    """The modules in the ids of steps that were done, and of steps that failed."""
    names = [step.removeprefix(_STEP) for step in done if step.startswith(_STEP)]
    return TriedModules(names, {step.removeprefix(_STEP) for step in failed if step.startswith(_STEP)})


def loads_module(step_id: str) -> bool:
    return step_id.startswith(_STEP)


def modules_steps(host: HostReadings, tried: TriedModules, *, gpus: bool) -> list[Step]:
    """Steps that load the missing modules, and then list them."""
    wanted = [module for module in _absent(host, gpus=gpus) if module.name in host.kernel.loadable]
    load = [
        Step(
            f"{_STEP}{module.name}",
            f"load {module.name}",
            f"not loaded; without it {module.without}",
            argv=("modprobe", module.name),
            lasting=f"{module.name} stays loaded until the next boot",
            optional=module.optional,
        )
        for module in wanted
    ]
    return [*load, *_list(host, [module.name for module in wanted], tried)]


def lacking_modules(host: HostReadings, *, gpus: bool) -> list[str]:
    """Sentences about modules that labs need and this kernel does not have."""
    return [
        f"this kernel has no module {module.name}: without it {module.without}"
        for module in _absent(host, gpus=gpus)
        if module.name not in host.kernel.loadable
    ]


def _absent(host: HostReadings, *, gpus: bool) -> Iterator[_Module]:
    """Modules whose work is not done yet. libvirt loads `vfio-pci` when a GPU goes to a guest, but not at boot."""

    def absent(device: str) -> bool:
        return host.devices[device] is DeviceAnswer.ABSENT

    modules = []
    if (kvm := _kvm(host)) and absent("/dev/kvm"):
        modules.append(_Module(kvm, "guests are emulated"))
    if absent("/dev/net/tun"):
        modules.append(_Module("tun", "guests get no network"))
    if absent("/dev/vhost-net"):
        modules.append(_Module("vhost_net", "the network of guests is slower", optional=True))
    if gpus:
        modules.append(_Module("vfio_pci", "no guest gets a real GPU"))
    # If a module is loaded and its device is still absent, loading it again changes nothing.
    return (module for module in modules if module.name not in host.kernel.loaded)


def _kvm(host: HostReadings) -> str | None:
    """The module that this processor supports; kvm_amd depends on the vendor, too."""
    match host.processor.virtualisation, host.processor.vendor:
        case "vmx", _:
            return "kvm_intel"
        case "svm", CpuVendor.AMD:
            return "kvm_amd"
    return None


def _list(host: HostReadings, wanted: Sequence[str], tried: TriedModules) -> list[Step]:
    """The step that writes the file with the modules about to be loaded; it is planned anew after loading."""
    before = host.own_files.get(MODULES_FILE)
    listed = [line for line in (before or "").splitlines() if line and not line.startswith("#")]
    new = [name for name in wanted if name not in tried.failed]
    names = [name for name in dict.fromkeys((*listed, *tried.loaded, *new)) if _is_here(host, name)]
    if not names and before is None:
        return []
    content = HEADER + "".join(f"{name}\n" for name in names)
    title = f"write {MODULES_FILE} ({', '.join(names) or 'none'})"
    return [Step(f"file:{MODULES_FILE}", title, "these modules are needed at every boot", MODULES_FILE, content)]


def _is_here(host: HostReadings, name: str) -> bool:
    return name in host.kernel.loadable or name in host.kernel.loaded
