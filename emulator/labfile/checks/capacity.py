"""Whether the GPUs of the file can hold all slices and whole GPUs that are set aside, by the exact solver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from emulator.gpu.model import GpuModel
from emulator.gpu.placement.demand import Demand, GpuState, GpuUse
from emulator.gpu.placement.solver import place
from emulator.labfile.checks.gpu import can_slice, gpus_of
from emulator.labfile.checks.gpu_shares import Share, share_of
from emulator.labfile.draft import DeviceDraft, Draft
from emulator.labfile.findings import counted
from emulator.labfile.model import ClusterKind, GpuBackend, GpuStrategy

# More GPUs than a workstation holds. Up to here the exact answer costs at most a second or two in the worst mixtures
# of GPU models that a random search found (16 GPUs of 6 models); far beyond, a hostile file could buy hours.
MOST_GPUS = 16


def check_capacity(draft: Draft) -> None:
    """Report when no layout exists; for more than `MOST_GPUS` GPUs only sums are compared.

    Silent where a value was refused or a GPU is unknown to the catalogue.
    """
    gpu = draft.gpu
    gpus = _gpus(draft)
    shares = [gpu.mig_slices[kind].view for kind in ClusterKind] + [gpu.whole_gpus[kind][0] for kind in ClusterKind]
    if not gpus or not all(view.complete for view in shares):
        return
    totals = {kind: share_of(draft, kind) for kind in ClusterKind}
    slices = sum(share.slices for share in totals.values())
    whole = sum(share.whole for share in totals.values())
    if _said_elsewhere(draft, gpus, tuple(totals.values())) or not slices + whole:
        return
    room = sum(state.model.max_gpu_instances for state in gpus if state.use is not GpuUse.WHOLE)
    view = next((view for view in shares if view.present), gpu.devices_view)
    fix = "lower the counts, choose smaller profiles, or add a GPU; `hyperscaler gpu plan` shows what fits"
    # The sums come first: they say it more plainly, and the counts of a hostile file are not for the solver.
    if whole > len(gpus):
        view.error("gpu.capacity", f"{counted(whole, 'whole GPU')} asked for, and `devices` lists {len(gpus)}", fix)
        return
    if slices > room:
        view.error("gpu.capacity", f"{counted(slices, 'slice')} asked for, and the GPUs hold at most {room}", fix)
        return
    if len(gpus) > MOST_GPUS:
        return  # the planner, which must answer, takes the time
    demands = _demands(totals)
    if place(gpus, demands, budget=0) is not None:
        return
    if slices and any(gpu.use is not GpuUse.WHOLE and not gpu.model.placements_known for gpu in gpus):
        _report_unknown_placements(draft, gpus)
    else:
        held = ", ".join(f"{state.id} ({state.model.product_name})" for state in gpus[:4])
        more = f" and {len(gpus) - 4} more" if len(gpus) > 4 else ""
        view.error("gpu.capacity", f"no layout of {held}{more} holds {_listed(demands)}", fix)


def _report_unknown_placements(draft: Draft, gpus: list[GpuState]) -> None:
    """Not known here is not impossible: the driver knows where slices of a real GPU can lie."""
    for device, gpu in zip(draft.gpu.devices, gpus, strict=True):
        if gpu.use is GpuUse.WHOLE or gpu.model.placements_known:
            continue
        view = device.view.child("model")
        what = f"the placements of MIG slices on the {gpu.model.product_name} are not public"
        if draft.gpu.backend is GpuBackend.SIMULATED:
            view.error(
                "gpu.placements", f"{what}, so that its slices cannot be simulated", "name another model, or a real GPU"
            )
        else:
            view.warning(
                "gpu.placements",
                f"{what}: whether all slices fit is known when `plan` has read them from the GPU",
                "switch MIG mode on before `plan`: the driver then lists them",
            )


def _said_elsewhere(draft: Draft, gpus: list[GpuState], shares: tuple[Share, ...]) -> bool:
    """Whether the checks of names, shares and strategy have found a reason that makes this question moot."""
    strategy = draft.gpu.strategy
    offered = {name for gpu in gpus if gpu.use is not GpuUse.WHOLE for name in (gpu.allowed or gpu.model.profile_names)}
    return any(
        (share.whole and strategy is GpuStrategy.MIG)
        or (share.slices and strategy is GpuStrategy.WHOLE)
        or share.slices < sum(share.by_profile.values())
        or any(profile not in offered for profile in share.by_profile)
        for share in shares
    )


def _gpus(draft: Draft) -> list[GpuState] | None:
    """The GPUs as the solver takes them; None when one of them cannot be known offline."""
    if not draft.gpu.devices_view.complete:
        return None
    models = gpus_of(draft.gpu)
    found: dict[str, GpuState] = {}
    for index, device in enumerate(draft.gpu.devices):
        model = models[index]
        if device.spec.id in found:
            return None
        if model is None and can_slice(device, model):
            return None
        if model and any(name not in model.profile_names for name in device.spec.allowed_mig_profiles):
            return None  # said by the check of the device
        found[device.spec.id] = _gpu(device, model, draft.gpu.strategy)
    return list(found.values()) if draft.gpu.strategy is not None else None


def _gpu(device: DeviceDraft, model: GpuModel | None, strategy: GpuStrategy | None) -> GpuState:
    if strategy is GpuStrategy.WHOLE or not can_slice(device, model):
        use = GpuUse.WHOLE
    else:
        use = GpuUse.SLICES if strategy is GpuStrategy.MIG else GpuUse.ANY
    # A GPU that the catalogue lacks can still be handed over whole.
    known = model or GpuModel(
        id=device.spec.model, product_names=(device.spec.model,), pci_ids=(), architecture="", mig_capable=False
    )
    allowed = tuple(name for name in device.spec.allowed_mig_profiles if name in known.profile_names)
    return GpuState(device.spec.id, known, allowed=allowed, use=use)


def _demands(shares: Mapping[ClusterKind, Share]) -> list[Demand]:
    found: list[Demand] = []
    for kind, share in shares.items():
        named = [profile for profile, count in share.by_profile.items() for _ in range(count)]
        free = [None] * (share.slices - len(named))
        found += [Demand(f"{kind.value}-{n}", profile=name) for n, name in enumerate([*named, *free])]
        found += [Demand(f"{kind.value}-whole-{n}", whole=True) for n in range(share.whole)]
    return found


def _listed(demands: list[Demand]) -> str:
    counts = Counter(demand.kind for demand in demands)
    return ", ".join(f"{count} x {kind}" for kind, count in counts.items())
