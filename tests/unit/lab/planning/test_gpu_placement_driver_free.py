"""Whole GPUs that vfio-pci has from boot on, on a host without NVIDIA's driver: planned, taken and given back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from emulator.adapters.nvidia.passthrough import VfioPassthrough
from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.host.gpu_fitness import require_fit
from emulator.host.gpus import check_devices, discover_gpus, kept_for_guests
from emulator.lab.planning.gpu_placement import plan_gpus
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterSpec
from emulator.operations.gpu.reports import discover, usage
from emulator.plan.gpu_resources import WholeGpu
from tests.support.gpu_lab import FIRST, SECOND, GpuLab, gpu_machine

LAB = """version: "1.0"
metadata: {{name: demo}}
global:
  gpu_allocation:
    backend: nvml
    strategy: {strategy}
    devices:
      - {{id: gpu-0, pci_address: "{first}", model: GeForce RTX 4090}}
{more}clusters:
  hpc:
    compute_nodes: {{count: 1, gpu: {{{gpu}}}}}
"""
A100 = f'      - {{id: gpu-1, pci_address: "{SECOND}", model: A100-SXM4-80GB, mig_capable: true}}\n'


def spec_of(strategy: str = "whole", gpu: str = "whole: true", more: str = "") -> ClusterSpec:
    text = LAB.format(strategy=strategy, gpu=gpu, more=more, first=FIRST)
    spec, report = parse_spec(text, file="lab.yaml")
    assert spec is not None, report.findings
    return spec


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[GpuLab]:
    with gpu_machine(tmp_path, models=("GeForce RTX 4090", "A100-SXM4-80GB")) as machine:
        yield machine


def without_driver(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    """vfio-pci has both GPUs, and NVIDIA's library is not there."""

    def absent(*_arguments: object) -> None:
        raise pynvml.NVMLError(12)

    for address in (FIRST, SECOND):
        VfioPassthrough(lab.gpus.files).bind(address)
    lab.host.nvml.close()
    monkeypatch.setattr(pynvml, "nvmlInit", absent)


def driver_of(lab: GpuLab, address: str = FIRST) -> str | None:
    device = lab.host.pci.device(address)
    assert device is not None
    return device.driver


def test_gpus_are_discovered_from_sysfs_and_the_catalogue(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    without_driver(monkeypatch, lab)
    geforce, a100 = discover_gpus(lab.host.nvml, lab.host.pci)
    assert (geforce.name, geforce.driver, geforce.nvml) == ("NVIDIA GeForce RTX 4090", "vfio-pci", None)
    assert a100.model is not None and a100.model.id == "a100-sxm4-80gb"
    spec = spec_of()
    assert discover(lab.host, spec.gpu.devices, whole=True).differences == ()
    assert [item.use for item in usage(lab.host, {})] == [None, None]


def test_without_driver_and_gpus_the_driver_is_missing(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    without_driver(monkeypatch, lab)
    monkeypatch.setattr(type(lab.host.pci), "devices", lambda *_arguments, **_options: ())
    with pytest.raises(HostNotFitError, match="no NVIDIA driver on this host"):
        discover_gpus(lab.host.nvml, lab.host.pci)


def test_a_lab_takes_such_a_gpu_and_gives_it_back(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    without_driver(monkeypatch, lab)
    made = plan_gpus(spec_of(), lab.host, lab.state)
    assert [item.id for item in made.resources.resources] == [f"whole-gpu/{FIRST}"]
    lab.apply(made.resources.resources)
    assert lab.handle(f"whole-gpu/{FIRST}") == {"driver_before": "vfio-pci", "endpoints": [FIRST, f"{FIRST[:-1]}1"]}
    assert lab.host.ledger.owner(FIRST) == "demo"
    # Asked again, with the GPU away at the guest.
    assert plan_gpus(spec_of(), lab.host, lab.state).resources == made.resources
    assert lab.plan(made.resources.resources).changes == ()
    lab.apply(())
    assert lab.host.ledger.read() == {}
    assert driver_of(lab) == "vfio-pci"


def test_two_gpus_of_one_group_go_to_one_node(lab: GpuLab) -> None:
    with lab.gpus.store.change() as state:
        first, second = state.gpus
        second.group = first.group
    both = A100.replace(", mig_capable: true", "")
    with pytest.raises(HostNotFitError, match=f"gpu-0 .* shares IOMMU group .* with {SECOND}"):
        plan_gpus(spec_of(gpu="whole: true", more=both), lab.host, lab.state)
    wanted = plan_gpus(spec_of(gpu="whole: true, count: 2", more=both), lab.host, lab.state).resources.resources
    assert [(item.pci_address, item.group_gpus) for item in wanted if isinstance(item, WholeGpu)] == [
        (FIRST, (SECOND,)),
        (SECOND, (FIRST,)),
    ]
    lab.apply(wanted)
    assert (driver_of(lab, FIRST), driver_of(lab, SECOND)) == ("vfio-pci", "vfio-pci")
    assert lab.plan(wanted).changes == ()
    lab.apply(())
    assert (driver_of(lab, FIRST), driver_of(lab, SECOND)) == ("nvidia", "nvidia")


def test_a_gpu_of_no_driver_at_all(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    without_driver(monkeypatch, lab)
    lab.host.passthrough.release(FIRST, driver="")
    assert driver_of(lab) is None
    lab.apply(plan_gpus(spec_of(), lab.host, lab.state).resources.resources)
    assert driver_of(lab) == "vfio-pci"
    lab.apply(())
    assert driver_of(lab) is None


def test_slices_need_the_driver(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    without_driver(monkeypatch, lab)
    with pytest.raises(HyperscalerError, match=r"NVML does not see the GPU there \(driver vfio-pci\)") as caught:
        plan_gpus(spec_of("mig", "profile: 1g.10gb", A100), lab.host, lab.state)
    assert "strategy: whole" in caught.value.fix


def test_beside_a_gpu_of_the_driver_one_is_kept_for_guests(tmp_path: Path) -> None:
    """The driver serves one A100, and vfio-pci has the other: that one goes out whole, and no slice lands on it."""
    both = A100.replace("gpu-1", "gpu-0").replace(SECOND, FIRST) + A100
    text = LAB.format(strategy="hybrid", gpu="whole: true", more=both, first=FIRST)
    text = text.replace(f'      - {{id: gpu-0, pci_address: "{FIRST}", model: GeForce RTX 4090}}\n', "")
    text += "  cloud:\n    worker_nodes: {gpu_workers: {count: 1, gpu: {profile: 1g.10gb, count: 2}}}\n"
    spec, report = parse_spec(text, file="lab.yaml")
    assert spec is not None, report.findings
    with gpu_machine(tmp_path) as lab:
        VfioPassthrough(lab.gpus.files).bind(SECOND)
        made = plan_gpus(spec, lab.host, lab.state).resources.resources
    places = {(item.kind, item.name.partition("-")[0]) for item in made}
    assert ("whole-gpu", SECOND) in places
    assert {address for kind, address in places if kind != "whole-gpu"} == {FIRST}


def test_nouveau_has_to_let_go_first(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    without_driver(monkeypatch, lab)
    (geforce, _) = discover_gpus(lab.host.nvml, lab.host.pci)
    assert geforce.pci is not None and geforce.is_kept_for_guests
    held = dataclasses.replace(geforce, pci=dataclasses.replace(geforce.pci, driver="nouveau"))
    assert kept_for_guests([geforce, held]) == {FIRST}
    assert not held.is_kept_for_guests
    (difference,) = check_devices(spec_of().gpu.devices, [held], out=kept_for_guests([held]))
    assert "NVML does not see the GPU there (driver nouveau)" in str(difference)


def test_a_gpu_without_an_iommu_group_is_refused(monkeypatch: pytest.MonkeyPatch, lab: GpuLab) -> None:
    without_driver(monkeypatch, lab)
    (geforce, _) = discover_gpus(lab.host.nvml, lab.host.pci)
    assert geforce.pci is not None
    loose = dataclasses.replace(geforce, pci=dataclasses.replace(geforce.pci, iommu_group=None))
    with pytest.raises(HostNotFitError, match="in no IOMMU group"):
        require_fit({("gpu-0", False)}, {"gpu-0": loose})
    with pytest.raises(HostNotFitError, match="kept for guests as a whole"):
        require_fit({("gpu-0", True)}, {"gpu-0": geforce})
