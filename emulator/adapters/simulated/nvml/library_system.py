"""Symbols for the system and for GPUs as such: version, count, handles, identity, memory, processes."""

from __future__ import annotations

import ctypes
from typing import cast

from emulator.adapters.simulated.nvml.engine import (
    INSUFFICIENT_SIZE,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    NvmlReturnError,
    gpu_memory,
    gpu_model,
    instance,
    profile_of,
    visible,
)
from emulator.adapters.simulated.nvml.library_args import (
    Session,
    Symbols,
    check_version,
    fill,
    number,
    put,
    put_handle,
    put_text,
    target,
)
from emulator.adapters.simulated.nvml.store import SimGpu

_MIB = 1024 * 1024
# NVML_DEVICE_ARCH_* of nvml.h.
_ARCHITECTURES = {"turing": 6, "ampere": 7, "ada": 8, "hopper": 9, "blackwell": 10}


def symbols(session: Session) -> Symbols:
    """The functions of this topic by symbol."""
    return {**_system(session), **_identity(session), **_load(session)}


def _system(session: Session) -> Symbols:
    store = session.store

    def driver_version(buffer: object, size: object) -> None:
        put_text(buffer, size, store.look().driver_version)

    def nvml_version(buffer: object, size: object) -> None:
        put_text(buffer, size, f"13.{store.look().driver_version}")

    def cuda_version(out: object) -> None:
        put(out, 13000)

    def process_name(pid: object, buffer: object, size: object) -> None:
        for gpu in store.look().gpus:
            for process in gpu.processes:
                if process.pid == number(pid):
                    put_text(buffer, size, process.name)
                    return
        raise NvmlReturnError(NOT_FOUND)

    def count(out: object) -> None:
        put(out, len(visible(store.look())))

    def by_index(index: object, out: object) -> None:
        gpus = visible(store.look())
        at = number(index)
        if not 0 <= at < len(gpus):
            raise NvmlReturnError(INVALID_ARGUMENT)
        if gpus[at].lost:
            session.gpu(_pointer(session, gpus[at]))
        put_handle(out, session.gpu_handle(gpus[at]))

    def by_uuid(uuid: object, out: object) -> None:
        _put_matching(session, out, lambda gpu: gpu.uuid == _text(uuid))

    def by_pci(address: object, out: object) -> None:
        # The library accepts a domain of 4 or 8 digits, in upper or lower case.
        wanted = _text(address).lower()
        wanted = wanted[4:] if len(wanted.partition(":")[0]) == 8 else wanted
        _put_matching(session, out, lambda gpu: gpu.pci_address == wanted)

    def by_serial(serial: object, out: object) -> None:
        _put_matching(session, out, lambda gpu: _serial(gpu) == _text(serial))

    return {
        "nvmlSystemGetDriverVersion": driver_version,
        "nvmlSystemGetNVMLVersion": nvml_version,
        "nvmlSystemGetCudaDriverVersion": cuda_version,
        "nvmlSystemGetCudaDriverVersion_v2": cuda_version,
        "nvmlSystemGetProcessName": process_name,
        "nvmlDeviceGetCount_v2": count,
        "nvmlDeviceGetHandleByIndex_v2": by_index,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetHandleByPciBusId_v2": by_pci,
        "nvmlDeviceGetHandleBySerial": by_serial,
    }


def _identity(session: Session) -> Symbols:
    def name(device: object, buffer: object, size: object) -> None:
        gpu = session.gpu(device)
        suffix = ""
        handle = session.handle(device)
        if session.is_mig_device(handle):
            profile = profile_of(gpu, instance(gpu, handle.gi).profile_id)
            suffix = f" MIG {profile.name}"
        put_text(buffer, size, gpu_model(gpu.model).product_name + suffix)

    def uuid(device: object, buffer: object, size: object) -> None:
        gpu = session.gpu(device)
        handle = session.handle(device)
        text = gpu.uuid
        if session.is_mig_device(handle):
            text = f"MIG-{gpu.uuid.removeprefix('GPU-')[:-4]}{handle.gi:02x}{handle.ci:02x}"
        put_text(buffer, size, text)

    def serial(device: object, buffer: object, size: object) -> None:
        put_text(buffer, size, _serial(session.gpu(device)))

    def index(device: object, out: object) -> None:
        gpu = session.gpu(device)
        put(out, [item.minor for item in visible(session.store.look())].index(gpu.minor))

    def minor(device: object, out: object) -> None:
        put(out, session.gpu(device).minor)

    def pci(device: object, out: object) -> None:
        gpu = session.gpu(device)
        vendor, code = gpu_model(gpu.model).pci_ids[0].split(":")
        domain, bus, rest = gpu.pci_address.split(":")
        fill(
            out,
            busIdLegacy=gpu.pci_address.encode(),
            busId=f"0000{gpu.pci_address}".upper().encode(),
            domain=int(domain, 16),
            bus=int(bus, 16),
            device=int(rest.split(".")[0], 16),
            pciDeviceId=int(code, 16) << 16 | int(vendor, 16),
            pciSubSystemId=int(code, 16) << 16 | int(vendor, 16),
        )

    def architecture(device: object, out: object) -> None:
        put(out, _ARCHITECTURES[gpu_model(session.gpu(device).model).architecture])

    def persistence(device: object, out: object) -> None:
        gpu = session.gpu(device)
        put(out, int(any(process.name == "nvidia-persistenced" for process in gpu.processes)))

    return {
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetSerial": serial,
        "nvmlDeviceGetIndex": index,
        "nvmlDeviceGetMinorNumber": minor,
        "nvmlDeviceGetPciInfo_v3": pci,
        "nvmlDeviceGetArchitecture": architecture,
        "nvmlDeviceGetPersistenceMode": persistence,
    }


def _load(session: Session) -> Symbols:
    def amounts(device: object) -> tuple[int, int]:
        """Total and used MiB of a GPU or of a MIG device."""
        gpu = session.gpu(device)
        handle = session.handle(device)
        total = gpu_memory(gpu_model(gpu.model))
        processes = gpu.processes
        if session.is_mig_device(handle):
            total = profile_of(gpu, instance(gpu, handle.gi).profile_id).memory_mib or 0
            processes = [item for item in processes if item.gi_id == handle.gi]
        return total, sum(item.memory_mib for item in processes)

    def memory(device: object, out: object) -> None:
        total, used = amounts(device)
        fill(out, total=total * _MIB, used=used * _MIB, free=(total - used) * _MIB)

    def memory_v2(device: object, out: object) -> None:
        session.gpu(device)
        check_version(out, 2)
        memory(device, out)
        fill(out, reserved=0)

    def utilisation(device: object, out: object) -> None:
        gpu = session.gpu(device)
        if gpu.mig:  # utilisation is not reported while MIG is on
            raise NvmlReturnError(NOT_SUPPORTED)
        total, used = amounts(device)
        fill(out, gpu=gpu.utilisation, memory=used * 100 // total)

    def processes(device: object, count: object, array: object) -> None:
        gpu = session.gpu(device)
        handle = session.handle(device)
        found = [item for item in gpu.processes if not item.client]
        if session.is_mig_device(handle):
            found = [item for item in found if item.gi_id == handle.gi]
        room = number(target(count)) if array is not None else 0
        put(count, len(found))
        if len(found) > room:
            raise NvmlReturnError(INSUFFICIENT_SIZE)
        entries = cast("ctypes.Array[ctypes.Structure]", target(array))
        for at, item in enumerate(found):
            gi = 0xFFFFFFFF if item.gi_id is None else item.gi_id
            used = item.memory_mib * _MIB
            fill(entries[at], pid=item.pid, usedGpuMemory=used, gpuInstanceId=gi, computeInstanceId=0)

    def no_processes(device: object, count: object, _array: object) -> None:
        session.gpu(device)
        put(count, 0)

    return {
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetMemoryInfo_v2": memory_v2,
        "nvmlDeviceGetUtilizationRates": utilisation,
        "nvmlDeviceGetComputeRunningProcesses_v2": processes,
        "nvmlDeviceGetComputeRunningProcesses_v3": processes,
        "nvmlDeviceGetGraphicsRunningProcesses_v2": no_processes,
        "nvmlDeviceGetGraphicsRunningProcesses_v3": no_processes,
    }


def _pointer(session: Session, gpu: SimGpu) -> ctypes.c_void_p:
    return ctypes.c_void_p(session.gpu_handle(gpu).pack())


def _put_matching(session: Session, out: object, matches: object) -> None:
    for gpu in visible(session.store.look()):
        if callable(matches) and matches(gpu):
            session.gpu(_pointer(session, gpu))
            put_handle(out, session.gpu_handle(gpu))
            return
    raise NvmlReturnError(NOT_FOUND)


def _text(argument: object) -> str:
    value = getattr(argument, "value", argument)
    return value.decode() if isinstance(value, bytes) else str(value)


def _serial(gpu: SimGpu) -> str:
    """Thirteen digits, as printed on GPUs; derived from the UUID."""
    return str(int(gpu.uuid.removeprefix("GPU-").replace("-", ""), 16))[-13:]
