"""GPU checks from the file and the GPU catalogue alone: GPUs, profiles, and what the nodes ask of them."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.gpu import catalog
from emulator.gpu.model import GpuModel
from emulator.gpu.profile_names import meant_profile
from emulator.labfile.draft import DeviceDraft, Draft, GpuDraft, GroupDraft
from emulator.labfile.findings import counted, quoted
from emulator.labfile.layout import GpuWorkers
from emulator.labfile.model import ClusterKind, GpuBackend, GpuStrategy
from emulator.labfile.read.view import View


def gpus_of(gpu: GpuDraft) -> dict[int, GpuModel | None]:
    """The catalogue's GPU for each device, by its index in the list."""
    return {index: catalog.find_gpu(each.model) if each.model else None for index, each in enumerate(gpu.devices)}


def can_slice(device: DeviceDraft, gpu: GpuModel | None) -> bool:
    """Whether the lab may cut slices from the device; a GPU that the catalogue lacks can what the file says."""
    if device.spec.mig_capable is False:
        return False
    return gpu.mig_capable if gpu else device.spec.mig_capable is True


def check_gpu(draft: Draft) -> None:
    gpus = gpus_of(draft.gpu)
    _check_identities(draft.gpu)
    for index, device in enumerate(draft.gpu.devices):
        _check_device(device, gpus[index], simulated=draft.gpu.backend is GpuBackend.SIMULATED)
    _check_strategy(draft)
    for kind in ClusterKind:
        for group in draft.groups_of(kind):
            _check_request(draft.gpu, group)
    _check_profiles_of_shares(draft.gpu)


def _check_identities(gpu: GpuDraft) -> None:
    for key in ("id", "pci_address"):
        seen: dict[str, DeviceDraft] = {}
        for device in gpu.devices:
            value = device.view.usable(key, device.spec.id if key == "id" else device.spec.pci_address)
            if not value:
                continue
            if value in seen:
                device.view.child(key).error(
                    "gpu.duplicate", f"{value} is already given by {seen[value].view.name}", "each GPU once"
                )
            seen.setdefault(value, device)


def _check_device(device: DeviceDraft, gpu: GpuModel | None, *, simulated: bool) -> None:
    if not simulated and not device.spec.pci_address:
        device.view.child("pci_address").error(
            "gpu.address", "this key is missing", "`lspci -D | grep -i nvidia` shows the address of each GPU"
        )
    if device.model is None:
        return
    model = device.view.child("model")
    if gpu is None:
        near = catalog.close_names(device.model)
        what = f"{quoted(device.model)} names no single GPU of the catalogue"
        fix = f"did you mean {' or '.join(near)}?" if near else "`hyperscaler gpu discover` prints the product name"
        if simulated:
            model.error("gpu.model", f"{what}, and only those can be simulated", fix)
        else:
            model.warning("gpu.model", f"{what}, so that its profiles cannot be checked", fix)
        return
    if device.spec.mig_capable and not gpu.mig_capable:
        device.view.child("mig_capable").error(
            "gpu.mig", f"the {gpu.product_name} has no MIG", "write `mig_capable: false`"
        )
    for view, profile in device.allowed:
        if not gpu.mig_capable or device.spec.mig_capable is False:
            view.error("gpu.mig", "profiles are listed for a GPU without MIG", "remove allowed_mig_profiles")
            return
        if profile not in gpu.profile_names:
            view.error("gpu.profile", _no_profile(gpu, profile), _profile_fix(gpu, profile))


def _no_profile(gpu: GpuModel, profile: str) -> str:
    return f"the {gpu.product_name} has no profile {profile}"


def _profile_fix(gpu: GpuModel, profile: str) -> str:
    return f"{_meant(profile, gpu.profile_names)}It has {', '.join(gpu.profile_names)}"


def _meant(profile: str, names: Sequence[str]) -> str:
    near = meant_profile(profile, names)
    return f"did you mean {near}? " if near else ""


def _check_strategy(draft: Draft) -> None:
    gpu = draft.gpu
    strategy = gpu.strategy
    for kind in ClusterKind:
        slices, (whole_view, whole) = gpu.mig_slices[kind], gpu.whole_gpus[kind]
        if strategy is GpuStrategy.WHOLE and slices.count:
            slices.view.error(
                "gpu.strategy",
                f"{counted(slices.count, 'slice')} with `strategy: whole`",
                "write `strategy: hybrid`, or set it to 0",
            )
        if strategy is GpuStrategy.MIG and whole:
            whole_view.error(
                "gpu.strategy",
                f"{counted(whole, 'whole GPU')} with `strategy: mig`",
                "write `strategy: hybrid`, or set it to 0",
            )


def _check_request(gpu: GpuDraft, group: GroupDraft) -> None:
    _check_contradictions(group)
    request, view = group.gpu, group.gpu_view
    if request is None or not group.count:
        return
    if not gpu.devices and gpu.devices_view.complete:
        view.error(
            "gpu.unallocated",
            "these nodes ask for a GPU, and global.gpu_allocation.devices lists none",
            "add the GPUs under global.gpu_allocation.devices, or write `gpu_enabled: false`",
        )
        return
    if request.whole and gpu.strategy is GpuStrategy.MIG:
        view.error("gpu.strategy", "a whole GPU is asked for with `strategy: mig`", "write `strategy: hybrid`")
    if request.profile and gpu.strategy is GpuStrategy.WHOLE:
        view.error("gpu.strategy", "a slice is asked for with `strategy: whole`", "write `strategy: hybrid`")
    elif request.profile:
        _check_offered(gpu, request.profile, view.child("profile"))


def _check_contradictions(group: GroupDraft) -> None:
    enabled, view = group.view.child("gpu_enabled"), group.view.child("gpu")
    if not isinstance(group.spec, GpuWorkers) or not view.present:
        return
    if enabled.present and not group.spec.gpu_enabled:
        enabled.error("gpu.disabled", "false, but `gpu` below asks for a GPU", "remove one of the two")
    if group.spec.gpu and group.spec.gpu.whole and group.spec.gpu.profile:
        view.child("profile").error(
            "gpu.request", "a whole GPU has no profile", "keep either `whole: true` or the profile"
        )


def offered_profiles(gpu: GpuDraft) -> set[str] | None:
    """The profiles that some GPU of the lab can and may be cut into; None where only a driver knows.

    None, too, for a simulated GPU that the catalogue lacks: its name has the finding, and once is enough.
    """
    models, offered, simulated = gpus_of(gpu), set[str](), gpu.backend is GpuBackend.SIMULATED
    for index, device in enumerate(gpu.devices):
        model = models[index]
        if device.model is None or (model is None and (simulated or can_slice(device, model))):
            return None
        if model and can_slice(device, model):
            allowed = set(device.spec.allowed_mig_profiles)
            offered |= (allowed & set(model.profile_names)) if allowed else set(model.profile_names)
    return offered


def _check_offered(gpu: GpuDraft, profile: str, view: View) -> None:
    """Whether any GPU of the lab can and may be cut into `profile`."""
    offered = offered_profiles(gpu)
    if offered is None:
        return
    if not offered:
        view.error("gpu.profile", f"no GPU of the lab can be cut into {profile}", "add a MIG-capable GPU")
    elif profile not in offered:
        names = sorted(offered)
        view.error(
            "gpu.profile",
            f"no GPU of the lab offers {profile}",
            f"{_meant(profile, names)}Offered: {', '.join(names)}",
        )


def _check_profiles_of_shares(gpu: GpuDraft) -> None:
    for demand in gpu.mig_slices.values():
        for profile, count in demand.by_profile.items():
            if count and gpu.devices:
                _check_offered(gpu, profile, demand.view.child(profile))
