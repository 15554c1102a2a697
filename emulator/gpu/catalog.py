"""The catalogue of GPU models in `config/gpus/`: lookup by id, by a name that a person or NVML gives, by PCI id.

Loaded lazily and cached. The small index is read first, so that a look-up of one GPU reads one more file.
The catalogue is for previews, checks and simulation; at run time NVML's own report wins.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import cast

import yaml

from emulator.core.data_files import share_dir
from emulator.core.errors import HyperscalerError
from emulator.gpu.model import GpuModel, MigProfile, ModeFacts, Placement, VgpuType

try:  # libyaml parses about ten times faster; a wheel of PyYAML without it still works
    from yaml import CSafeLoader as _Loader
except ImportError:  # pragma: no cover
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

SCHEMA_VERSION = 1

_Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the index."""

    id: str
    product_names: tuple[str, ...]
    pci_ids: tuple[str, ...]
    profiles: tuple[str, ...]


def gpus() -> tuple[GpuModel, ...]:
    """Every GPU of the catalogue, in its order (A100 first)."""
    return tuple(_load(entry.id) for entry in _index())


def gpu_ids() -> tuple[str, ...]:
    return tuple(entry.id for entry in _index())


@lru_cache(maxsize=128)
def find_gpu(model: str) -> GpuModel | None:
    """The GPU that `model` names, or None.

    Tried in this order, letter case and punctuation aside: catalogue id; a product name, with or without
    `NVIDIA`; the beginning of a product name; all words of `model` found among the words of a GPU's id and
    names (`A100 80GB`). Where several form factors match and their MIG profiles are the same, the shortest product
    name is taken, then catalogue order, always the same one; where their profiles differ (`A100`: 40 or 80 GB) the
    answer is None, because a guess would name the wrong slices.
    """
    matches = _matches(model)
    if not matches or len({entry.profiles for entry in matches}) > 1:
        return None
    return _load(min(matches, key=lambda entry: len(entry.product_names[0])).id)


def find_gpu_by_pci(pci_id: str) -> GpuModel | None:
    """The GPU with this `vendor:device` (hexadecimal, any case, `0x` or not), such as `10de:20b2`."""
    wanted = pci_id.lower().replace("0x", "")
    return next((_load(entry.id) for entry in _index() if wanted in entry.pci_ids), None)


def close_names(model: str, limit: int = 5) -> tuple[str, ...]:
    """Product names that `model` may have meant, most likely first."""
    named = tuple(entry.product_names[0] for entry in _matches(model))
    if named:
        return named[:limit]
    known = {_plain(name): entry.product_names[0] for entry in _index() for name in (*entry.product_names, entry.id)}
    close = difflib.get_close_matches(_plain(model), known, n=2 * limit, cutoff=0.5)
    return tuple(dict.fromkeys(known[name] for name in close))[:limit]


def _matches(model: str) -> list[_Entry]:
    wanted = _plain(model)
    if not wanted:
        return []
    tests: tuple[Callable[[_Entry], bool], ...] = (
        lambda entry: wanted == _plain(entry.id),
        lambda entry: any(wanted == _plain(name) for name in entry.product_names),
        lambda entry: any(_plain(name).startswith(wanted + " ") for name in entry.product_names),
        lambda entry: set(wanted.split()) <= _words(entry),
    )
    for test in tests:
        found = [entry for entry in _index() if test(entry)]
        if found:
            # A prefix such as "A100" must not hide other GPUs that the words match.
            return found if test in tests[:2] else [e for e in _index() if e in found or tests[3](e)]
    return []


def _words(entry: _Entry) -> set[str]:
    return set(_plain(entry.id).split()).union(*(_plain(name).split() for name in entry.product_names))


def _plain(name: str) -> str:
    """`NVIDIA A100-SXM4-80G` -> `a100 sxm4 80gb`."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    text = " ".join(word for word in words if word != "nvidia")
    return re.sub(r"\b(\d+) ?(gb?|gib)\b", r"\1gb", text)


# ------------------------------------------------------------------ files
def _directory() -> Path:
    return share_dir() / "config" / "gpus"


@cache
def _index() -> tuple[_Entry, ...]:
    return tuple(
        _Entry(_text(row, "id"), _texts(row, "product_names"), _texts(row, "pci_ids"), _texts(row, "profiles"))
        for row in _rows(_read(_directory() / "_index.yaml"), "gpus")
    )


@cache
def _load(gpu_id: str) -> GpuModel:
    return parse_gpu(_read(_directory() / f"{gpu_id}.yaml"))


def _read(path: Path) -> _Record:
    try:
        document = yaml.load(path.read_bytes(), Loader=_Loader)
    except (OSError, yaml.YAMLError) as error:
        raise HyperscalerError(
            f"cannot read the GPU catalogue: {error}", where=str(path), fix="install the product again"
        ) from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise HyperscalerError(
            f"not a GPU catalogue file of version {SCHEMA_VERSION}", where=str(path), fix="install the product again"
        )
    return document


def parse_gpu(record: _Record) -> GpuModel:
    """A GPU from the contents of its catalogue file."""
    mig, vgpu, sriov = (_child(record, key) for key in ("mig", "vgpu", "sriov"))
    mode = _child(mig, "mode_change")
    return GpuModel(
        id=_text(record, "id"),
        product_names=_texts(record, "product_names"),
        pci_ids=_texts(record, "pci_ids"),
        architecture=_text(record, "architecture"),
        mig_capable=record["mig_capable"] is True,
        memory_mib=_number(record, "memory_total_mib"),
        marketing_memory_gb=_number(record, "marketing_memory_gb"),
        compute_slices=_number(mig, "compute_slices") or 0,
        memory_slices=_number(mig, "memory_slices") if mig else 0,
        max_gpu_instances=_number(mig, "max_gpu_instances") or 0,
        profiles=tuple(_profile(row) for row in _rows(mig, "profiles")),
        mode=_mode(mode) if mode else None,
        min_driver=_text_or_none(mig, "min_driver"),
        vgpu_capable=vgpu.get("vgpu_capable") is True,
        mig_backed_name_prefix=_text_or_none(vgpu, "mig_backed_name_prefix"),
        time_sliced_types=tuple(_vgpu_type(row) for row in _rows(vgpu, "time_sliced_types")),
        sriov=_flag(sriov, "supported"),
        total_vfs=_number(sriov, "total_vfs"),
        notes=_texts(record, "notes"),
    )


def _mode(record: _Record) -> ModeFacts:
    return ModeFacts(
        enable_needs_gpu_reset=record["enable_needs_gpu_reset"] is True,
        mode_persists_reboot=record["mode_persists_reboot"] is True,
        reset_performed_by_driver_if_idle=_flag(record, "reset_performed_by_driver_if_idle"),
    )


def _profile(record: _Record) -> MigProfile:
    places = _child(record, "placements")
    size = _number(places, "size")
    starts = cast(Sequence[int], places.get("starts", ()))
    return MigProfile(
        name=_text(record, "name"),
        gi_profile_id=_integer(record, "gi_profile_id"),
        nvml_profile=_integer(record, "nvml_profile_value"),
        nvml_profile_name=_text(record, "nvml_profile"),
        compute_slices=_integer(record, "compute_slices"),
        memory_slices=size,
        max_instances=_integer(record, "max_instances"),
        placements=None if size is None else tuple(Placement(start, size) for start in sorted(starts)),
        memory_mib=_number(record, "memory_mib"),
        sm_count=_number(record, "sm_count"),
        media_extensions=record.get("media_extensions") is True,
        vgpu_types=tuple(_vgpu_type(row) for row in _rows(record, "vgpu_types")),
    )


def _vgpu_type(record: _Record) -> VgpuType:
    name = _text(record, "name")
    # Every source agrees that the last word is the type; the words before it vary (GRID, NVIDIA, product).
    return VgpuType(name, name.split()[-1], _number(record, "type_id"), _number(record, "max_per_gpu"))


def _child(record: _Record, key: str) -> _Record:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _rows(record: _Record, key: str) -> Sequence[_Record]:
    return cast(Sequence[_Record], record.get(key) or ())


def _text(record: _Record, key: str) -> str:
    return str(record[key])


def _text_or_none(record: _Record, key: str) -> str | None:
    value = record.get(key)
    return None if value is None else str(value)


def _texts(record: _Record, key: str) -> tuple[str, ...]:
    return tuple(str(item) for item in cast(Sequence[object], record.get(key) or ()))


def _integer(record: _Record, key: str) -> int:
    return int(cast(int, record[key]))


def _number(record: _Record, key: str) -> int | None:
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(record: _Record, key: str) -> bool | None:
    value = record.get(key)
    return value if isinstance(value, bool) else None
