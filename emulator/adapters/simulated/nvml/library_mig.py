"""Symbols for MIG: mode, profiles, GPU instances, compute instances, MIG devices."""

from __future__ import annotations

from emulator.adapters.simulated.nvml import engine as engine
from emulator.adapters.simulated.nvml import engine_instances as carving
from emulator.adapters.simulated.nvml.engine import (
    INSUFFICIENT_SIZE,
    NvmlReturnError,
)
from emulator.adapters.simulated.nvml.library_args import (
    Session,
    Symbols,
    check_version,
    fill,
    instance_of,
    number,
    put,
    put_handle,
    put_handles,
    target,
)
from emulator.gpu.model import MigProfile, Placement


def symbols(session: Session) -> Symbols:
    """The functions of this topic by symbol."""
    return {**_mode(session), **_profiles(session), **_instances(session)}


def _mode(session: Session) -> Symbols:
    def get(device: object, current: object, pending: object) -> None:
        now, later = engine.mig_mode(session.gpu(device))
        put(current, int(now))
        put(pending, int(later))

    def set_(device: object, mode: object, status: object) -> None:
        session.gpu(device)
        session.require_root()
        with session.store.change() as state:
            result = engine.set_mig_mode(session.gpu(device, state), number(mode))
        put(status, result)

    return {"nvmlDeviceGetMigMode": get, "nvmlDeviceSetMigMode": set_}


def _profiles(session: Session) -> Symbols:
    def info(device: object, index: object, out: object) -> None:
        gpu = session.gpu(device)
        _fill_profile(out, carving.profile_at(gpu, number(index)))

    def info_versioned(device: object, index: object, out: object) -> None:
        gpu = session.gpu(device)
        check_version(out, 2, 3)
        profile = carving.profile_at(gpu, number(index))
        _fill_profile(out, profile)
        fill(out, name=f"MIG {profile.name}".encode(), capabilities=0)

    def possible(device: object, profile: object, array: object, count: object) -> None:
        gpu = session.gpu(device)
        session.require_root()
        found = carving.placements(gpu, number(profile))
        room = number(target(count)) if array is not None else 0
        put(count, len(found))
        if array is None:
            return
        if room < len(found):
            raise NvmlReturnError(INSUFFICIENT_SIZE)
        for at, place in enumerate(found):
            fill(target(array)[at], start=place.start, size=place.size)  # type: ignore[index]

    def capacity(device: object, profile: object, out: object) -> None:
        gpu = session.gpu(device)
        session.require_root()
        put(out, carving.remaining_capacity(gpu, number(profile)))

    return {
        "nvmlDeviceGetGpuInstanceProfileInfo": info,
        "nvmlDeviceGetGpuInstanceProfileInfoV": info_versioned,
        "nvmlDeviceGetGpuInstancePossiblePlacements": possible,
        "nvmlDeviceGetGpuInstancePossiblePlacements_v2": possible,
        "nvmlDeviceGetGpuInstanceRemainingCapacity": capacity,
    }


def _fill_profile(out: object, profile: MigProfile) -> None:
    fill(
        out,
        id=profile.gi_profile_id,
        isP2pSupported=0,
        sliceCount=profile.compute_slices,
        instanceCount=profile.max_instances,
        multiprocessorCount=profile.sm_count or profile.compute_slices * 14,
        copyEngineCount=profile.compute_slices,
        jpegCount=int(profile.media_extensions),
        ofaCount=int(profile.media_extensions),
        memorySizeMB=profile.memory_mib or 0,
    )


def _instances(session: Session) -> Symbols:
    def make(device: object, profile: object, place: Placement | None, out: object) -> None:
        session.gpu(device)
        session.require_root()
        with session.store.change() as state:
            gpu = session.gpu(device, state)
            made = carving.create(gpu, number(profile), place)
        put_handle(out, session.instance_handle(gpu, made.id))

    def create(device: object, profile: object, out: object) -> None:
        make(device, profile, None, out)

    def create_placed(device: object, profile: object, placement: object, out: object) -> None:
        wanted = target(placement)
        make(device, profile, Placement(wanted.start, wanted.size), out)  # type: ignore[attr-defined]

    def destroy(handle: object) -> None:
        found = session.instance_of(handle)
        session.require_root()
        with session.store.change() as state:
            gpu = engine.find(state, found.minor)
            carving.destroy(gpu, instance_of(gpu, found))

    def of_profile(device: object, profile: object, array: object, count: object) -> None:
        gpu = session.gpu(device)
        session.require_root()
        found = carving.of_profile(gpu, number(profile))
        put_handles(array, [session.instance_handle(gpu, item.id) for item in found])
        put(count, len(found))

    def by_id(device: object, gi: object, out: object) -> None:
        gpu = session.gpu(device)
        session.require_root()
        engine.require_capable(gpu)
        put_handle(out, session.instance_handle(gpu, engine.instance(gpu, number(gi)).id))

    def info(handle: object, out: object) -> None:
        found = session.instance_of(handle)
        gpu = engine.find(session.store.look(), found.minor)
        item = instance_of(gpu, found)
        record = target(out)
        put_handle(record.device, session.gpu_handle(gpu))  # type: ignore[attr-defined]
        fill(record, id=item.id, profileId=item.profile_id)
        fill(record.placement, start=item.start, size=item.size)  # type: ignore[attr-defined]

    return {
        "nvmlDeviceCreateGpuInstance": create,
        "nvmlDeviceCreateGpuInstanceWithPlacement": create_placed,
        "nvmlGpuInstanceDestroy": destroy,
        "nvmlDeviceGetGpuInstances": of_profile,
        "nvmlDeviceGetGpuInstanceById": by_id,
        "nvmlGpuInstanceGetInfo": info,
    }
