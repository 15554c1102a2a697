"""The state of simulated GPUs, and the file that keeps it between commands.

Several processes and threads may use one directory. Changes happen under an exclusive `flock`, and the file is replaced
as a whole (temporary name, fsync, rename): readers need no lock, and a killed process leaves either the old state or
the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from emulator.core.errors import StateError
from emulator.core.fs import replace_file
from emulator.core.trust.opening import open_own
from emulator.gpu.ports import VgpuFramework

FORMAT = 1


@dataclass(slots=True)
class SimCompute:
    """A compute instance; `start` and `size` count compute slices of its GPU instance."""

    id: int
    profile_id: int
    start: int
    size: int


@dataclass(slots=True)
class SimInstance:
    """A GPU instance; `start` and `size` count memory slices."""

    id: int
    profile_id: int
    start: int
    size: int
    compute: list[SimCompute] = field(default_factory=list)


@dataclass(slots=True)
class SimVgpu:
    """A vGPU on a virtual function (`parent`). `held`: a domain has it open."""

    parent: str
    type_id: int
    uuid: str = ""
    gi_id: int | None = None
    held: bool = False


@dataclass(slots=True)
class SimProcess:
    """A process on the GPU. A `client` has the device open without computing (nvidia-persistenced, DCGM)."""

    pid: int
    name: str
    memory_mib: int = 0
    gi_id: int | None = None
    client: bool = False


@dataclass(slots=True)
class SimFunction:
    """Another PCI function: the audio function of a GPU, or a neighbour in its IOMMU group."""

    address: str
    vendor: str
    device: str
    class_code: str
    group: int
    driver: str = ""
    override: str = ""
    net: str = ""


@dataclass(slots=True)
class SimGpu:
    """A GPU. `mig` and `pending` are MIG mode now and after a reset; `held`: a guest has its VFIO group open."""

    id: str
    model: str
    pci_address: str
    uuid: str
    minor: int
    group: int
    mig: bool = False
    pending: bool = False
    driver: str = "nvidia"
    override: str = ""
    numvfs: int = 0
    lost: bool = False
    held: bool = False
    utilisation: int = 0
    instances: list[SimInstance] = field(default_factory=list)
    vgpus: list[SimVgpu] = field(default_factory=list)
    processes: list[SimProcess] = field(default_factory=list)


@dataclass(slots=True)
class SimFaults:
    """Faults to simulate, as data.

    Attributes:
        failures: NVML symbol -> its return code from now on.
        sriov_silent: `sriov-manage` exits 0 and does nothing.
        sriov_flaky: number of further runs that fail for a passing reason.
        vgpu_errno: errno of the next creations of a vGPU; 0: none.
    """

    failures: dict[str, int] = field(default_factory=dict)
    sriov_silent: bool = False
    sriov_flaky: int = 0
    vgpu_errno: int = 0


@dataclass(slots=True)
class SimState:
    """The whole state. `driver_loads` counts loads of the driver, each of which invalidates older handles."""

    boot_id: str = ""
    framework: str = VgpuFramework.MDEV.value
    driver_version: str = "580.95.05"
    driver_loaded: bool = True
    driver_loads: int = 0
    gpus: list[SimGpu] = field(default_factory=list)
    functions: list[SimFunction] = field(default_factory=list)
    faults: SimFaults = field(default_factory=SimFaults)


class _Call(threading.local):
    """The state that a call of the library, in this thread, began with."""

    state: SimState | None = None


class GpuStore:
    """Loads and changes the `SimState` kept in `directory/gpus.json`.

    Raises:
        StateError: the file is not ours, of a newer format, or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "gpus.json"
        self._name = str(self._path)
        self._cached: tuple[tuple[int, int, int], SimState] | None = None
        self._call = _Call()

    def look(self) -> SimState:
        """The present state; the caller must not change it."""
        if self._call.state is not None:
            return self._call.state
        cached = self._cached
        stamp = self._stamp()
        if stamp is None:
            return SimState()
        if cached is None or cached[0] != stamp:
            cached = (stamp, self._load())
            self._cached = cached
        return cached[1]

    def within_call(self, state: SimState | None) -> None:
        """Until None is given, this thread sees that state, or its own change: a call of the library looks once."""
        self._call.state = state

    @contextmanager
    def change(self) -> Iterator[SimState]:
        """The present state, to be changed; saved on leaving unless an exception ends the block."""
        self._call.state = None
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open_own(self._directory / "gpus.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # A separate copy, so that readers never see a refused or unfinished change.
            before = self._path.read_bytes() if self._stamp() else b""
            state = self._parsed(before) if before else SimState()
            yield state
            after = _encode(state)
            if after != before:
                replace_file(self._path, after)
                self._cached = None
        finally:
            os.close(lock)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            facts = os.stat(self._name)  # noqa: PTH116  asked for at every call of the library
        except FileNotFoundError:
            return None
        return (facts.st_ino, facts.st_mtime_ns, facts.st_size)

    def _load(self) -> SimState:
        return self._parsed(self._path.read_bytes())

    def _parsed(self, content: bytes) -> SimState:
        try:
            record = json.loads(content.decode("utf-8"))
            if not isinstance(record, dict) or record.get("format") != FORMAT:
                raise ValueError("unknown format")
            return _decode(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"the state of the simulated GPUs cannot be read: {error}",
                where=str(self._path),
                fix="remove the file; the simulated GPUs then start empty, without any slices",
            ) from error


_Record = dict[str, object]


def _encode(state: SimState) -> bytes:
    return json.dumps({"format": FORMAT, **_plain(state)}, separators=(",", ":"), default=_plain).encode()


def _plain(record: Any) -> dict[str, object]:
    """The fields of one of our types; `dataclasses.asdict` copies all that is in them, and takes ten times as long."""
    return {name: getattr(record, name) for name in record.__slots__}


def _list(record: _Record, key: str) -> list[_Record]:
    return cast(list[_Record], record.pop(key, []))


def _decode(record: _Record) -> SimState:
    """Rebuild the types. Unknown and missing keys raise the constructors' TypeError."""
    record.pop("format")
    # Earlier versions wrote the list as `boards`.
    gpus = [_gpu(item) for item in (_list(record, "gpus") + _list(record, "boards"))]
    functions = [SimFunction(**item) for item in _list(record, "functions")]  # type: ignore[arg-type]
    faults = SimFaults(**cast(_Record, record.pop("faults", {})))  # type: ignore[arg-type]
    return SimState(gpus=gpus, functions=functions, faults=faults, **record)  # type: ignore[arg-type]


def _gpu(record: _Record) -> SimGpu:
    instances = [_instance(item) for item in _list(record, "instances")]
    vgpus = [SimVgpu(**item) for item in _list(record, "vgpus")]  # type: ignore[arg-type]
    processes = [SimProcess(**item) for item in _list(record, "processes")]  # type: ignore[arg-type]
    return SimGpu(instances=instances, vgpus=vgpus, processes=processes, **record)  # type: ignore[arg-type]


def _instance(record: _Record) -> SimInstance:
    compute = [SimCompute(**item) for item in _list(record, "compute")]  # type: ignore[arg-type]
    return SimInstance(compute=compute, **record)  # type: ignore[arg-type]
