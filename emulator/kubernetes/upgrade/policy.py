"""Which way a standing cluster may go to another version: one minor version up, the control plane first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.core.errors import ConflictError, UsageError
from emulator.labfile.kubernetes_versions import is_asked_for, is_full_version, minor_of


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node of a standing cluster, as it and its cluster say.

    Attributes:
        is_head: it is the control plane.
        version: the release (1.37.2) that the node's own record names; the record is written when all of it is there.
        repository: of the images of that release.
        kubelet: the version of its kubelet, as the cluster has it; empty for a node that the cluster does not know.
        draining: a run that did not end keeps pods away from it.
    """

    name: str
    is_head: bool
    version: str
    repository: str = ""
    kubelet: str = ""
    draining: bool = False

    def is_at(self, version: str) -> bool:
        """Whether nothing is left to do on this node for the release `version`, or any of the minor version."""
        kubelet_too = not self.kubelet or self.kubelet == self.version
        return is_asked_for(self.version, version) and kubelet_too and not self.draining


def requested_version(to: str, wish: str) -> str:
    """The version to go to, as exactly as anyone says it; empty where the lab file asks for another one.

    Args:
        to: of the command, 1.37 or 1.37.2.
        wish: of the lab file, the same, or empty for any.
    """
    to, wish = to.removeprefix("v"), wish.removeprefix("v")
    if is_asked_for(to, wish):
        return to
    return wish if is_full_version(wish) and is_asked_for(wish, to) else ""


def require_way(nodes: Sequence[NodeState], to: str, lab: str) -> None:
    """Refuse what kubeadm does not do: a minor version left out, or a way back.

    Raises:
        UsageError: `to` is older than what a node has, or more than one minor version newer than the control plane.
        ConflictError: a worker is still on the version before the control plane's.
    """
    head = next(node for node in nodes if node.is_head)
    newest = max(nodes, key=lambda node: _key(node.version))
    if _key(to) < _key(newest.version)[: len(_key(to))]:
        raise UsageError(
            f"{newest.name} has Kubernetes {newest.version}: there is no way back to {to}",
            where="--to",
            fix=f"name {newest.version} or a newer one; for {to}, destroy the lab and provision it again",
        )
    step = _minor(to) - _minor(head.version)
    if step > 1:
        following = f"1.{_minor(head.version) + 1}"
        raise UsageError(
            f"{head.name} has Kubernetes {head.version}, and {to} would leave out {following}: the control plane goes"
            " from one minor version to the next",
            where="--to",
            fix=f"hyperscaler upgrade {lab} --to {following} first, with that version in the lab file",
        )
    behind = [node for node in nodes if _minor(node.version) < _minor(to) - 1]
    if behind:
        names = ", ".join(f"{node.name} ({node.version})" for node in behind)
        raise ConflictError(
            f"an upgrade to {minor_of(head.version)} did not end: {names} would leave out a minor version",
            where=lab,
            fix=f"hyperscaler upgrade {lab} --to {minor_of(head.version)} first, with that version in the lab file",
        )


def require_same_repository(nodes: Sequence[NodeState], repository: str, version: str) -> None:
    """Refuse a release from another source than the cluster's: kubeadm asks for images by the cluster's names.

    Raises:
        ConflictError: the images have other names.
    """
    others = sorted({node.repository for node in nodes if node.repository not in ("", repository)})
    if others:
        raise ConflictError(
            f"the cluster's images are named {', '.join(others)}/..., those of Kubernetes {version} from this source"
            f" {repository}/...: the source cannot be changed in place",
            where="clusters.cloud.kubernetes_config.source",
            fix="write the source that the lab was made from",
        )


def unfinished(nodes: Sequence[NodeState], version: str) -> tuple[NodeState, ...]:
    """The nodes on which something is left to do, in the order in which it is done: control plane, then workers."""
    left = [node for node in nodes if not node.is_at(version)]
    return tuple(sorted(left, key=lambda node: not node.is_head))


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("v").split("."))


def _minor(version: str) -> int:
    return _key(version)[1]
