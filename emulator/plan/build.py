"""The resources of a lab: a pure function of the request and of how the host will run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emulator.core import ids
from emulator.core.hypervisors import SYSTEM_URI
from emulator.core.paths import LabPaths
from emulator.labfile.model import ClusterKind, ClusterSpec, NodeSpec
from emulator.plan.firewall_build import aliases_for, build_firewall, text_v6
from emulator.plan.gateway import build_gateway
from emulator.plan.resources import (
    DhcpReservation,
    Domain,
    GoldenImage,
    HostdevRequest,
    Hypervisor,
    Network,
    Resource,
    Secret,
    SshKeyPair,
    Volume,
)
from emulator.plan.service_resources import build_services

TLS_KEY_BYTES = 32  # a private key on the curve P-256
MUNGE_KEY_BYTES = 768  # 1024 characters of text, which Ansible can carry; MUNGE accepts any key of 32 bytes or more


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a lab runs on this host. `namespace` is set for the embedded hypervisor, else None; `hypervisor` is
    `embedded` or a libvirt URI."""

    paths: LabPaths
    namespace: str | None
    accelerated: bool
    hypervisor: str = SYSTEM_URI


@dataclass(frozen=True, slots=True)
class GpuResources:
    """The GPU resources, and the devices of each node by node name."""

    resources: tuple[Resource, ...] = ()
    hostdevs: Mapping[str, tuple[HostdevRequest, ...]] = field(default_factory=dict)


def build(spec: ClusterSpec, placement: Placement, gpu: GpuResources | None = None) -> tuple[Resource, ...]:
    """All resources of the lab, in the file's order."""
    gpu = gpu or GpuResources()
    base = _hypervisor(placement)
    key = SshKeyPair(name="lab", path=str(placement.paths.ssh_key))
    authority = SshKeyPair(name="ca", path=str(placement.paths.ssh_ca))
    resources: list[Resource] = [*base, key, authority, *_secrets(spec, placement.paths)]
    needs = tuple(resource.id for resource in base)
    firewall = build_firewall(spec, needs)
    resources.append(firewall)
    for cluster in spec.clusters:
        resources += [GoldenImage(name=spec.images.of(cluster)), _network(spec, cluster, (*needs, firewall.id))]
    resources += gpu.resources
    resources += build_services(
        placement.paths, placement.hypervisor, needs, disk_reserve_gib=spec.hypervisor.disk_reserve_gib
    )
    resources += build_gateway(spec, placement.paths, placement.namespace, (*needs, authority.id))
    for node in spec.nodes:
        resources += _node(spec, node, placement, (*needs, key.id), gpu.hostdevs.get(node.name, ()))
    return tuple({resource.id: resource for resource in resources}.values())


def _hypervisor(placement: Placement) -> Sequence[Hypervisor]:
    if placement.namespace is None:
        return ()
    directory = str(placement.paths.hypervisor)
    return (Hypervisor(name="embedded", directory=directory, namespace=placement.namespace),)


def _secrets(spec: ClusterSpec, paths: LabPaths) -> Sequence[Secret]:
    authority = Secret(name="tls-ca", path=str(paths.tls_key), size_bytes=TLS_KEY_BYTES, encoding="ec-key")
    if not spec.nodes_of(ClusterKind.HPC):
        return (authority,)
    munge = Secret(name="munge", path=str(paths.munge_key), size_bytes=MUNGE_KEY_BYTES, encoding="text")
    return (munge, authority)


def _network(spec: ClusterSpec, cluster: ClusterKind, needs: tuple[str, ...]) -> Network:
    wanted = spec.networks[cluster]
    name = cluster.value
    return Network(
        name=name,
        needs=needs,
        uuid=str(ids.resource_uuid(spec.name, f"network/{name}")),
        bridge=wanted.bridge,
        subnet=str(wanted.subnet),
        gateway=str(wanted.gateway),
        dns_domain=ids.dns_domain(spec.name, name),
        hosts=tuple(
            DhcpReservation(
                mac=ids.mac_address(spec.name, node.name),
                ip=str(node.ip),
                name=node.name,
                ip_v6=text_v6(wanted.address_v6(node.ip)),
            )
            for node in spec.nodes_of(cluster)
        ),
        nat=wanted.nat,
        aliases=aliases_for(spec, cluster),
        filtering="firewall",
        subnet_v6=text_v6(wanted.subnet_v6),
        gateway_v6=text_v6(wanted.gateway_v6),
    )


def _node(
    spec: ClusterSpec,
    node: NodeSpec,
    placement: Placement,
    needs: tuple[str, ...],
    hostdevs: tuple[HostdevRequest, ...],
) -> Sequence[Resource]:
    image = spec.images.of(node.role.cluster)
    volume = Volume(
        name=node.name,
        needs=(f"image/{image}",),
        path=str(placement.paths.disks / f"{node.name}.qcow2"),
        image=image,
        size_gib=node.disk_gib,
        admin=spec.ssh.user,
    )
    network = f"network/{node.role.cluster.value}"
    domain = Domain(
        name=node.name,
        needs=(*needs, volume.id, network, *(device.source for device in hostdevs)),
        uuid=str(ids.resource_uuid(spec.name, f"domain/{node.name}")),
        node=node.name,
        vcpus=node.cpu_cores,
        memory_mib=node.memory_mib,
        mac=ids.mac_address(spec.name, node.name),
        ip=str(node.ip),
        network=network,
        volume=volume.id,
        console_log=str(placement.paths.console / f"{node.name}.log"),
        accelerated=placement.accelerated,
        hostdevs=hostdevs,
    )
    return (volume, domain)
