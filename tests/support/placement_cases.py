"""Random placement questions, reproducible by seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from emulator.gpu.catalog import find_gpu
from emulator.gpu.model import GpuInstance, GpuModel
from emulator.gpu.placement.demand import Assignment, Demand, GpuState, GpuUse
from tests.support import placement_brute_force as brute_force

Case = tuple[list[GpuState], list[Demand], dict[str, Assignment]]


def gpu_model(name: str) -> GpuModel:
    found = find_gpu(name)
    assert found is not None
    return found


A100 = gpu_model("a100-sxm4-80gb")
MODELS = (A100, A100, A100, A100, gpu_model("a100-sxm4-40gb"), gpu_model("a30"), gpu_model("l40s"))


def small_case(seed: int, most_demands: int = 4) -> Case:
    """One or two GPUs with foreign instances, allow-lists and reservations; a few demands; some places held now."""
    rng = random.Random(seed)
    gpus = [_gpu(rng, n) for n in range(rng.choice([1, 2, 2]))]
    names = sorted({name for gpu in gpus for name in gpu.model.profile_names})
    demands = [_demand(rng, names, n) for n in range(rng.randint(1, most_demands))]
    current: dict[str, Assignment] = {}
    if rng.random() < 0.5:
        for demand in demands:
            where = _place(rng, rng.choice(gpus), demand)
            if where and rng.random() < 0.6:
                current[demand.id] = where
    return gpus, demands, current


def _gpu(rng: random.Random, number: int) -> GpuState:
    model = rng.choice(MODELS)
    standing: tuple[GpuInstance, ...] = ()
    allowed: tuple[str, ...] = ()
    if model.mig_capable:
        for _ in range(rng.choice([0, 0, 1, 2])):
            profile = rng.choice(model.profiles)
            placement = rng.choice(profile.placements or ())
            taken = tuple((item.profile, item.placement) for item in standing)
            if brute_force.legal(model, (*taken, (profile.name, placement))):
                standing = (*standing, GpuInstance(profile.name, placement, busy=True))
        if rng.random() < 0.2:
            allowed = tuple(sorted(rng.sample(model.profile_names, rng.randint(1, len(model.profiles)))))
    use = rng.choice([GpuUse.ANY] * 6 + list(GpuUse))
    return GpuState(f"GPU-{number}", model, standing, allowed, use)


def _demand(rng: random.Random, names: Sequence[str], number: int) -> Demand:
    dice = rng.random()
    if dice < 0.08:
        return Demand(f"d{number}", whole=True)
    return Demand(f"d{number}", None if dice < 0.2 or not names else rng.choice(names))


def _place(rng: random.Random, gpu: GpuState, demand: Demand) -> Assignment | None:
    if demand.whole:
        return Assignment(demand.id, gpu.id)
    profile = brute_force.wanted_profile(gpu, demand)
    if profile is None:
        return None
    return Assignment(demand.id, gpu.id, profile.name, rng.choice(profile.placements or ()))


def fleet_case(seed: int, gpus: int) -> tuple[list[GpuState], list[Demand]]:
    """Empty A100s and demands cut from random legal layouts of so many GPUs: feasible, and often tight."""
    rng = random.Random(seed)
    density = rng.choice([0.2, 0.5, 0.8, 1.0])
    demands: list[Demand] = []
    options = [(profile, placement) for profile in A100.profiles for placement in profile.placements or ()]
    for number in range(gpus):
        rng.shuffle(options)
        taken, media = 0, False
        for profile, placement in options:
            if taken & placement.mask or (profile.media_extensions and media) or rng.random() > density:
                continue
            if profile.compute_slices == 7 and rng.random() < 0.8:
                continue
            taken |= placement.mask
            media = media or profile.media_extensions
            demands.append(Demand(f"d{number}-{placement.start}", profile.name))
    rng.shuffle(demands)
    return [GpuState(f"GPU-{n}", A100) for n in range(gpus)], demands
