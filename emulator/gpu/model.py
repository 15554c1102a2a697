"""GPUs as data: the slices that a model can be cut into, and the slices that exist now.

Frozen types without behaviour beyond look-ups. A fact without a public source is None, never filled in by analogy with
another GPU; code that needs such a fact must take it from NVML at run time or report that it is unknown. Numbers come
from `config/gpus/*.yaml`, whose entries name their sources.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """A run of memory slices: `start` (from 0) and `size`. Compute slices play no part in placements (NVML)."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first memory slice after the placement."""
        return self.start + self.size

    @property
    def mask(self) -> int:
        """Bit i is set when memory slice i is covered."""
        return ((1 << self.size) - 1) << self.start

    def overlaps(self, other: Placement) -> bool:
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class VgpuType:
    """A vGPU type. `name` is the name in sysfs (`GRID A100D-1-10C`), `short_name` its last word.

    `type_id` is the driver's number when its table was read, or None: look types up by `short_name` each time.
    `max_per_gpu` is None if no public table has it.
    """

    name: str
    short_name: str
    type_id: int | None = None
    max_per_gpu: int | None = None


@dataclass(frozen=True, slots=True)
class MigProfile:
    """A GPU instance profile of one GPU model.

    Attributes:
        name: as `nvidia-smi mig -lgip` prints it, e.g. `1g.10gb+me`.
        gi_profile_id: the number that NVML's calls take (19, 14, 9, ...).
        nvml_profile: the index by which NVML enumerates profiles (0, 1, 2, ...); another numbering.
        nvml_profile_name: the index's constant in nvml.h.
        compute_slices: GPU slices (the 3 of 3g).
        memory_slices: length of a placement in memory slices; None if no listing is public.
        memory_mib: usable MiB of an instance, below the nominal size and dependent on the driver; None: unknown.
        sm_count: streaming multiprocessors; None: unknown.
        max_instances: how many instances of this profile alone fit on the GPU.
        media_extensions: holds the GPU's JPEG and OFA engines (`+me`, `+me.all`): one such instance per GPU.
        placements: all legal placements in order of start; None if no listing is public.
        vgpu_types: MIG-backed vGPU types made of this profile.
    """

    name: str
    gi_profile_id: int
    nvml_profile: int
    compute_slices: int
    memory_slices: int | None
    max_instances: int
    placements: tuple[Placement, ...] | None
    memory_mib: int | None = None
    sm_count: int | None = None
    media_extensions: bool = False
    vgpu_types: tuple[VgpuType, ...] = ()
    nvml_profile_name: str = ""

    @property
    def starts(self) -> tuple[int, ...]:
        """Legal start slices; empty when they are unknown."""
        return tuple(placement.start for placement in self.placements or ())

    @property
    def takes_all_media(self) -> bool:
        """`+me.all`: next to it only profiles without media engines (`-me`) can exist."""
        return self.name.endswith("+me.all")

    @property
    def without_media(self) -> bool:
        return self.name.endswith("-me")


@dataclass(frozen=True, slots=True)
class ModeFacts:
    """How switching MIG mode behaves on a GPU model. None: no public statement."""

    enable_needs_gpu_reset: bool
    mode_persists_reboot: bool
    reset_performed_by_driver_if_idle: bool | None = None


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A GPU model, or one GPU as NVML reported it, in the same shape for planners.

    Attributes:
        id: catalogue id such as `a100-sxm4-80gb`.
        product_names: what NVML may report as the name; the first is the usual one.
        pci_ids: `vendor:device` in lower-case hexadecimal.
        memory_mib: total memory, MiB; None: unknown.
        marketing_memory_gb: the number in the product's name, GB.
        compute_slices, memory_slices, max_gpu_instances: 0 on a GPU without MIG; `memory_slices` None: unknown.
        mode: None on a GPU without MIG.
        min_driver: oldest driver that supports MIG on the GPU.
        time_sliced_types: vGPU types for MIG mode off.
        sriov: whether vGPUs are created on SR-IOV virtual functions; None: unknown.
        total_vfs: virtual functions of the GPU; None: unknown.
    """

    id: str
    product_names: tuple[str, ...]
    pci_ids: tuple[str, ...]
    architecture: str
    mig_capable: bool
    memory_mib: int | None = None
    marketing_memory_gb: int | None = None
    compute_slices: int = 0
    memory_slices: int | None = 0
    max_gpu_instances: int = 0
    profiles: tuple[MigProfile, ...] = ()
    mode: ModeFacts | None = None
    min_driver: str | None = None
    vgpu_capable: bool = False
    mig_backed_name_prefix: str | None = None
    time_sliced_types: tuple[VgpuType, ...] = ()
    sriov: bool | None = None
    total_vfs: int | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def product_name(self) -> str:
        return self.product_names[0]

    @property
    def profile_names(self) -> tuple[str, ...]:
        return tuple(profile.name for profile in self.profiles)

    @property
    def placements_known(self) -> bool:
        """Whether the geometry is public, so that the GPU can be planned for without hardware."""
        return self.mig_capable and all(profile.placements is not None for profile in self.profiles)

    def profile(self, name: str) -> MigProfile | None:
        """The profile of that name, or None."""
        return next((profile for profile in self.profiles if profile.name == name), None)

    def smallest_profile(self, allowed: Collection[str] = ()) -> MigProfile | None:
        """The plain profile with the least memory, then least compute; an empty `allowed` allows all.

        Profiles with extras (`+me`, `+gfx`, `-me`) have to be requested by name; here they count only if no plain
        profile is allowed.
        """
        choice = [profile for profile in self.profiles if not allowed or profile.name in allowed]
        plain = [profile for profile in choice if "+" not in profile.name and "-" not in profile.name]
        return min(plain or choice, key=_size_of, default=None)


def _size_of(profile: MigProfile) -> tuple[int, int, int]:
    return (profile.memory_slices or profile.compute_slices, profile.compute_slices, profile.nvml_profile)


@dataclass(frozen=True, slots=True)
class GpuInstance:
    """A GPU instance that exists on a GPU.

    Attributes:
        profile: name of its profile.
        placement: its memory slices.
        gi_id: NVML's opaque id, which encodes the place on the die and is reused; None before creation.
        busy: a compute instance, process or vGPU uses it, so that it cannot be destroyed.
        owner: its holder in words for a message (`lab demo, hpc-compute-1`); None: unknown.
    """

    profile: str
    placement: Placement
    gi_id: int | None = None
    busy: bool = False
    owner: str | None = None
