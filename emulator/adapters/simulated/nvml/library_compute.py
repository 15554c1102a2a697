"""Symbols for the contents of GPU instances: compute instances, and MIG devices, which pair the two."""

from __future__ import annotations

from collections.abc import Callable

from emulator.adapters.simulated.nvml import engine as engine
from emulator.adapters.simulated.nvml import engine_instances as carving
from emulator.adapters.simulated.nvml.engine import INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, NvmlReturnError
from emulator.adapters.simulated.nvml.library_args import (
    Handle,
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
from emulator.adapters.simulated.nvml.store import SimCompute, SimGpu, SimInstance, SimState


def symbols(session: Session) -> Symbols:
    """The functions of this topic by symbol."""
    return {**_compute(session), **_devices(session)}


def _compute_of(item: SimInstance, number: int) -> SimCompute:
    for compute in item.compute:
        if compute.id == number:
            return compute
    raise NvmlReturnError(NOT_FOUND)


def _compute(session: Session) -> Symbols:
    def look(handle: object) -> tuple[SimGpu, SimInstance]:
        found = session.instance_of(handle)
        gpu = engine.find(session.store.look(), found.minor)
        return gpu, instance_of(gpu, found)

    def info(handle: object, index: object, engine_profile: object, out: object) -> None:
        gpu, item = look(handle)
        if number(engine_profile) != 0:
            raise NvmlReturnError(INVALID_ARGUMENT)
        size = carving.compute_slices(gpu, item, number(index))
        whole = engine.profile_of(gpu, item.profile_id)
        multiprocessors = (whole.sm_count or whole.compute_slices * 14) // whole.compute_slices * size
        most = whole.compute_slices // size
        fill(out, id=number(index), sliceCount=size, instanceCount=most, multiprocessorCount=multiprocessors)

    def info_versioned(handle: object, index: object, engine_profile: object, out: object) -> None:
        gpu, item = look(handle)
        check_version(out, 2)
        info(handle, index, engine_profile, out)
        size = carving.compute_slices(gpu, item, number(index))
        whole = engine.profile_of(gpu, item.profile_id)
        prefix = "" if size == whole.compute_slices else f"{size}c."
        fill(out, name=f"MIG {prefix}{whole.name}".encode())

    def capacity(handle: object, profile: object, out: object) -> None:
        gpu, item = look(handle)
        session.require_root()
        size = carving.compute_slices(gpu, item, number(profile))
        put(out, len(carving.compute_starts(gpu, item, size)))

    def create(handle: object, profile: object, out: object) -> None:
        found = session.instance_of(handle)
        session.require_root()
        with session.store.change() as state:
            gpu = engine.find(state, found.minor)
            made = carving.create_compute(gpu, instance_of(gpu, found), number(profile))
        put_handle(out, session.compute_handle(gpu, found.gi, made.id))

    def of_profile(handle: object, profile: object, array: object, count: object) -> None:
        gpu, item = look(handle)
        session.require_root()
        wanted = [other for other in item.compute if other.profile_id == number(profile)]
        put_handles(array, [session.compute_handle(gpu, item.id, other.id) for other in wanted])
        put(count, len(wanted))

    def by_id(handle: object, compute: object, out: object) -> None:
        gpu, item = look(handle)
        session.require_root()
        put_handle(out, session.compute_handle(gpu, item.id, _compute_of(item, number(compute)).id))

    def destroy(handle: object) -> None:
        found = session.compute_of(handle)
        session.require_root()
        with session.store.change() as state:
            gpu = engine.find(state, found.minor)
            item = instance_of(gpu, found)
            carving.destroy_compute(gpu, item, _compute_of(item, found.ci))

    def compute_info(handle: object, out: object) -> None:
        found = session.compute_of(handle)
        gpu = engine.find(session.store.look(), found.minor)
        item = instance_of(gpu, found)
        compute = _compute_of(item, found.ci)
        record = target(out)
        put_handle(record.device, session.gpu_handle(gpu))  # type: ignore[attr-defined]
        put_handle(record.gpuInstance, session.instance_handle(gpu, item.id))  # type: ignore[attr-defined]
        fill(record, id=compute.id, profileId=compute.profile_id)
        fill(record.placement, start=compute.start, size=compute.size)  # type: ignore[attr-defined]

    return {
        "nvmlGpuInstanceGetComputeInstanceProfileInfo": info,
        "nvmlGpuInstanceGetComputeInstanceProfileInfoV": info_versioned,
        "nvmlGpuInstanceGetComputeInstanceRemainingCapacity": capacity,
        "nvmlGpuInstanceCreateComputeInstance": create,
        "nvmlGpuInstanceGetComputeInstances": of_profile,
        "nvmlGpuInstanceGetComputeInstanceById": by_id,
        "nvmlComputeInstanceDestroy": destroy,
        "nvmlComputeInstanceGetInfo_v2": compute_info,
    }


def _devices(session: Session) -> Symbols:
    """MIG devices: pairs of a GPU instance and a compute instance in it."""

    def most(device: object, out: object) -> None:
        facts = engine.gpu_model(session.gpu(device).model)
        put(out, facts.max_gpu_instances)

    def by_index(device: object, index: object, out: object) -> None:
        gpu = session.gpu(device)
        engine.require_mig(gpu)
        pairs = [(item, compute) for item in gpu.instances for compute in item.compute]
        at = number(index)
        if not 0 <= at < len(pairs):
            in_range = at < engine.gpu_model(gpu.model).max_gpu_instances
            raise NvmlReturnError(NOT_FOUND if in_range else INVALID_ARGUMENT)
        item, compute = pairs[at]
        put_handle(out, session.mig_device_handle(gpu, item.id, compute.id))

    def is_mig(device: object, out: object) -> None:
        put(out, int(session.is_mig_device(session.handle(device))))

    def part(pick: Callable[[Handle], int]) -> Callable[[object, object], None]:
        def get(device: object, out: object) -> None:
            handle = session.handle(device)
            if not session.is_mig_device(handle):
                raise NvmlReturnError(NOT_SUPPORTED)
            put(out, pick(handle))

        return get

    def parent(device: object, out: object) -> None:
        put_handle(out, session.gpu_handle(session.gpu(device)))

    def attributes(device: object, out: object) -> None:
        state: SimState = session.store.look()
        gpu = session.gpu(device, state)
        handle = session.handle(device)
        if not session.is_mig_device(handle):
            raise NvmlReturnError(NOT_SUPPORTED)
        item = instance_of(gpu, handle)
        profile = engine.profile_of(gpu, item.profile_id)
        fill(
            out,
            multiprocessorCount=profile.sm_count or 0,
            gpuInstanceSliceCount=profile.compute_slices,
            computeInstanceSliceCount=_compute_of(item, handle.ci).size,
            memorySizeMB=profile.memory_mib or 0,
        )

    return {
        "nvmlDeviceGetMaxMigDeviceCount": most,
        "nvmlDeviceGetMigDeviceHandleByIndex": by_index,
        "nvmlDeviceIsMigDeviceHandle": is_mig,
        "nvmlDeviceGetGpuInstanceId": part(lambda handle: handle.gi),
        "nvmlDeviceGetComputeInstanceId": part(lambda handle: handle.ci),
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": parent,
        "nvmlDeviceGetAttributes_v2": attributes,
    }
