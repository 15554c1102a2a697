"""What a lab file says beyond networks, nodes and clusters: its settings, which reach the lab as they are written.

As in `emulator.labfile.model` an attribute with a `key(...)` is a key of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from emulator.core.debian.releases import DEFAULT_RELEASE, Release, image_of
from emulator.labfile.forms import AptSource, Image, NodePort, Seconds
from emulator.labfile.key import key
from emulator.labfile.networks import ClusterKind

ADMIN = "labadmin"
"""The account that the images have for the tool and the lab's owner: ssh with the lab's key, root through sudo."""


class Acceleration(StrEnum):
    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class HypervisorSpec:
    """`uri`: auto, embedded or a libvirt URI. `cpu_overcommit`: guest cores per host core before a warning.
    `disk_reserve_gib`: free space that guests leave on the file system of their disks."""

    uri: Annotated[
        str,
        key(
            "embedded: a private libvirtd of the lab's own; qemu:///system: the host's; auto: the host's where it"
            " answers, else embedded.",
            pattern=r"^(?:auto|embedded|qemu:///system|qemu\+unix:///system(?:\?socket=/[A-Za-z0-9_./-]+)?)$",
            expects="auto, embedded or qemu:///system (a hypervisor of this host)",
            examples=["auto", "embedded", "qemu:///system"],
        ),
    ] = "auto"
    acceleration: Annotated[Acceleration, key("auto: KVM where it really works, else TCG emulation.")] = (
        Acceleration.AUTO
    )
    cpu_overcommit: Annotated[float, key("Guest cores per host core before a warning.", minimum=0.5, maximum=64)] = 4.0
    disk_reserve_gib: Annotated[
        float,
        key(
            "Space that stays free where the disks are: below it guests that grow are paused until there is room again."
            " 0 for none.",
            name="disk_reserve_gb",
            minimum=0,
            maximum=1024,
        ),
    ] = 2.0


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Golden images by cluster, and the Debian release of those that are built in (`hpc-base` and `cloud-base`).

    `release` is None where the file leaves it to the product, and then a lab that is there keeps what it has. What a
    cluster's nodes start from, `of` says."""

    hpc: Annotated[Image, key("Image of the Slurm nodes.")] = "hpc-base"
    cloud: Annotated[Image, key("Image of the Kubernetes nodes.")] = "cloud-base"
    release: Annotated[
        Release | None,
        key(
            "Debian release of the nodes: bookworm is Debian 12 with Slurm 22.05, trixie 13 with 24.11, forky 14, which"
            f" is still in testing. By default {DEFAULT_RELEASE}; a cluster that is there keeps the one that it was"
            " made with.",
            computed=True,
            see="images.md",
        ),
    ] = None

    def of(self, cluster: ClusterKind) -> str:
        """The name of the cluster's image in the store."""
        return image_of(self.hpc if cluster is ClusterKind.HPC else self.cloud, self.release)


@dataclass(frozen=True, slots=True)
class SshSpec:
    """`user` is the admin account in the guests."""

    user: Annotated[
        str,
        key(
            "Admin account in the guests: comes in with the lab's key alone and becomes root with sudo.",
            enum=[ADMIN],
        ),
    ] = ADMIN


@dataclass(frozen=True, slots=True)
class SecuritySpec:
    """The part of the security baseline that the lab file decides. `apt_sources` are lines of apt's sources.list."""

    unattended_upgrades: Annotated[bool, key("Nodes install Debian's security updates by themselves, once a day.")] = (
        False
    )
    apt_sources: Annotated[
        tuple[AptSource, ...],
        key(
            "Package sources of the nodes, as in apt's sources.list.",
            maxItems=16,
            examples=[["deb http://mirror.lan/debian-security bookworm-security main"]],
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class AccessSpec:
    """How the lab's users get to it from elsewhere. `node_ports`: of its Kubernetes cluster."""

    gateway: Annotated[
        bool,
        key(
            "Users come in by the host's gateway, from their own machines (hyperscaler host enable-gateway).",
            see="access.md",
        ),
    ] = False
    node_ports: Annotated[
        tuple[NodePort, ...],
        key(
            "Ports of Kubernetes services (NodePort) that users reach by the gateway.",
            maxItems=16,
            examples=[[30080]],
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class TimeoutSpec:
    """Seconds that a wait has in any case; with progress it goes on (docs/design/0016). `lock` is a plain limit."""

    boot: Annotated[Seconds, key("From power-on until ssh answers.")] = 600
    configure: Annotated[Seconds, key("For the playbooks of one cluster.")] = 1800
    verify: Annotated[Seconds, key("For the probes at the end.")] = 300
    drain: Annotated[Seconds, key("For the pods of one Kubernetes node that leaves the lab to move away.")] = 180
    shutdown: Annotated[
        Seconds, key("For a node to shut down when its settings change; one that does nothing more is switched off.")
    ] = 120
    lock: Annotated[Seconds, key("For another lab to be done with the host's networks.")] = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sections of the file that the lab gets as they are."""

    hypervisor: Annotated[HypervisorSpec, key("Where the virtual machines run.")] = field(
        default_factory=HypervisorSpec
    )
    images: Annotated[ImageSpec, key("Golden images.")] = field(default_factory=ImageSpec)
    ssh: Annotated[SshSpec, key("Access to the guests.")] = field(default_factory=SshSpec)
    security: Annotated[
        SecuritySpec,
        key(
            "The part of the security baseline that is a choice. The rest is the same in every node.",
            see="security.md",
        ),
    ] = field(default_factory=SecuritySpec)
    access: Annotated[AccessSpec, key("The way in for the lab's users.", see="access.md")] = field(
        default_factory=AccessSpec
    )
    timeouts: Annotated[
        TimeoutSpec,
        key("Seconds that a wait has in any case; after that it goes on while there is progress.", see="operations.md"),
    ] = field(default_factory=TimeoutSpec)
