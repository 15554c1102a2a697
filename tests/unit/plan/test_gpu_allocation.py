"""From the lab file to nodes with slices."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from emulator.core.errors import ConfigError
from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.placement.demand import Assignment, GpuUse, Infeasible
from emulator.labfile.model import (
    ClusterKind,
    ClusterSpec,
    GpuAllocationSpec,
    GpuDeviceSpec,
    GpuRequest,
    GpuStrategy,
    KubernetesSpec,
    NodeSpec,
    Role,
    SliceDemand,
)
from emulator.plan.gpu_allocation import GpuAllocation, allocate, demands_of, gpu_states
from tests.support.placement_cases import A100

HPC, CLOUD = ClusterKind.HPC, ClusterKind.CLOUD
GPU = GpuDeviceSpec("GPU-0", "0000:41:00.0", "A100-SXM4-80GB", mig_capable=True)
OTHER = replace(GPU, id="GPU-1", pci_address="0000:42:00.0")
L40S = GpuDeviceSpec("GPU-2", "0000:43:00.0", "NVIDIA L40S", mig_capable=False)


def node(role: Role, number: int, gpu: GpuRequest | None) -> NodeSpec:
    return NodeSpec(f"{role.value}-{number}", role, 1, 1024, 4, IPv4Address(f"10.1.0.{number}"), gpu)


def lab(
    *hpc: GpuRequest | None,
    cloud: tuple[GpuRequest | None, ...] = (),
    devices: tuple[GpuDeviceSpec, ...] = (GPU,),
    strategy: GpuStrategy = GpuStrategy.MIG,
    slices: dict[ClusterKind, SliceDemand] | None = None,
    whole: dict[ClusterKind, int] | None = None,
) -> ClusterSpec:
    nodes = [node(Role.HPC_COMPUTE, n + 1, gpu) for n, gpu in enumerate(hpc)]
    nodes += [node(Role.CLOUD_GPU_WORKER, n + 101, gpu) for n, gpu in enumerate(cloud)]
    gpu = GpuAllocationSpec(strategy=strategy, devices=devices, mig_slices=slices or {}, whole_gpus=whole or {})
    return ClusterSpec("demo", "", tuple(nodes), {}, gpu=gpu)


def given(spec: ClusterSpec) -> GpuAllocation:
    answer = allocate(spec)
    assert isinstance(answer, GpuAllocation), answer
    return answer


def profiles(answer: GpuAllocation) -> dict[str, list[str | None]]:
    return {name: [where.profile for where in found] for name, found in answer.nodes.items()}


def test_nodes_of_both_clusters_get_what_they_name() -> None:
    answer = given(
        lab(GpuRequest(profile="3g.40gb"), None, GpuRequest(2, "1g.10gb"), cloud=(GpuRequest(profile="2g.20gb"),))
    )
    assert profiles(answer) == {
        "hpc-compute-1": ["3g.40gb"],
        "hpc-compute-3": ["1g.10gb", "1g.10gb"],
        "cloud-gpu-worker-101": ["2g.20gb"],
    }
    assert [where.demand for where in answer.nodes["hpc-compute-3"]] == ["hpc-compute-3/0", "hpc-compute-3/1"]
    assert answer.notes == (
        "hpc-compute-3 gets 2 slices of GPU-0; many drivers refuse two vGPUs of one GPU in one guest",
    )


def test_nodes_without_a_profile_take_what_is_set_aside_by_name_in_order_then_the_smallest() -> None:
    share = SliceDemand(5, {"2g.20gb": 1, "3g.40gb": 1})
    spec = lab(GpuRequest(), GpuRequest(profile="2g.20gb"), GpuRequest(), slices={HPC: share})
    assert profiles(given(spec)) == {
        "hpc-compute-1": ["3g.40gb"],
        "hpc-compute-2": ["2g.20gb"],
        "hpc-compute-3": ["1g.10gb"],
    }


def test_idle_slices_are_noted_and_not_made() -> None:
    answer = given(lab(GpuRequest(), slices={HPC: SliceDemand(3)}))
    assert len(answer.solution.assignments) == 1
    assert answer.notes == ("no node asks for 2 of the 3 slices set aside for hpc",)


def test_strategy_whole_gives_gpus() -> None:
    answer = given(lab(GpuRequest(), cloud=(GpuRequest(),), devices=(GPU, L40S), strategy=GpuStrategy.WHOLE))
    assert {found[0].gpu for found in answer.nodes.values()} == {"GPU-0", "GPU-2"}
    assert all(found[0].whole for found in answer.nodes.values())


def test_hybrid_gives_slices_while_the_share_lasts_and_then_gpus() -> None:
    spec = lab(
        *[GpuRequest()] * 3,
        devices=(GPU, L40S),
        strategy=GpuStrategy.HYBRID,
        slices={HPC: SliceDemand(2)},
        whole={HPC: 1},
    )
    assert profiles(given(spec)) == {
        "hpc-compute-1": ["1g.10gb"],
        "hpc-compute-2": ["1g.10gb"],
        "hpc-compute-3": [None],
    }


def test_hybrid_without_a_gpu_to_cut_gives_gpus() -> None:
    assert profiles(given(lab(GpuRequest(), devices=(L40S,), strategy=GpuStrategy.HYBRID))) == {"hpc-compute-1": [None]}


def test_mig_strategy_never_hands_over_a_gpu_whole() -> None:
    assert isinstance(allocate(lab(GpuRequest(whole=True))), Infeasible)


def test_a_second_allocation_changes_nothing() -> None:
    spec = lab(GpuRequest(profile="1g.10gb"), GpuRequest(profile="3g.40gb"), devices=(GPU, OTHER))
    first = given(spec)
    current = {where.demand: where for where in first.solution.assignments}
    second = allocate(spec, current=current)
    assert isinstance(second, GpuAllocation)
    assert second.nodes == first.nodes
    assert second.solution.moves == ()


def test_running_guests_keep_their_slice_when_a_node_is_added() -> None:
    held = {"hpc-compute-1/0": Assignment("hpc-compute-1/0", "GPU-0", "1g.10gb", Placement(2, 1))}
    spec = lab(GpuRequest(profile="1g.10gb"), GpuRequest(profile="4g.40gb"), devices=(GPU, OTHER))
    answer = allocate(spec, current=held, pinned=["hpc-compute-1/0", "node-of-another-lab/0"])
    assert isinstance(answer, GpuAllocation)
    assert answer.nodes["hpc-compute-1"] == (held["hpc-compute-1/0"],)
    assert answer.nodes["hpc-compute-2"][0].gpu == "GPU-1"


def test_foreign_instances_are_built_around() -> None:
    spec = lab(GpuRequest(profile="3g.40gb"))
    taken = {"GPU-0": [GpuInstance("1g.10gb", Placement(1, 1), busy=True)]}
    answer = allocate(spec, gpu_states(spec.gpu, instances=taken))
    assert isinstance(answer, GpuAllocation)
    assert answer.nodes["hpc-compute-1"][0].placement == Placement(4, 4)


def test_reported_models_win_over_the_catalogue() -> None:
    reported = replace(A100, id="reported", profiles=A100.profiles[:1])
    (state,) = gpu_states(lab().gpu, models={"GPU-0": reported})
    assert state.model is reported


@pytest.mark.parametrize(
    ("strategy", "device", "use"),
    [
        (GpuStrategy.MIG, GPU, GpuUse.SLICES),
        (GpuStrategy.WHOLE, GPU, GpuUse.WHOLE),
        (GpuStrategy.HYBRID, GPU, GpuUse.ANY),
        (GpuStrategy.HYBRID, L40S, GpuUse.WHOLE),
        (GpuStrategy.HYBRID, replace(L40S, model="Some Card"), GpuUse.WHOLE),
    ],
)
def test_use_of_gpus_follows_the_strategy(strategy: GpuStrategy, device: GpuDeviceSpec, use: GpuUse) -> None:
    (state,) = gpu_states(GpuAllocationSpec(strategy=strategy, devices=(device,)))
    assert state.use is use


def test_an_unknown_gpu_to_be_cut_is_an_error_with_suggestions() -> None:
    with pytest.raises(ConfigError, match="no single GPU called 'A100'") as caught:
        gpu_states(GpuAllocationSpec(devices=(replace(GPU, model="A100"),)))
    assert "NVIDIA A100-PCIE-40GB" in caught.value.fix


def test_a_lab_without_gpus_has_no_demands() -> None:
    assert demands_of(lab(None, None), ()) == ()
    assert given(lab(None, devices=())).nodes == {}


@pytest.mark.parametrize("strategy", ["none", "single", "mixed"])
def test_slices_that_were_chosen_are_ones_that_kubernetes_can_offer(strategy: str) -> None:
    chosen = {CLOUD: SliceDemand(2, {"1g.10gb": 1, "2g.20gb": 1})}
    spec = replace(
        lab(cloud=(GpuRequest(1), GpuRequest(1)), slices=chosen), kubernetes=KubernetesSpec(mig_strategy=strategy)
    )
    if strategy == "mixed":
        assert isinstance(allocate(spec), GpuAllocation)
        return
    with pytest.raises(ConfigError, match=f"`{strategy}` .* the nodes get 1g.10gb, 2g.20gb") as caught:
        allocate(spec)
    assert caught.value.where.endswith("mig_strategy")
    # Slurm's nodes have nothing to do with it.
    assert isinstance(allocate(replace(lab(GpuRequest(1), GpuRequest(1)), kubernetes=spec.kubernetes)), GpuAllocation)
