"""A lab as a snapshot of this moment would describe it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from emulator.apply.handlers.secrets import public_key
from emulator.core.console_log import marked_lines
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.lab.run import LabRun
from emulator.lab.snapshots.manifest import Manifest, SavedNode
from emulator.plan.gpu_resources import GpuResource
from emulator.plan.resources import Domain, Network, Volume

_OF_GUESTS = (Domain, Network, Volume, GpuResource)


def describe(run: LabRun, name: str, *, ram: bool) -> Manifest:
    """The manifest of a snapshot that is about to be made; sums and sizes are yet to come."""
    paths = run.paths
    return Manifest(
        name=name,
        lab=run.name,
        taken=int(time.time()),
        ram=ram,
        machine=run.lab.session.get().machine(accelerated=any(domain.accelerated for domain in domains(run).values())),
        file_sha256=_sum(paths.spec),
        resources={
            key: record.resource.digest
            for key, record in sorted(run.state.resources.items())
            if isinstance(record.resource, _OF_GUESTS)
        },
        secrets={
            RotatedSecret.SSH.value: _sum(public_key(paths.ssh_key), public_key(paths.ssh_ca)),
            RotatedSecret.TLS.value: _sum(paths.tls_key),
            **({RotatedSecret.MUNGE.value: _sum(paths.munge_key)} if paths.munge_key.is_file() else {}),
        },
        access_sha256=_sum(paths.access),
        nodes=tuple(_node(run, node) for node in domains(run)),
    )


def domains(run: LabRun) -> Mapping[str, Domain]:
    """The domains that are on record, by node and in the order of the file: a new file may have other nodes."""
    recorded = [item.resource for item in run.state.resources.values() if isinstance(item.resource, Domain)]
    order = {node.name: number for number, node in enumerate(run.spec.nodes)}
    recorded.sort(key=lambda domain: (order.get(domain.node, len(order)), domain.node))
    return {domain.node: domain for domain in recorded}


def _node(run: LabRun, node: str) -> SavedNode:
    handle, disk = run.store.handle(f"{Domain.kind}/{node}"), run.store.handle(f"{Volume.kind}/{node}")
    keys = run.env.guests.parse_host_keys(marked_lines(run.paths.console / f"{node}.log"))
    boot = [str(handle.get(key, "")) for key in ("kernel", "initrd", "cmdline")]
    return SavedNode(
        name=node,
        boot=hashlib.sha256("\n".join(boot).encode()).hexdigest(),
        host_keys=hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest(),
        public_key=str(handle.get("public_key", "")),
        base=str(disk.get("base", "")),
    )


def _sum(*paths: Path) -> str:
    """Over the content of the files, in order; one that is missing counts as empty."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes() if path.is_file() else b"")
        total.update(b"\0")
    return total.hexdigest()
