"""The catalogue: complete, consistent with its index, tolerant of names, and quick."""

from __future__ import annotations

import re
import time

import pytest
import yaml

from emulator.core.data_files import share_dir
from emulator.gpu import catalog
from emulator.gpu.catalog import close_names, find_gpu, find_gpu_by_pci, gpus
from emulator.gpu.model import GpuModel, MigProfile

DIRECTORY = share_dir() / "config" / "gpus"
MIG = [gpu for gpu in gpus() if gpu.mig_capable]
PROFILES = [pytest.param(gpu, p, id=f"{gpu.id}-{p.name}") for gpu in MIG for p in gpu.profiles]


def test_all_28_gpus_are_there_and_19_do_mig() -> None:
    assert len(gpus()) == 28
    assert len(MIG) == 19
    assert len({gpu.id for gpu in gpus()}) == 28


def test_index_equals_the_files() -> None:
    index = yaml.safe_load((DIRECTORY / "_index.yaml").read_text())["gpus"]
    files = sorted(path.stem for path in DIRECTORY.glob("[!_]*.yaml"))
    assert sorted(row["id"] for row in index) == files
    for row, gpu in zip(index, gpus(), strict=True):
        assert row["id"] == gpu.id
        assert tuple(row["product_names"]) == gpu.product_names
        assert tuple(row["pci_ids"]) == gpu.pci_ids
        assert tuple(row["profiles"]) == gpu.profile_names


def test_every_source_tag_of_a_file_is_explained() -> None:
    known = set(yaml.safe_load((DIRECTORY / "_sources.yaml").read_text())["sources"])
    for path in DIRECTORY.glob("[!_]*.yaml"):
        tags = set(re.findall(r"\b(?:source|\w+_source): ([a-z0-9-]+)", path.read_text())) - {"null"}
        assert tags <= known, path.name


@pytest.mark.parametrize(("gpu", "profile"), PROFILES)
def test_geometry_of_each_profile_is_sound(gpu: GpuModel, profile: MigProfile) -> None:
    assert re.fullmatch(r"[1-9]g\.\d+gb(\+me(\.all)?|\+gfx|-me)?", profile.name)
    assert profile.compute_slices == int(profile.name[0])
    assert 1 <= profile.max_instances <= gpu.max_gpu_instances
    if profile.placements is None:
        assert profile.memory_slices is None
        return
    assert gpu.memory_slices is not None
    assert all(
        p.size == profile.memory_slices and p.start >= 0 and p.end <= gpu.memory_slices for p in profile.placements
    )
    assert all(p.start % p.size == 0 for p in profile.placements)
    assert profile.media_extensions or len(profile.placements) >= profile.max_instances


def test_numbers_of_profiles_are_unique_on_each_gpu() -> None:
    for gpu in MIG:
        for numbers in ([p.gi_profile_id for p in gpu.profiles], [p.nvml_profile for p in gpu.profiles]):
            assert len(set(numbers)) == len(numbers), gpu.id


def test_the_two_numberings_of_a_profile_are_not_mixed_up() -> None:
    gpu = find_gpu("A100-SXM4-80GB")
    assert gpu is not None
    profile = gpu.profile("1g.20gb")
    assert profile is not None
    assert (profile.gi_profile_id, profile.nvml_profile) == (15, 9)
    assert profile.nvml_profile_name == "NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV2"


def test_an_80gb_a100_has_no_profile_of_the_40gb_gpu() -> None:
    large, small = find_gpu("A100-SXM4-80GB"), find_gpu("A100-SXM4-40GB")
    assert large is not None
    assert small is not None
    assert large.profile("1g.5gb") is None
    one, other = large.profile("1g.10gb"), small.profile("1g.10gb")
    assert one is not None
    assert other is not None
    assert (one.memory_slices, other.memory_slices) == (1, 2)


def test_unknown_placements_stay_unknown() -> None:
    gpu = find_gpu("rtx-pro-6000-blackwell-server")
    assert gpu is not None
    assert not gpu.placements_known
    assert gpu.memory_slices is None
    assert all(profile.placements is None and profile.starts == () for profile in gpu.profiles)


@pytest.mark.parametrize(
    ("name", "gpu_id"),
    [
        ("a100-sxm4-80gb", "a100-sxm4-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("nvidia a100 sxm4 80gb", "a100-sxm4-80gb"),
        ("A100 80 GB SXM4", "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB", "a100-pcie-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("A30", "a30"),
        ("H100 80GB", "h100-pcie-80gb"),
        ("NVIDIA H100", "h100-sxm-94gb"),
        ("Tesla T4", "t4"),
        ("RTX 4090", "geforce-rtx-4090"),
        ("A100", None),
        ("GH200", None),
        ("Radeon", None),
        ("", None),
        ("NVIDIA", None),
        ("(((", None),
    ],
)
def test_names_people_write(name: str, gpu_id: str | None) -> None:
    found = find_gpu(name)
    assert (found.id if found else None) == gpu_id


def test_ambiguous_and_mistyped_names_get_suggestions() -> None:
    assert close_names("A100") == (
        "NVIDIA A100-PCIE-40GB",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA A100-SXM4-80GB",
    )
    assert "NVIDIA A100-SXM4-80GB" in close_names("A100-SMX4-80GB")
    assert close_names("zzzzzz") == ()


@pytest.mark.parametrize("pci_id", ["10de:20b2", "10DE:20B2", "0x10de:0x20b2"])
def test_gpus_are_found_by_pci_id(pci_id: str) -> None:
    found = find_gpu_by_pci(pci_id)
    assert found is not None
    assert found.id == "a100-sxm4-80gb"
    assert find_gpu_by_pci("10de:ffff") is None


def test_smallest_profile_is_a_plain_one_unless_only_others_are_allowed() -> None:
    gpu = find_gpu("A100-SXM4-80GB")
    assert gpu is not None
    names = [gpu.smallest_profile(allowed) for allowed in ((), ("3g.40gb", "1g.20gb"), ("1g.10gb+me",), ("nope",))]
    assert [found.name if found else None for found in names] == ["1g.10gb", "1g.20gb", "1g.10gb+me", None]


def test_one_gpu_is_found_in_50_ms_of_cpu_time_from_cold() -> None:
    catalog._index.cache_clear()
    catalog._load.cache_clear()
    start = time.process_time()
    assert find_gpu("A100-SXM4-80GB") is not None
    assert time.process_time() - start < 0.05
