"""A Kubernetes cluster on the simulated machine: what its nodes and its API say, and what an upgrade changes of it.

It is there once a test has made it (`found`). Its state lies in one file of the machine, so that a snapshot has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emulator.adapters.simulated.calls import CallHook
from emulator.adapters.simulated.guests import SimulatedShell
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.core.errors import ConfigureError
from emulator.core.fs import replace_file
from emulator.core.ports import Completed, GuestAddress
from emulator.guests.ports import NodeUpgrade, UpgradeStep
from emulator.kubernetes.release.node_files import RELEASE_FILE

HEAD = "cloud-control-plane"
REPOSITORY = "hyperscaler.invalid/kubernetes"


@dataclass
class Member:
    """A node: its record's release, its kubelet's, which release's files it has, who keeps pods away from it."""

    version: str
    kubelet: str
    staged: str = ""
    draining: bool = False
    cordoned: bool = False
    stuck: bool = False
    repository: str = REPOSITORY


@dataclass
class Cluster:
    """`steps` are what was done to it, oldest first."""

    file: Path
    members: dict[str, Member] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Cluster | None:
        if not file.exists():
            return None
        raw = json.loads(file.read_text())
        return cls(file, {name: Member(**each) for name, each in raw["members"].items()}, raw["steps"])

    def write(self) -> None:
        members = {name: asdict(member) for name, member in self.members.items()}
        replace_file(self.file, json.dumps({"members": members, "steps": self.steps}).encode())

    def versions(self) -> Mapping[str, str]:
        return {name: member.version for name, member in self.members.items()}

    def take(self, part: NodeUpgrade, name: str) -> bool:
        """A step on one node, as the playbook takes it; whether it changed anything."""
        node = self.members[name]
        if part.files is None:
            assert part.step is UpgradeStep.FORGET
            assert not any(each.draining or each.version != node.version for each in self.members.values())
            changed, node.staged = bool(node.staged), ""
            self.steps.append(f"{part.step.value} {name}")
            self.write()
            return changed
        target = part.files.version
        if part.step is UpgradeStep.STAGE:
            changed, node.staged = node.staged != part.files.key, part.files.key
        else:
            if node.staged != part.files.key:
                raise ConfigureError(f"{name} lacks the release's files", where=name)
            if part.step is UpgradeStep.WORKER:
                assert self.members[HEAD].version == target, "the control plane goes first"
                assert node.draining or node.cordoned, "no worker is touched that was not drained"
                assert sum(each.draining for each in self.members.values()) <= 1, "one worker after the other"
            changed, node.version, node.kubelet = node.version != target, target, target
        self.steps.append(f"{part.step.value} {name}")
        self.write()
        return changed


def found(file: Path, versions: Mapping[str, str]) -> Cluster:
    """A cluster whose nodes have these releases."""
    made = Cluster(file, {name: Member(version, version) for name, version in versions.items()})
    made.write()
    return made


class ClusterShell(SimulatedShell):
    """A shell whose control plane has kubectl, and whose nodes have a record of their release."""

    def __init__(self, hypervisor: SimulatedHypervisor, file: Path, hook: CallHook) -> None:
        super().__init__(hypervisor, hook=hook)
        self._file = file

    def _answer(self, guest: GuestAddress, command: str) -> Completed:
        cluster = Cluster.read(self._file)
        if cluster is None or not self._reachable(guest):
            return super()._answer(guest, command)
        said = answer(cluster, guest.name, command)
        return Completed((command,), *said) if said else super()._answer(guest, command)


def answer(cluster: Cluster, guest: str, command: str) -> tuple[int, str, str] | None:
    """Exit status, output and complaints of a command that the cluster knows."""
    if command == f"cat /{RELEASE_FILE}":
        node = cluster.members[guest]
        return 0, json.dumps({"version": node.version, "repository": node.repository}), ""
    if command.endswith("get nodes -o json"):
        return 0, json.dumps({"items": [listed(name, node) for name, node in cluster.members.items()]}), ""
    words: Sequence[str] = command.split()
    if "drain" in words:
        name = words[words.index("drain") + 1]
        cluster.members[name].draining |= "patch" in words
        cluster.steps.append(f"drain {name}{' --force' if '--force' in words else ''}")
        cluster.write()
        stuck = cluster.members[name].stuck
        return (1, "", f"error when evicting pod web of {name}: disruption budget") if stuck else (0, "drained", "")
    if "patch" in words and re.search(r'"unschedulable": null', command):
        name = words[words.index("node") + 1]
        cluster.members[name].draining = False
        cluster.steps.append(f"uncordon {name}")
        cluster.write()
        return 0, "patched", ""
    return None


def listed(name: str, node: Member) -> dict[str, object]:
    """A node as kubectl lists it."""
    annotations = {"hyperscaler/draining": "true"} if node.draining else {}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"unschedulable": True} if node.draining or node.cordoned else {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": f"v{node.kubelet}"},
        },
    }
