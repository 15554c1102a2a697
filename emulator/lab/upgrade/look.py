"""What the nodes of a Kubernetes cluster run now: asked of the nodes and of the cluster, never remembered."""

from __future__ import annotations

import json
import re

from emulator.core.errors import ConflictError, StateError
from emulator.core.pool import threads
from emulator.core.ports import GuestAddress, GuestShell
from emulator.core.waiting.pace import Pace
from emulator.kubernetes.release.node_files import RELEASE_FILE
from emulator.kubernetes.upgrade.policy import NodeState
from emulator.lab.drain import ClusterNode, cluster_nodes
from emulator.labfile.model import ClusterKind, ClusterSpec, NodeSpec, Role

_LOGIN_SECONDS = 30.0
_ASK_SECONDS = 60.0
_VERSION = re.compile(r"\d{1,2}\.\d{1,3}\.\d{1,3}", re.ASCII)
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9./:-]{0,200}", re.ASCII)


def head_of(spec: ClusterSpec) -> GuestAddress:
    """The control plane of the lab, which must have a Kubernetes cluster."""
    return next(_address(spec, node) for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE)


def look_at_nodes(spec: ClusterSpec, shell: GuestShell, pace: Pace) -> tuple[NodeState, ...]:
    """All nodes of the lab's Kubernetes cluster, in the order of the file.

    Raises:
        ConflictError: a node does not answer, or is none of the cluster.
        StateError: the record of a node cannot be read.
        HyperscalerError: the control plane cannot be asked.
    """
    nodes = spec.nodes_of(ClusterKind.CLOUD)
    with threads(len(nodes), "upgrade") as pool:
        answering = dict(
            zip(
                (node.name for node in nodes),
                pool.map(lambda node: shell.ready(_address(spec, node), timeout=_LOGIN_SECONDS), nodes),
                strict=True,
            )
        )
        silent = [name for name, answers in answering.items() if not answers]
        if silent:
            raise ConflictError(
                f"nothing was changed: {', '.join(silent)} {'does' if len(silent) == 1 else 'do'} not answer, and all"
                " nodes of the cluster must be on for an upgrade",
                where=spec.name,
                fix="`hyperscaler provision` with the file as the lab stands starts them; then repeat the upgrade",
            )
        members = cluster_nodes(shell, head_of(spec), pace)
        return tuple(pool.map(lambda node: _state(spec, node, shell, members.get(node.name)), nodes))


def _state(spec: ClusterSpec, node: NodeSpec, shell: GuestShell, member: ClusterNode | None) -> NodeState:
    if member is None:
        raise ConflictError(
            f"nothing was changed: {node.name} is no node of the cluster",
            where=node.name,
            fix="`hyperscaler provision` with the file as the lab stands lets it join; then repeat the upgrade",
        )
    said = shell.run(_address(spec, node), f"cat /{RELEASE_FILE}", timeout=_ASK_SECONDS).stdout
    version, repository = _record(node.name, said)
    return NodeState(
        name=node.name,
        is_head=node.role is Role.CLOUD_CONTROL_PLANE,
        version=version,
        repository=repository,
        kubelet=member.kubelet,
        draining=member.draining,
    )


def _record(node: str, text: str) -> tuple[str, str]:
    """Version and image repository by a node's own record, which anyone with root there can have changed."""
    try:
        record = json.loads(text)
        version, repository = record["version"], record["repository"]
        if not _VERSION.fullmatch(version) or not _REPOSITORY.fullmatch(repository):
            raise ValueError("it names no release")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateError(
            f"the record of Kubernetes on {node} cannot be used: {error}",
            where=f"{node}:/{RELEASE_FILE}",
            fix="make the node again: take it out of the lab file and provision, then put it back and provision",
        ) from error
    return version, repository


def _address(spec: ClusterSpec, node: NodeSpec) -> GuestAddress:
    return GuestAddress(node.name, node.ip, spec.ssh.user)
