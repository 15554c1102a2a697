"""GPUs in the lab file: GPUs, profiles, shares and capacity, judged offline."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.labfile.forms import pci_address
from emulator.labfile.model import ClusterKind, ClusterSpec, GpuRequest

Judge = Callable[[str], list[str]]
Load = Callable[[str], ClusterSpec]

A100 = "{model: A100-SXM4-80GB}"
ADA = "{model: RTX 6000 Ada Generation}"


def lab(devices: str, *, more: str = "", hpc: str = "count: 1", cloud: str = "") -> str:
    text = (
        'version: "1.0"\nmetadata: {name: x}\nglobal:\n  gpu_allocation:\n    backend: simulated\n'
        f"    devices: [{devices}]\n    {more or 'strategy: mig'}\nclusters:\n  hpc:\n    compute_nodes: {{{hpc}}}\n"
    )
    return text + (f"  cloud:\n    worker_nodes: {{{cloud}}}\n" if cloud else "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            lab("{model: NVIDIA A100 80GB PCIe, allowed_mig_profiles: [1g.5gb, 7g.80gb]}"),
            [
                "6:69: error: global.gpu_allocation.devices[0].allowed_mig_profiles[0]: the NVIDIA A100 80GB PCIe has"
                " no profile 1g.5gb | did you mean 1g.10gb? It has 1g.10gb, 1g.10gb+me, 1g.20gb, 2g.20gb, 3g.40gb,"
                " 4g.40gb, 7g.80gb"
            ],
        ),
        (
            lab("{model: RTX 6000 Ada Generation, mig_capable: true}"),
            [
                "6:61: error: global.gpu_allocation.devices[0].mig_capable: the NVIDIA RTX 6000 Ada Generation has no"
                " MIG | write `mig_capable: false`"
            ],
        ),
        (
            lab("{model: RTX 6000 Ada Generation, allowed_mig_profiles: [1g.10gb]}"),
            [
                "6:71: error: global.gpu_allocation.devices[0].allowed_mig_profiles[0]: profiles are listed for a GPU"
                " without MIG | remove allowed_mig_profiles"
            ],
        ),
        (
            lab("{id: a, pci_address: '65:00.0', model: H200}, {id: a, pci_address: '0000:65:00.0', model: H200}"),
            [
                "6:66: error: global.gpu_allocation.devices[1].id: a is already given by"
                " global.gpu_allocation.devices[0] | each GPU once",
                "6:82: error: global.gpu_allocation.devices[1].pci_address: 0000:65:00.0 is already given by"
                " global.gpu_allocation.devices[0] | each GPU once",
            ],
        ),
        (
            lab("{model: Voodoo 2}"),
            [
                "6:23: error: global.gpu_allocation.devices[0].model: 'Voodoo 2' names no single GPU of the"
                " catalogue, and only those can be simulated | `hyperscaler gpu discover` prints the product name"
            ],
        ),
        (
            lab(A100, more="mig_slices: {hpc: 8}", hpc="count: 8, gpu_enabled: true"),
            [
                "7:23: error: global.gpu_allocation.mig_slices.hpc: 8 slices asked for, and the GPUs hold at most"
                " 7 | lower the counts, choose smaller profiles, or add a GPU; `hyperscaler gpu plan` shows what fits"
            ],
        ),
        (
            lab(A100, more="mig_slices: {hpc: {3g.40gb: 2, 1g.10gb: 1}}", hpc="count: 3, gpu_enabled: true"),
            [
                "7:18: error: global.gpu_allocation.mig_slices.hpc: no layout of GPU-0 (NVIDIA A100-SXM4-80GB) holds"
                " 2 x 3g.40gb, 1 x 1g.10gb"
                " | lower the counts, choose smaller profiles, or add a GPU; `hyperscaler gpu plan` shows what fits"
            ],
        ),
        (
            lab(A100, more="whole_gpus: {hpc: 1}", hpc="count: 1, gpu: {profile: 1g.10gb}"),
            [
                "7:23: error: global.gpu_allocation.whole_gpus.hpc: 1 whole GPU with `strategy: mig`"
                " | write `strategy: hybrid`, or set it to 0",
            ],
        ),
        (
            lab(A100, more="strategy: whole\n    mig_slices: {hpc: 2}"),
            [
                "8:23: error: global.gpu_allocation.mig_slices.hpc: 2 slices with `strategy: whole`"
                " | write `strategy: hybrid`, or set it to 0",
            ],
        ),
        (
            lab("", hpc="gpu_enabled: true"),
            [
                "10:34: error: clusters.hpc.compute_nodes.gpu_enabled: these nodes ask for a GPU, and"
                " global.gpu_allocation.devices lists none"
                " | add the GPUs under global.gpu_allocation.devices, or write `gpu_enabled: false`"
            ],
        ),
        (
            lab(A100, more="mig_slices: {hpc: 2}", hpc="count: 4, gpu_enabled: true"),
            [
                "10:44: error: clusters.hpc.compute_nodes.gpu_enabled: 4 GPU-enabled nodes ask for 4 in all, and"
                " 2 slices are set aside for hpc"
                " | set global.gpu_allocation.mig_slices.hpc to 4, or lower the number of nodes"
            ],
        ),
        (
            lab(A100, more="mig_slices: {hpc: {1g.10gb: 1}}", hpc="count: 2, gpu: {profile: 2g.20gb}"),
            [
                "7:18: error: global.gpu_allocation.mig_slices.hpc: 1 slice is set aside for hpc, and its nodes ask"
                " for 2 | set it to 2"
            ],
        ),
        (
            lab(A100, more="mig_slices: {cloud: 2}"),
            [
                "7:25: warning: global.gpu_allocation.mig_slices.cloud: 2 slices are set aside for cloud, and its nodes"
                " ask for none | lower the number, or enable GPUs on more nodes"
            ],
        ),
        (
            lab(A100, hpc="gpu: {profile: 1g.5gb}"),
            [
                "10:36: error: clusters.hpc.compute_nodes.gpu.profile: no GPU of the lab offers 1g.5gb"
                " | did you mean 1g.10gb? Offered: 1g.10gb, 1g.10gb+me, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb"
            ],
        ),
        (
            lab(ADA, hpc="gpu: {profile: 1g.10gb}"),
            [
                "10:36: error: clusters.hpc.compute_nodes.gpu.profile: no GPU of the lab can be cut into 1g.10gb"
                " | add a MIG-capable GPU"
            ],
        ),
        # A name that is wrong is the one finding; what such a GPU could be cut into is not known.
        (
            lab("{model: no-such-gpu}", hpc="gpu: {profile: 1g.10gb}"),
            [
                "6:23: error: global.gpu_allocation.devices[0].model: 'no-such-gpu' names no single GPU of the"
                " catalogue, and only those can be simulated | `hyperscaler gpu discover` prints the product name"
            ],
        ),
        (
            lab(A100, hpc="gpu: {profile: 1g.10gb, whole: true}"),
            [
                "10:36: error: clusters.hpc.compute_nodes.gpu.profile: a whole GPU has no profile"
                " | keep either `whole: true` or the profile"
            ],
        ),
        (
            lab(A100, hpc="gpu_enabled: false, gpu: {profile: 1g.10gb}"),
            [
                "10:34: error: clusters.hpc.compute_nodes.gpu_enabled: false, but `gpu` below asks for a GPU"
                " | remove one of the two"
            ],
        ),
        (
            lab(A100, more="strategy: hybrid", hpc="gpu: {whole: true}", cloud="gpu_workers: {gpu: {whole: true}}"),
            [
                "6:5: error: global.gpu_allocation.devices: 2 whole GPUs asked for, and `devices` lists 1"
                " | lower the counts, choose smaller profiles, or add a GPU; `hyperscaler gpu plan` shows what fits"
            ],
        ),
    ],
)
def test_wording_and_place(faults: Judge, text: str, expected: list[str]) -> None:
    assert faults(text) == expected


def test_the_address_of_a_simulated_gpu_is_free(spec_of: Load) -> None:
    spec = spec_of(lab(f"{A100[:-1]}, pci_address: '42:00.0'}}, {A100}, {A100}"))
    assert [each.pci_address for each in spec.gpu.devices] == ["0000:42:00.0", "0000:42:01.0", "0000:43:00.0"]


def test_only_a_simulated_gpu_needs_no_address(faults: Judge) -> None:
    text = lab(A100).replace("backend: simulated", "backend: nvml")
    assert faults(text) == [
        "6:15: error: global.gpu_allocation.devices[0].pci_address: this key is missing"
        " | `lspci -D | grep -i nvidia` shows the address of each GPU"
    ]


def test_a_gpu_that_only_the_driver_knows_is_a_warning(faults: Judge) -> None:
    text = lab("{model: NVIDIA RTX 6000, pci_address: '0000:ca:00.0', mig_capable: false}").replace("simulated", "nvml")
    (found,) = faults(text)
    assert found.startswith(
        "6:23: warning: global.gpu_allocation.devices[0].model: 'NVIDIA RTX 6000' names no single GPU"
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("mig-1g.10gb", "1g.10gb"),
        ("1G.10GB", "1g.10gb"),
        ("MIG 1g.10gb", "1g.10gb"),
        ("A100D-1-10C", "1g.10gb"),
        ("nvidia.com/mig-1g.10gb", "1g.10gb"),
        ("1g.10gb.me", "1g.10gb+me"),
        ("1g.40gb", "1g.20gb"),
    ],
)
def test_spellings_of_vendors_are_understood_for_the_remedy(faults: Judge, written: str, meant: str) -> None:
    for text in (
        lab(A100, hpc=f"gpu: {{profile: '{written}'}}"),
        lab(A100, more=f"mig_slices: {{hpc: {{'{written}': 1}}}}", hpc="gpu_enabled: true"),
        lab(f"{A100[:-1]}, allowed_mig_profiles: ['{written}']}}"),
    ):
        (fault,) = faults(text)
        assert f"| did you mean {meant}?" in fault


def test_without_a_known_gpu_the_form_is_shown(faults: Judge) -> None:
    text = lab("{model: Voodoo 2, pci_address: '65:00.0', mig_capable: true}", hpc="gpu: {profile: mig-1g.10gb}")
    faults_of_profile = [each for each in faults(text.replace("simulated", "nvml")) if "gpu.profile" in each]
    assert faults_of_profile == [
        "10:36: error: clusters.hpc.compute_nodes.gpu.profile: expected a MIG profile such as 1g.10gb, got"
        " 'mig-1g.10gb' | for example 1g.10gb"
    ]


RTX_PRO = "{model: NVIDIA RTX PRO 6000 Blackwell Server Edition, pci_address: '0000:42:00.0'}"
NOT_PUBLIC = "the placements of MIG slices on the NVIDIA RTX PRO 6000 Blackwell Server Edition are not public"


def test_slices_whose_placements_only_the_gpu_knows_are_a_warning(faults: Judge) -> None:
    for request in ("gpu: {profile: 1g.24gb}", "gpu_enabled: true", "count: 4, gpu: {profile: 1g.24gb}"):
        assert faults(lab(RTX_PRO, hpc=request).replace("simulated", "nvml")) == [
            f"6:23: warning: global.gpu_allocation.devices[0].model: {NOT_PUBLIC}: whether all slices fit is known when"
            " `plan` has read them from the GPU | switch MIG mode on before `plan`: the driver then lists them"
        ]


def test_slices_that_cannot_be_simulated_are_refused(faults: Judge) -> None:
    assert faults(lab(RTX_PRO, hpc="gpu: {profile: 1g.24gb}")) == [
        f"6:23: error: global.gpu_allocation.devices[0].model: {NOT_PUBLIC}, so that its slices cannot be simulated"
        " | name another model, or a real GPU"
    ]


def test_gpus_whose_placements_are_known_may_be_enough(faults: Judge) -> None:
    assert faults(lab(f"{RTX_PRO}, {A100}", hpc="count: 2, gpu: {profile: 3g.40gb}")) == []
    (found,) = faults(lab(f"{RTX_PRO}, {A100}", hpc="count: 3, gpu: {profile: 1g.24gb}"))
    assert NOT_PUBLIC in found


def test_a_whole_gpu_needs_no_placements(faults: Judge) -> None:
    for backend in ("simulated", "nvml"):
        text = lab(RTX_PRO, more="strategy: whole", hpc="gpu: {whole: true}").replace("simulated", backend)
        assert faults(text) == []


def test_what_is_known_of_such_a_gpu_is_checked(faults: Judge) -> None:
    (found,) = faults(lab(RTX_PRO, hpc="count: 5, gpu: {profile: 1g.24gb}").replace("simulated", "nvml"))
    assert "5 slices asked for, and the GPUs hold at most 4" in found
    (found,) = faults(lab(RTX_PRO, hpc="gpu: {profile: 1g.20gb}").replace("simulated", "nvml"))
    assert "no GPU of the lab offers 1g.20gb | did you mean 1g.24gb?" in found


@pytest.mark.parametrize("text", ["65:00.0", "0000:65:00.0", "00000000:65:00.0"])
def test_pci_addresses_are_normalised(text: str) -> None:
    assert pci_address(text) == "0000:65:00.0"
    assert pci_address("0001:CA:1f.7") == "0001:ca:1f.7"


def test_shares_follow_from_what_the_nodes_ask_for(spec_of: Load) -> None:
    spec = spec_of(
        lab(
            f"{A100}, {ADA}",
            more="strategy: hybrid",
            hpc="count: 2, gpu: {profile: 2g.20gb}",
            cloud="gpu_workers: {gpu: {whole: true}}",
        )
    )
    gpu = spec.gpu
    assert [(device.id, device.pci_address, device.mig_capable) for device in gpu.devices] == [
        ("GPU-0", "0000:41:00.0", True),
        ("GPU-1", "0000:42:00.0", False),
    ]
    hpc = gpu.mig_slices[ClusterKind.HPC]
    assert (hpc.count, dict(hpc.by_profile)) == (2, {"2g.20gb": 2})
    assert gpu.mig_slices[ClusterKind.CLOUD].count == 0
    assert dict(gpu.whole_gpus) == {ClusterKind.HPC: 0, ClusterKind.CLOUD: 1}
    assert [node.gpu for node in spec.nodes if node.gpu] == [
        GpuRequest(profile="2g.20gb"),
        GpuRequest(profile="2g.20gb"),
        GpuRequest(whole=True),
    ]


def test_nodes_without_a_wish_leave_it_to_the_strategy(spec_of: Load) -> None:
    mig = spec_of(lab(A100, hpc="count: 3, gpu_enabled: true"))
    assert mig.gpu.mig_slices[ClusterKind.HPC].count == 3
    assert {node.gpu for node in mig.nodes} == {None, GpuRequest()}
    whole = spec_of(lab(A100, more="strategy: whole", hpc="gpu_enabled: true"))
    assert dict(whole.gpu.whole_gpus) == {ClusterKind.HPC: 1, ClusterKind.CLOUD: 0}
    assert {node.gpu for node in whole.nodes} == {None, GpuRequest(whole=True)}


def test_gpu_workers_have_gpus_unless_told_otherwise(spec_of: Load) -> None:
    spec = spec_of(lab(A100, cloud="gpu_workers: {count: 2}"))
    assert spec.gpu.mig_slices[ClusterKind.CLOUD].count == 2


def test_without_devices_the_allocation_is_empty(spec_of: Load) -> None:
    assert spec_of(lab("")).gpu.devices == ()


def test_a_fleet_is_judged_by_its_sums_alone(faults: Judge) -> None:
    fleet = ", ".join([A100] * 17)
    fits_by_sum = lab(fleet, more="mig_slices: {hpc: {3g.40gb: 35}}", hpc="count: 35, gpu: {profile: 3g.40gb}")
    assert faults(fits_by_sum) == []
    (found,) = faults(lab(fleet, more="mig_slices: {hpc: 120}", hpc="count: 120, gpu_enabled: true"))
    assert "120 slices asked for, and the GPUs hold at most 119" in found
    few = lab(", ".join([A100] * 16), more="mig_slices: {hpc: {3g.40gb: 33}}", hpc="count: 33, gpu: {profile: 3g.40gb}")
    (found,) = faults(few)
    assert "GPU-3 (NVIDIA A100-SXM4-80GB) and 12 more holds 33 x 3g.40gb" in found


def test_impossible_counts_never_reach_the_solver(faults: Judge) -> None:
    (found, _) = faults(lab(A100, more="mig_slices: {hpc: {1g.10gb: 1000, 2g.20gb: 1000}}"))
    assert "2000 slices asked for, and the GPUs hold at most 7" in found
