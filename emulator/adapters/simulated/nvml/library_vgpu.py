"""Symbols for virtualisation and vGPUs. NVML reports vGPUs and cannot create any."""

from __future__ import annotations

from emulator.adapters.simulated.nvml import engine_vgpu as vgpu
from emulator.adapters.simulated.nvml.engine import (
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    NvmlReturnError,
    gpu_model,
)
from emulator.adapters.simulated.nvml.library_args import (
    Session,
    Symbols,
    check_version,
    number,
    put,
    put_list,
    put_text,
    target,
)
from emulator.adapters.simulated.nvml.store import SimGpu, SimVgpu
from emulator.gpu.ports import VirtualizationMode


def symbols(session: Session) -> Symbols:
    """The functions of this topic by symbol."""
    return {**_gpus(session), **_types(session), **_active(session)}


def _capable(session: Session, device: object) -> SimGpu:
    gpu = session.gpu(device)
    if not gpu_model(gpu.model).vgpu_capable:
        raise NvmlReturnError(NOT_SUPPORTED)
    return gpu


def _gpus(session: Session) -> Symbols:
    def mode(device: object, out: object) -> None:
        gpu = session.gpu(device)
        host = gpu_model(gpu.model).vgpu_capable
        put(out, int(VirtualizationMode.HOST_VGPU if host else VirtualizationMode.NONE))

    def host_mode(device: object, out: object) -> None:
        gpu = _capable(session, device)
        put(out, int(bool(gpu_model(gpu.model).sriov)))

    def supported(device: object, count: object, array: object) -> None:
        put_list(count, array, [item.id for item in vgpu.types(_capable(session, device))])

    def creatable(device: object, count: object, array: object) -> None:
        gpu = _capable(session, device)
        put_list(count, array, [item.id for item in vgpu.types(gpu) if vgpu.fits(gpu, item)])

    def active(device: object, count: object, array: object) -> None:
        gpu = _capable(session, device)
        # As on hardware, a vGPU is active once a guest runs on it.
        held = [_instance_number(gpu, item) for item in gpu.vgpus if item.held]
        put_list(count, array, held)

    return {
        "nvmlDeviceGetVirtualizationMode": mode,
        "nvmlDeviceGetHostVgpuMode": host_mode,
        "nvmlDeviceGetSupportedVgpus": supported,
        "nvmlDeviceGetCreatableVgpus": creatable,
        "nvmlDeviceGetActiveVgpus": active,
    }


def _types(session: Session) -> Symbols:
    def facts(type_id: object) -> vgpu.TypeFacts:
        for gpu in session.store.look().gpus:
            found = vgpu.type_facts(gpu, number(type_id))
            if found is not None:
                return found
        raise NvmlReturnError(INVALID_ARGUMENT)

    def name(type_id: object, buffer: object, size: object) -> None:
        put_text(buffer, size, facts(type_id).type.name)

    def kind(type_id: object, buffer: object, size: object) -> None:
        classes = {"C": "Compute", "Q": "Quadro", "A": "NVIDIA Virtual Apps", "B": "NVIDIA Virtual PC"}
        put_text(buffer, size, classes.get(facts(type_id).type.short_name[-1], "Compute"))

    def profile(type_id: object, out: object) -> None:
        put(out, facts(type_id).gi_profile_id)

    def most(device: object, type_id: object, out: object) -> None:
        found = vgpu.type_facts(_capable(session, device), number(type_id))
        if found is None:
            raise NvmlReturnError(INVALID_ARGUMENT)
        put(out, found.max_instances)

    def most_per_vm(type_id: object, out: object) -> None:
        facts(type_id)
        put(out, 16)

    def most_per_instance(out: object) -> None:
        check_version(out, 1)
        record = target(out)
        found = facts(record.vgpuTypeId)  # type: ignore[attr-defined]
        if found.gi_profile_id == vgpu.TIME_SLICED:
            raise NvmlReturnError(NOT_SUPPORTED)
        record.maxInstancePerGI = found.per_instance  # type: ignore[attr-defined]

    def framebuffer(type_id: object, out: object) -> None:
        # The number in the name: A100D-1-10C has 10 GiB, RTX6000-2Q has 2.
        digits = "".join(c for c in facts(type_id).type.short_name.rpartition("-")[2] if c.isdigit())
        put(out, int(digits or "0") * 1024**3)

    return {
        "nvmlVgpuTypeGetName": name,
        "nvmlVgpuTypeGetClass": kind,
        "nvmlVgpuTypeGetGpuInstanceProfileId": profile,
        "nvmlVgpuTypeGetMaxInstances": most,
        "nvmlVgpuTypeGetMaxInstancesPerVm": most_per_vm,
        "nvmlVgpuTypeGetMaxInstancesPerGpuInstance": most_per_instance,
        "nvmlVgpuTypeGetFramebufferSize": framebuffer,
    }


def _instance_number(gpu: SimGpu, item: SimVgpu) -> int:
    """NVML's number of a running vGPU; the simulated one is derived from the GPU and its function."""
    return 3251634000 + gpu.minor * 256 + vgpu.parents(gpu).index(item.parent)


def _active(session: Session) -> Symbols:
    def find(instance: object) -> SimVgpu:
        for gpu in session.store.look().gpus:
            for item in gpu.vgpus:
                if item.held and _instance_number(gpu, item) == number(instance):
                    return item
        raise NvmlReturnError(NOT_FOUND)

    def kind(instance: object, out: object) -> None:
        put(out, find(instance).type_id)

    def gpu_instance(instance: object, out: object) -> None:
        found = find(instance)
        put(out, 0xFFFFFFFF if found.gi_id is None else found.gi_id)

    def mdev_uuid(instance: object, buffer: object, size: object) -> None:
        found = find(instance)
        if not found.uuid:
            raise NvmlReturnError(NOT_SUPPORTED)
        put_text(buffer, size, found.uuid)

    return {
        "nvmlVgpuInstanceGetType": kind,
        "nvmlVgpuInstanceGetGpuInstanceId": gpu_instance,
        "nvmlVgpuInstanceGetMdevUUID": mdev_uuid,
    }
