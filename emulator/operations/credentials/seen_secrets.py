"""The secrets that an admin could read as root, which stay good after their access has ended."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.users import AccessRole, LabUser
from emulator.labfile.model import ClusterKind, ClusterSpec, NodeSpec, Role


@dataclass(frozen=True, slots=True)
class SeenSecret:
    """A secret by name. `rotated_by`: which rotation replaces it; None where only a new node or cluster does."""

    name: str
    rotated_by: RotatedSecret | None
    otherwise: str = ""


def seen_secrets(spec: ClusterSpec, user: LabUser) -> tuple[SeenSecret, ...]:
    """What `user` may have read and copied while an admin; nothing for a student."""
    if user.role is not AccessRole.ADMIN:
        return ()
    nodes = [node for node in spec.nodes if not user.nodes or node.name in user.nodes]
    return tuple(secret for secret in (_munge(nodes), _tls(nodes), _kubernetes(nodes), _host_keys(nodes)) if secret)


def _munge(nodes: list[NodeSpec]) -> SeenSecret | None:
    slurm = any(node.role.cluster is ClusterKind.HPC for node in nodes)
    return SeenSecret("the MUNGE key, with which anyone is anyone in Slurm", RotatedSecret.MUNGE) if slurm else None


def _tls(nodes: list[NodeSpec]) -> SeenSecret | None:
    return SeenSecret(f"the TLS keys of {_names(nodes)}", RotatedSecret.TLS) if nodes else None


def _kubernetes(nodes: list[NodeSpec]) -> SeenSecret | None:
    if not any(node.role is Role.CLOUD_CONTROL_PLANE for node in nodes):
        return None
    return SeenSecret("the admin kubeconfig of the cluster and its authorities' keys", None, "a new control plane")


def _host_keys(nodes: list[NodeSpec]) -> SeenSecret | None:
    if not nodes:
        return None
    what = f"the ssh host keys of {_names(nodes)}"
    return SeenSecret(what, None, "new nodes (`rotate ssh` certifies the same keys again)")


def _names(nodes: list[NodeSpec]) -> str:
    return ", ".join(node.name for node in nodes)
