"""A lab file to a `ClusterSpec`, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, BinaryIO

from emulator.labfile.checks.allow import allowed, check_allow
from emulator.labfile.checks.capacity import check_capacity
from emulator.labfile.checks.gpu import can_slice, check_gpu, gpus_of
from emulator.labfile.checks.gpu_shares import check_shares, share_of
from emulator.labfile.checks.hints import hint
from emulator.labfile.checks.identity import check_mac_addresses
from emulator.labfile.checks.images import check_images
from emulator.labfile.checks.kubernetes import check_kubernetes
from emulator.labfile.checks.network import assign_addresses, check_networks, check_way_out
from emulator.labfile.checks.security import check_security
from emulator.labfile.checks.slurm import check_slurm
from emulator.labfile.draft import Draft, GroupDraft, read_draft
from emulator.labfile.findings import Finding, Position, Report, Severity
from emulator.labfile.model import (
    ClusterKind,
    ClusterSpec,
    GpuAllocationSpec,
    GpuBackend,
    GpuStrategy,
    KubernetesSpec,
    NodeSettings,
    NodeSpec,
    Role,
    SliceDemand,
    SlurmSpec,
)
from emulator.labfile.read.document import parse_document
from emulator.labfile.read.read_file import read_lab_file, read_lab_stream
from emulator.labfile.read.structure import check_structure, shown
from emulator.labfile.read.tree import Map, positions
from emulator.labfile.read.view import Context, View
from emulator.labfile.schema import cluster_schema
from emulator.labfile.settings import Settings


def load_spec(
    path: Path, stream: BinaryIO | None = None, *, recorded: bool = False
) -> tuple[ClusterSpec | None, Report]:
    """Read and check a lab file.

    Args:
        stream: what to read in place of the file; `path` is then its name in findings.
        recorded: a lab stands with this file: what an earlier version of the program could set up, and this one cannot,
            is a warning then, so that the lab can be looked at and destroyed.

    Returns:
        The request, or None when the report has errors; warnings alone do not withhold it. Nothing is raised
        for what a file can hold or be: missing, binary and oversized files are findings like any other.
    """
    spec, report, _ = read_spec(path, stream, recorded=recorded)
    return spec, report


def read_spec(
    path: Path, stream: BinaryIO | None = None, *, recorded: bool = False
) -> tuple[ClusterSpec | None, Report, bytes]:
    """`load_spec`, and what was read, without a byte order mark: the file may be another one a moment later."""
    text, refusal = read_lab_stream(stream, path) if stream else read_lab_file(path)
    if text is None:
        return None, Report.of(str(path), (refusal,) if refusal else ()), b""
    spec, report = parse_spec(text, file=str(path), recorded=recorded)
    return (replace(spec, source=path) if spec else None), report, text.encode()


def parse_spec(text: str, *, file: str, recorded: bool = False) -> tuple[ClusterSpec | None, Report]:
    """`load_spec` for text; `file` is the name that the findings carry."""
    document = parse_document(text, file=file)
    if document.root is None:
        findings = document.findings or (_whole(file, "file.empty", "the file is empty", _START),)
        return None, Report.of(file, findings)
    if not isinstance(document.root, Map):
        what = f"expected a mapping with version, metadata and clusters, got {shown(document.root)}"
        return None, Report.of(file, (*document.findings, _whole(file, "value.type", what, _START)))
    structure = check_structure(document.root)
    context = Context(file, structure.refused)
    draft = read_draft(View(context, cluster_schema(), (), document.root, document.root.at))
    check_networks(draft)
    check_way_out(draft)
    addresses = assign_addresses(draft)
    check_allow(draft)
    check_slurm(draft)
    check_security(draft)
    check_images(draft)
    check_mac_addresses(draft)
    check_kubernetes(draft, addresses, recorded=recorded)
    check_gpu(draft)
    check_shares(draft)
    check_capacity(draft)
    structural = structure.findings(file=file, hint=partial(hint, draft, addresses))
    report = Report.of(file, (*document.findings, *structural, *context.findings), positions=positions(document.root))
    return (None if report.has_errors() else _assemble(draft, addresses)), report


_START = 'begin with `version: "1.0"`; see config/minimal.yaml for an example'


def _whole(file: str, code: str, what: str, fix: str) -> Finding:
    at = Position(1, 1)
    return Finding(Severity.ERROR, code, file, at.line, at.column, "", what, fix)


def _assemble(draft: Draft, addresses: Mapping[Role, tuple[IPv4Address, ...]]) -> ClusterSpec:
    """The spec of a draft without errors."""
    file = draft.file
    settings: dict[str, Any] = {each.name: getattr(file, each.name) for each in fields(Settings)}
    return ClusterSpec(
        name=file.metadata.name,
        description=file.metadata.description,
        nodes=tuple(node for group in draft.groups for node in _nodes(draft, group, addresses[group.role])),
        networks={
            kind: replace(network.spec, allow=allowed(draft, network)) for kind, network in draft.networks.items()
        },
        slurm=_slurm(draft),
        kubernetes=_kubernetes(draft),
        gpu=_gpu(draft),
        **settings,
    )


def _nodes(draft: Draft, group: GroupDraft, addresses: Sequence[IPv4Address]) -> tuple[NodeSpec, ...]:
    gpu = group.gpu
    if gpu and not gpu.profile and draft.gpu.strategy is GpuStrategy.WHOLE:
        gpu = replace(gpu, whole=True)  # the strategy leaves no other choice
    settings: dict[str, Any] = {each.name: getattr(group.spec, each.name) for each in fields(NodeSettings)}
    return tuple(
        NodeSpec(**{**settings, "name": name}, ip=address, gpu=gpu)
        for name, address in zip(group.names, addresses, strict=True)
    )


def _gpu(draft: Draft) -> GpuAllocationSpec:
    """The allocation with each cluster's share filled in. Without devices it is empty."""
    gpu, spec = draft.gpu, draft.file.shared.gpu_allocation
    if not gpu.devices:
        return replace(spec, mig_slices={}, whole_gpus={})
    gpus = gpus_of(gpu)
    shares = {kind: share_of(draft, kind) for kind in ClusterKind}
    return replace(
        spec,
        devices=tuple(
            replace(device.spec, mig_capable=can_slice(device, gpus[index])) for index, device in enumerate(gpu.devices)
        ),
        mig_slices={kind: SliceDemand(share.slices, share.by_profile) for kind, share in shares.items()},
        whole_gpus={kind: share.whole for kind, share in shares.items()},
    )


def _slurm(draft: Draft) -> SlurmSpec | None:
    if draft.slurm is None:
        return None
    spec = draft.slurm.spec
    return replace(
        spec,
        partitions=tuple(
            replace(each, nodes=tuple(node for _, node in place.nodes))
            for each, place in zip(spec.partitions, draft.slurm.partitions, strict=True)
        ),
        default_partition=spec.default_partition or spec.partitions[0].name,
    )


def _kubernetes(draft: Draft) -> KubernetesSpec | None:
    if draft.kubernetes is None:
        return None
    real = draft.gpu.backend is not GpuBackend.SIMULATED
    wanted = any(group.gpu is not None and group.names for group in draft.groups_of(ClusterKind.CLOUD))
    return replace(draft.kubernetes.spec, real_gpus=real and wanted)
