"""Rules of simulated boards: what exists, MIG mode, resets, reboots and reloads of the driver.

Pure operations over a `SimState`. A refusal is an `NvmlReturnError` with the return code that the real library
gives; the ctypes layer turns it into that code, sysfs into an errno.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from emulator.adapters.simulated.nvml.store import SimBoard, SimInstance, SimState
from emulator.core.errors import StateError
from emulator.gpu.catalog import find_board
from emulator.gpu.model import BoardModel, MigProfile, Placement, VgpuType

# Return codes of nvml.h.
SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
ARGUMENT_VERSION_MISMATCH = 25

# First number given to vGPU types whose number no public table holds. Types are looked up by name.
_FIRST_MADE_UP_TYPE = 9000


class NvmlReturnError(Exception):
    """A call is refused with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML return code {code}")
        self.code = code


@cache
def board_model(model: str) -> BoardModel:
    """The catalogue's board, with the geometry completed and every vGPU type numbered.

    No start list of the RTX PRO 6000 is public. A simulated board has to answer something, so it follows the
    general rule of NVIDIA's mock documentation: sizes are powers of two and starts are aligned to them.
    """
    found = find_board(model)
    if found is None:
        raise StateError(
            f"the state of the simulated GPUs names the board model {model!r}, which is not known",
            fix="remove gpus.json from the lab's directory: the simulated boards start anew",
        )
    slices = found.memory_slices or found.compute_slices
    profiles = tuple(_completed(found, profile, slices) for profile in found.profiles)
    types = tuple(_numbered(found, item, at) for at, item in enumerate(found.time_sliced_types))
    return replace(found, memory_slices=slices, profiles=profiles, time_sliced_types=types)


def _completed(board: BoardModel, profile: MigProfile, slices: int) -> MigProfile:
    size = profile.memory_slices or profile.compute_slices
    placements = profile.placements or tuple(Placement(start, size) for start in range(0, slices - size + 1, size))
    memory = profile.memory_mib or (board_memory(board) // slices * size)
    types = tuple(_numbered(board, item, 50 + at) for at, item in enumerate(profile.vgpu_types))
    return replace(profile, placements=placements, memory_slices=size, memory_mib=memory, vgpu_types=types)


def _numbered(board: BoardModel, item: VgpuType, at: int) -> VgpuType:
    if item.type_id is not None:
        return item
    # By the device id, so that two models never share a number.
    device = int(board.pci_ids[0].rpartition(":")[2], 16)
    return replace(item, type_id=_FIRST_MADE_UP_TYPE + device * 100 + at)


def board_memory(model: BoardModel) -> int:
    """Total memory in MiB; the marketing figure where no listing is public."""
    return model.memory_mib or (model.marketing_memory_gb or 24) * 1024


def find(state: SimState, minor: int) -> SimBoard:
    """The board of a handle; a lost one answers every call with GPU_IS_LOST."""
    board = next((item for item in visible(state) if item.minor == minor), None)
    if board is None:
        raise NvmlReturnError(INVALID_ARGUMENT)
    if board.lost:
        raise NvmlReturnError(GPU_IS_LOST)
    return board


def visible(state: SimState) -> list[SimBoard]:
    """Boards that NVML lists: those bound to the nvidia driver, in PCI order."""
    return sorted((item for item in state.boards if item.driver == "nvidia"), key=lambda item: item.pci_address)


def profile_of(board: SimBoard, profile_id: int) -> MigProfile:
    """The profile that management calls mean by `profile_id` (`info.id`, not the enumeration index)."""
    for profile in board_model(board.model).profiles:
        if profile.gi_profile_id == profile_id:
            return profile
    raise NvmlReturnError(INVALID_ARGUMENT)


def require_capable(board: SimBoard) -> None:
    if not board_model(board.model).mig_capable:
        raise NvmlReturnError(NOT_SUPPORTED)


def require_mig(board: SimBoard) -> None:
    if not board.mig:
        raise NvmlReturnError(NOT_SUPPORTED)


def in_use(board: SimBoard) -> bool:
    """Whether something keeps the driver from resetting the board."""
    return bool(board.processes or board.vgpus or any(item.compute for item in board.instances))


# ---------------------------------------------------------------- MIG mode
def mig_mode(board: SimBoard) -> tuple[bool, bool]:
    if not board_model(board.model).mig_capable:
        raise NvmlReturnError(NOT_SUPPORTED)
    return board.mig, board.pending


def set_mig_mode(board: SimBoard, mode: int) -> int:
    """Set the mode and return the activation status.

    Ampere resets the board and cannot while anything is open: the mode stays pending (IN_USE as the status of
    a successful call). Hopper and later need no reset. Turning MIG off is refused while VFs or instances exist.
    """
    facts = board_model(board.model)
    if facts.mode is None:
        raise NvmlReturnError(NOT_SUPPORTED)
    if mode not in (0, 1):
        raise NvmlReturnError(INVALID_ARGUMENT)
    wanted = bool(mode)
    if not wanted and board.mig and (board.numvfs or board.instances or board.vgpus):
        raise NvmlReturnError(IN_USE)
    board.pending = wanted
    if wanted == board.mig:
        return SUCCESS
    # Without a reset, monitoring clients that merely have the device open do no harm.
    working = any(not item.client for item in board.processes)
    if in_use(board) if facts.mode.enable_needs_gpu_reset else working:
        return IN_USE
    board.mig = wanted
    return SUCCESS


def reset(board: SimBoard) -> None:
    """A reset of the GPU: what was pending becomes true and all instances are gone. IN_USE while it is held."""
    if in_use(board) or board.held:
        raise NvmlReturnError(IN_USE)
    board.instances.clear()
    board.mig = board.pending


# ---------------------------------------------------------------- losing things
def reboot(state: SimState, boot_id: str) -> None:
    """The host came up again: VFs, instances and vGPUs are gone; MIG mode stays on Ampere only."""
    for board in state.boards:
        board.lost = board.held = False
        board.driver, board.override = "nvidia", ""
        board.processes.clear()
        _forget(board)
    state.boot_id = boot_id
    state.driver_loaded = True
    state.driver_loads += 1


def reload_driver(state: SimState) -> None:
    """`modprobe -r nvidia && modprobe nvidia`: as a reboot for the boards, without one for the host."""
    for board in state.boards:
        board.lost = False
        _forget(board)
    state.driver_loads += 1


def _forget(board: SimBoard) -> None:
    board.instances.clear()
    board.vgpus.clear()
    board.numvfs = 0
    facts = board_model(board.model).mode
    persists = facts is not None and facts.mode_persists_reboot
    board.mig = board.pending = board.pending and persists


def instance(board: SimBoard, gi_id: int) -> SimInstance:
    """The GPU instance with the driver's id; NOT_FOUND when there is none."""
    for item in board.instances:
        if item.id == gi_id:
            return item
    raise NvmlReturnError(NOT_FOUND)
