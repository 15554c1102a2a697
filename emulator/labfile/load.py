"""A lab file to a `ClusterSpec`, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from emulator.labfile.checks.allow import allowed, check_allow
from emulator.labfile.checks.capacity import check_capacity
from emulator.labfile.checks.gpu import can_slice, check_gpu, gpus_of
from emulator.labfile.checks.gpu_shares import check_shares, share_of
from emulator.labfile.checks.kubernetes import check_kubernetes
from emulator.labfile.checks.network import assign_addresses, check_networks, check_way_out
from emulator.labfile.checks.slurm import check_slurm
from emulator.labfile.draft import Draft
from emulator.labfile.findings import Finding, Position, Report, Severity
from emulator.labfile.model import (
    ClusterKind,
    ClusterSpec,
    GpuAllocationSpec,
    GpuBackend,
    GpuDeviceSpec,
    GpuStrategy,
    KubernetesSpec,
    NetworkSpec,
    NodeSpec,
    PartitionSpec,
    Role,
    SliceDemand,
    SlurmSpec,
)
from emulator.labfile.read.document import parse_document
from emulator.labfile.read.read_file import read_lab_file
from emulator.labfile.read.structure import check_structure, shown
from emulator.labfile.read.tree import Map, positions
from emulator.labfile.read.typed_view import Context, View
from emulator.labfile.schema import cluster_schema, merged
from emulator.labfile.sections import read_draft
from emulator.labfile.slurm_time import parse_slurm_time

T = TypeVar("T")


def load_spec(path: Path) -> tuple[ClusterSpec | None, Report]:
    """Read and check a lab file.

    Returns:
        The request, or None when the report has errors; warnings alone do not withhold it. Nothing is raised
        for what a file can hold or be: missing, binary and oversized files are findings like any other.
    """
    text, refusal = read_lab_file(path)
    if text is None:
        return None, Report.of(str(path), (refusal,) if refusal else ())
    spec, report = parse_spec(text, file=str(path))
    return (replace(spec, source=path) if spec else None), report


def parse_spec(text: str, *, file: str) -> tuple[ClusterSpec | None, Report]:
    """`load_spec` for text; `file` is the name that the findings carry."""
    document = parse_document(text, file=file)
    if document.root is None:
        findings = document.findings or (_whole(file, "file.empty", "the file is empty", _START),)
        return None, Report.of(file, findings)
    if not isinstance(document.root, Map):
        what = f"expected a mapping with version, metadata and clusters, got {shown(document.root)}"
        return None, Report.of(file, (*document.findings, _whole(file, "value.type", what, _START)))
    structure = check_structure(document.root, file=file)
    context = Context(file, frozenset(structure.bad))
    root = View(context, merged(cluster_schema()), (), document.root, document.root.at)
    draft = read_draft(root)
    check_networks(draft)
    check_way_out(draft)
    addresses = assign_addresses(draft)
    check_allow(draft)
    check_slurm(draft)
    check_kubernetes(draft, addresses)
    check_gpu(draft)
    check_shares(draft)
    check_capacity(draft)
    report = Report.of(
        file, (*document.findings, *structure.findings, *context.findings), positions=positions(document.root)
    )
    return (None if report.has_errors() else _assemble(draft, addresses)), report


_START = 'begin with `version: "1.0"`; see config/minimal.yaml for an example'


def _whole(file: str, code: str, what: str, fix: str) -> Finding:
    at = Position(1, 1)
    return Finding(Severity.ERROR, code, file, at.line, at.column, "", what, fix)


def _assemble(draft: Draft, addresses: Mapping[Role, tuple[IPv4Address, ...]]) -> ClusterSpec:
    """The spec of a draft without errors, in which no value is missing."""
    return ClusterSpec(
        name=_known(draft.name),
        description=_known(draft.description),
        nodes=tuple(node for group in draft.groups for node in _nodes(draft, group.role, addresses)),
        networks={
            kind: NetworkSpec(
                kind,
                _known(network.subnet),
                _known(network.bridge),
                nat=_known(network.nat),
                allow=allowed(draft, network),
                subnet_v6=network.subnet_v6,
            )
            for kind, network in draft.networks.items()
        },
        slurm=_slurm(draft),
        kubernetes=_kubernetes(draft),
        gpu=_gpu(draft),
        hypervisor=draft.hypervisor,
        images=draft.images,
        ssh=draft.ssh,
        timeouts=draft.timeouts,
        security=draft.security,
    )


def _nodes(draft: Draft, role: Role, addresses: Mapping[Role, tuple[IPv4Address, ...]]) -> tuple[NodeSpec, ...]:
    group = next(each for each in draft.groups if each.role is role)
    gpu = group.gpu
    if gpu and not gpu.profile and draft.gpu.strategy is GpuStrategy.WHOLE:
        gpu = replace(gpu, whole=True)  # the strategy leaves no other choice
    return tuple(
        NodeSpec(
            name=name,
            role=role,
            cpu_cores=_known(group.cpu_cores),
            memory_mib=_known(group.memory_mib),
            disk_gib=_known(group.disk_gib),
            ip=address,
            gpu=gpu,
        )
        for name, address in zip(group.names, addresses[role], strict=True)
    )


def _gpu(draft: Draft) -> GpuAllocationSpec:
    """The allocation with each cluster's share filled in. Without devices it is empty."""
    gpu = draft.gpu
    backend, strategy = _known(gpu.backend), _known(gpu.strategy)
    if not gpu.devices:
        return GpuAllocationSpec(backend=backend, strategy=strategy)
    gpus = gpus_of(gpu)
    shares = {kind: share_of(draft, kind) for kind in ClusterKind}
    return GpuAllocationSpec(
        backend=backend,
        strategy=strategy,
        devices=tuple(
            GpuDeviceSpec(
                id=_known(device.id),
                pci_address=_known(device.pci_address),
                model=_known(device.model),
                mig_capable=can_slice(device, gpus[index]),
                allowed_mig_profiles=tuple(_known(name) for _, name in device.allowed),
            )
            for index, device in enumerate(gpu.devices)
        ),
        mig_slices={kind: SliceDemand(share.slices, share.by_profile) for kind, share in shares.items()},
        whole_gpus={kind: share.whole for kind, share in shares.items()},
    )


def _slurm(draft: Draft) -> SlurmSpec | None:
    if draft.slurm is None:
        return None
    return SlurmSpec(
        partitions=tuple(
            PartitionSpec(_known(each.name), tuple(_known(node) for _, node in each.nodes))
            for each in draft.slurm.partitions
        ),
        default_partition=_known(draft.slurm.default_partition),
        max_job_seconds=parse_slurm_time(_known(draft.slurm.max_job_time)),
    )


def _kubernetes(draft: Draft) -> KubernetesSpec | None:
    kubernetes = draft.kubernetes
    if kubernetes is None:
        return None
    return KubernetesSpec(
        cni=_known(kubernetes.cni),
        ingress=_known(kubernetes.ingress),
        storage_class=_known(kubernetes.storage_class),
        network_policy=_known(kubernetes.network_policy),
        source=_known(kubernetes.source),
        version=_known(kubernetes.version),
        pod_subnet=_known(kubernetes.pod_subnet),
        service_subnet=_known(kubernetes.service_subnet),
        mig_strategy=_known(kubernetes.mig_strategy),
        taint_gpu_workers=_known(kubernetes.taint_gpu_workers),
        real_gpus=draft.gpu.backend is not GpuBackend.SIMULATED
        and any(group.gpu is not None and group.names for group in draft.groups_of(ClusterKind.CLOUD)),
    )


def _known(value: T | None) -> T:
    if value is None:
        raise AssertionError("a value without a finding is missing")
    return value
