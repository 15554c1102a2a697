"""What can be done with running guests: the port, and what goes in and comes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from emulator.core.debian.releases import SlurmFeature
from emulator.core.paths import LabPaths
from emulator.core.ports import GuestShell
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import Pace
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.users import LabUser
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.verify.report import CheckResult
from emulator.kubernetes.release.upgrade_files import UpgradeFiles
from emulator.labfile.model import ClusterKind, ClusterSpec


@dataclass(frozen=True, slots=True)
class Access:
    """How to get into a lab's guests (the prefix enters their network namespace), what GPUs they have, how patient to
    be with them on this host, and what is done with their Slurm (None: what the lab file's images say)."""

    paths: LabPaths
    user: str
    prefix: tuple[str, ...]
    gpus: Mapping[str, tuple[NodeGpu, ...]] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    slurm: frozenset[SlurmFeature] | None = None


@dataclass(frozen=True, slots=True)
class ConfigureOutcome:
    """`changed` counts changed tasks per node."""

    changed: Mapping[str, int]
    seconds: float


class UpgradeStep(StrEnum):
    """What is done with nodes on their way to another release of Kubernetes; the tags of the playbook."""

    STAGE = "stage"
    CONTROL_PLANE = "control-plane"
    WORKER = "worker"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class NodeUpgrade:
    """One step of an upgrade on these nodes; `files` of the release, for every step but the last."""

    step: UpgradeStep
    nodes: tuple[str, ...]
    files: UpgradeFiles | None


class Guests(Protocol):
    """What is done with running guests beyond a shell: host keys, playbooks, probes."""

    def parse_host_keys(self, console: str) -> Sequence[str]: ...

    def write_access(self, spec: ClusterSpec, access: Access, keys: Mapping[str, Sequence[str]] | None) -> None:
        """Write the lab's ssh_config and, when `keys` are given, its known_hosts."""
        ...

    def shell(self, access: Access) -> GuestShell: ...

    def configure(
        self,
        spec: ClusterSpec,
        kind: ClusterKind,
        access: Access,
        reporter: Reporter,
        stop: StopFlag,
        tags: tuple[str, ...] = (),
    ) -> ConfigureOutcome:
        """Run the playbook of one cluster, or only its tasks with one of `tags`."""
        ...

    def upgrade(
        self, spec: ClusterSpec, part: NodeUpgrade, access: Access, reporter: Reporter, stop: StopFlag
    ) -> ConfigureOutcome:
        """Take a step of an upgrade of the Kubernetes cluster; it may be taken again.

        Raises:
            ConfigureError: a task failed on a node, or a node did not answer.
            InterruptedRunError: a stop was asked for.
        """
        ...

    def end_work(self, paths: LabPaths) -> None:
        """End what `configure` of a killed command left at work. To be called under the lab's lock."""
        ...

    def user_key(self, spec: ClusterSpec, access: Access, order: CertificateOrder, *, revoked: Collection[str]) -> str:
        """Have the key that is to be certified lie in the order's directory; that key as `TYPE BASE64`. Unless it is
        the user's own, a pair is made there; one that is there stays, unless its key is among the `revoked`.
        """
        ...

    def issue(self, spec: ClusterSpec, access: Access, order: CertificateOrder) -> None:
        """Certify the key that `user_key` has laid there, and put the certificate and a configuration next to it."""
        ...

    def refusing(self, spec: ClusterSpec, access: Access, key: Path) -> tuple[str, ...]:
        """Names of the nodes that do not let the tool in with the private key at `key`."""
        ...

    def prove(
        self, spec: ClusterSpec, secret: RotatedSecret, access: Access, reporter: Reporter
    ) -> tuple[CheckResult, ...]:
        """Try a secret that was rotated: log in, run a job, check certificates."""
        ...

    def hand_kubeconfig(
        self, spec: ClusterSpec, access: Access, user: LabUser, *, seconds: int, directory: Path
    ) -> None:
        """Put a kubeconfig of a user whom the cluster knows into the directory, good for `seconds` from now.

        Raises:
            VerifyError: the control plane gives no token.
            CommandError: it cannot be asked.
        """
        ...

    def inventory(self, spec: ClusterSpec, access: Access, form: str) -> str:
        """The Ansible inventory as `ini`, `yaml` or `json`."""
        ...

    def ssh_argv(self, access: Access, node: str, command: Sequence[str]) -> list[str]:
        """The command that opens a shell on a node, for a person."""
        ...

    def cluster_state(self, spec: ClusterSpec, access: Access, kinds: Sequence[ClusterKind]) -> Mapping[str, str]:
        """One line about the nodes of each of these clusters as its scheduler sees them, for `status`: `slurm`,
        `kubernetes`. They are asked at once."""
        ...

    def kubeconfig(self, spec: ClusterSpec, access: Access, *, student: bool) -> str:
        """A kubeconfig of the lab's Kubernetes cluster: the admin's, or the restricted student's."""
        ...

    def verify(
        self, spec: ClusterSpec, kind: ClusterKind, access: Access, reporter: Reporter
    ) -> tuple[CheckResult, ...]:
        """Probe one cluster."""
        ...
