"""A lab's part of the host's gateway, from its lab file."""

from __future__ import annotations

from emulator.core.gateway.names import API_PORT, SSH_PORT, Target
from emulator.core.paths import Home, LabPaths
from emulator.labfile.model import ClusterSpec, Role
from emulator.plan.service_resources import Service


def gateway_targets(spec: ClusterSpec) -> tuple[Target, ...]:
    """All that the lab's users may reach by the gateway: ssh on the nodes that are theirs and, in a lab with
    Kubernetes, its API and the chosen ports of its control plane."""
    logins = [Target(node.name, node.ip, SSH_PORT) for node in spec.nodes]
    return (*logins, *forwarded_targets(spec))


def forwarded_targets(spec: ClusterSpec) -> tuple[Target, ...]:
    """Those that are forwarded to a port of the user's own machine, the API first."""
    return tuple(
        Target(node.name, node.ip, port, shared=True)
        for node in spec.nodes
        if node.role is Role.CLOUD_CONTROL_PLANE
        for port in (API_PORT, *spec.access.node_ports)
    )


def build_gateway(
    spec: ClusterSpec, paths: LabPaths, namespace: str | None, needs: tuple[str, ...]
) -> tuple[Service, ...]:
    """The lab's relay, if the lab file wants one.

    Args:
        spec: the lab.
        paths: of the lab.
        namespace: the network namespace of its nodes; None for the host's.
        needs: ids of what it needs.
    """
    if not spec.access.gateway:
        return ()
    home = Home(paths.root.parent.parent)
    where = ("--home", str(home.root), "--lab", paths.root.name)
    inside = ("--namespace", namespace) if namespace else ()
    led = tuple(word for target in gateway_targets(spec) for word in ("--target", str(target)))
    service = Service(
        name="gateway",
        needs=needs,
        directory=str(paths.supervisor),
        program="gateway",
        arguments=(*where, *inside, *led),
        memory_mib=1024,
        files=4096,
        processes=16,
    )
    return (service,)
