"""Arguments of the simulated library: opaque handles, out-parameters, versioned structs.

`Session` holds what the functions of each topic need: the GPUs and the caller's rights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from emulator.adapters.simulated.nvml.engine import (
    ARGUMENT_VERSION_MISMATCH,
    GPU_IS_LOST,
    INSUFFICIENT_SIZE,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NvmlReturnError,
    find,
)
from emulator.adapters.simulated.nvml.store import GpuStore, SimGpu, SimInstance, SimState

_GPU, _INSTANCE, _COMPUTE, _MIG_DEVICE = 1, 2, 3, 4
Function = Callable[..., None]
Symbols = Mapping[str, Function]


@dataclass(frozen=True, slots=True)
class Handle:
    """The object behind an opaque pointer."""

    kind: int
    minor: int
    gi: int = 0
    ci: int = 0
    loads: int = 0

    def pack(self) -> int:
        return (self.loads & 0xFFFF) << 40 | self.kind << 32 | self.minor << 16 | self.gi << 8 | self.ci

    @classmethod
    def unpack(cls, value: int) -> Handle:
        return cls(value >> 32 & 0xFF, value >> 16 & 0xFFFF, value >> 8 & 0xFF, value & 0xFF, value >> 40 & 0xFFFF)


# ---------------------------------------------------------------- ctypes arguments
def target(argument: object) -> object:
    """The object that a `byref(...)` or `pointer(...)` refers to; arrays and buffers are returned as they are."""
    if hasattr(argument, "_obj"):  # the light-weight reference made by byref
        return argument._obj
    if isinstance(argument, ctypes._Pointer):
        return argument.contents
    return argument


def number(argument: object) -> int:
    """A plain int or a ctypes integer."""
    value = getattr(argument, "value", argument)
    return int(cast(int, value))


def put(argument: object, value: object) -> None:
    """Write an out-parameter that is an integer or a double."""
    target(argument).value = value  # type: ignore[attr-defined]


def put_text(buffer: object, size: object, text: str) -> None:
    """Write a C string into a caller's buffer of `size` bytes, the terminating zero included."""
    data = text.encode()
    limit = number(target(size))
    if len(data) + 1 > limit:
        raise NvmlReturnError(INSUFFICIENT_SIZE)
    target(buffer).value = data  # type: ignore[attr-defined]


def put_handle(slot: object, handle: Handle) -> None:
    """Write an opaque pointer into a variable (by reference) or a field of a struct.

    It does not point to memory and must not be dereferenced.
    """
    pointer = slot._obj if hasattr(slot, "_obj") else slot
    ctypes.c_void_p.from_buffer(cast(ctypes.c_void_p, pointer)).value = handle.pack()


def put_list(count: object, array: object, values: list[int]) -> None:
    """The two-call protocol: without an array, or with one that is too small, return the count."""
    room = number(target(count)) if array is not None else 0
    put(count, len(values))
    if len(values) > room:
        raise NvmlReturnError(INSUFFICIENT_SIZE)
    for at, value in enumerate(values):
        target(array)[at] = value  # type: ignore[index]


def put_handles(array: object, handles: list[Handle]) -> None:
    """Fill an array of opaque pointers, sized by the caller for the profile's instance count."""
    items = cast("ctypes.Array[ctypes.c_void_p]", target(array))
    if len(handles) > len(items):
        raise NvmlReturnError(INSUFFICIENT_SIZE)
    for at, handle in enumerate(handles):
        items[at] = ctypes.cast(ctypes.c_void_p(handle.pack()), items._type_)


def fill(struct: object, **values: object) -> None:
    """Set those fields that this version of the struct has."""
    record = target(struct)
    for name, value in values.items():
        if hasattr(type(record), name):
            setattr(record, name, value)


def check_version(struct: object, *versions: int) -> None:
    """Check that the struct carries `sizeof | version << 24`; anything else is an argument version mismatch."""
    record = target(struct)
    size = ctypes.sizeof(cast(ctypes.Structure, record))
    if record.version not in {size | version << 24 for version in versions}:  # type: ignore[attr-defined]
        raise NvmlReturnError(ARGUMENT_VERSION_MISMATCH)


@dataclass(slots=True)
class Session:
    """A loaded library: its GPUs, and whether the caller counts as root."""

    store: GpuStore
    root: bool

    def require_root(self) -> None:
        if not self.root:
            raise NvmlReturnError(NO_PERMISSION)

    def handle(self, argument: object, kind: int | None = None, *, now: SimState | None = None) -> Handle:
        """The handle behind an opaque pointer; INVALID_ARGUMENT for null, foreign and wrong ones.

        Args:
            now: the present state, if it is at hand.
        """
        value = ctypes.cast(cast(ctypes.c_void_p, argument), ctypes.c_void_p).value
        found = Handle.unpack(value or 0)
        if found.kind not in (_GPU, _INSTANCE, _COMPUTE, _MIG_DEVICE) or kind not in (None, found.kind):
            raise NvmlReturnError(INVALID_ARGUMENT)
        if found.loads != (now or self.store.look()).driver_loads & 0xFFFF:
            raise NvmlReturnError(GPU_IS_LOST)
        return found

    def gpu(self, argument: object, state: SimState | None = None) -> SimGpu:
        """The GPU of a device handle, in `state` when it is to be changed."""
        now = self.store.look()
        handle = self.handle(argument, now=now)
        if handle.kind not in (_GPU, _MIG_DEVICE):
            raise NvmlReturnError(INVALID_ARGUMENT)
        return find(state or now, handle.minor)

    def gpu_handle(self, gpu: SimGpu) -> Handle:
        return Handle(_GPU, gpu.minor, loads=self.store.look().driver_loads)

    def instance_handle(self, gpu: SimGpu, gi: int) -> Handle:
        return Handle(_INSTANCE, gpu.minor, gi, loads=self.store.look().driver_loads)

    def compute_handle(self, gpu: SimGpu, gi: int, ci: int) -> Handle:
        return Handle(_COMPUTE, gpu.minor, gi, ci, loads=self.store.look().driver_loads)

    def mig_device_handle(self, gpu: SimGpu, gi: int, ci: int) -> Handle:
        return Handle(_MIG_DEVICE, gpu.minor, gi, ci, loads=self.store.look().driver_loads)

    def is_mig_device(self, handle: Handle) -> bool:
        return handle.kind == _MIG_DEVICE

    def instance_of(self, argument: object) -> Handle:
        return self.handle(argument, _INSTANCE)

    def compute_of(self, argument: object) -> Handle:
        return self.handle(argument, _COMPUTE)


def instance_of(gpu: SimGpu, handle: Handle) -> SimInstance:
    """The instance of a handle; INVALID_ARGUMENT if it was destroyed."""
    for item in gpu.instances:
        if item.id == handle.gi:
            return item
    raise NvmlReturnError(INVALID_ARGUMENT)
