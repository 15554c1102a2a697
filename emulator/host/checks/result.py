"""The result of a check, and what a lab asks of its host."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from emulator.host.gpu_demand import asks_for_whole_gpus
from emulator.labfile.findings import Finding
from emulator.labfile.model import Acceleration, ClusterSpec, GpuBackend, GpuStrategy


class Level(StrEnum):
    """FAIL: `provision` cannot work. WARN: it works, but slower or with a risk, or this user could not check."""

    PASS = "PASS"  # noqa: S105 - the word of virt-host-validate, and no password
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class HostCheckResult:
    """One check of the host and its result.

    Attributes:
        id: `group.name`, an interface of `--json`.
        title: a few words for people.
        found: the state of the host.
        why: why it matters to a lab.
        fix: the next thing to do, a command if there is one; empty for PASS.
        unseen: whether a part of it is hidden from this user.
    """

    id: str
    title: str
    level: Level
    found: str
    why: str
    fix: str = ""
    unseen: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "title": self.title,
            "level": self.level.value,
            "found": self.found,
            "why": self.why,
            "fix": self.fix,
            "unseen": self.unseen,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """The demands of a lab file that its host is checked against; without a file there are none.

    Attributes:
        devices: id and PCI address of the real GPUs that the file lists.
        slices: whether a node gets a slice of a GPU, so that vGPUs are needed.
        whole: whether a node gets a whole GPU.
        embedded: whether the lab has a libvirt and networks of its own; None means that it depends on the host.
        bridges: bridges of the file's networks.
        nodes: the number of nodes; 0 without a file.
        own_gpus: PCI addresses of GPUs that the lab already has, and that its own guests hold.
        findings: findings about memory, disk, cores and networks of this host.
    """

    lab: str = ""
    acceleration: Acceleration = Acceleration.AUTO
    devices: tuple[tuple[str, str], ...] = ()
    slices: bool = False
    whole: bool = False
    embedded: bool | None = None
    bridges: tuple[str, ...] = ()
    nodes: int = 0
    own_gpus: frozenset[str] = frozenset()
    findings: tuple[Finding, ...] = field(default=())

    @property
    def gpus(self) -> bool:
        """Whether real GPUs are asked for."""
        return bool(self.devices)


def wanted_of(spec: ClusterSpec) -> Wanted:
    """The demands of a lab, without findings, which depend on the host."""
    real = spec.gpu.devices if spec.gpu.backend is not GpuBackend.SIMULATED else ()
    requests = [node.gpu for node in spec.nodes if node.gpu is not None]
    uri = spec.hypervisor.uri
    cuttable = spec.gpu.strategy is not GpuStrategy.WHOLE and any(device.mig_capable for device in real)
    return Wanted(
        lab=spec.name,
        acceleration=spec.hypervisor.acceleration,
        devices=tuple((device.id, device.pci_address.lower()) for device in real),
        slices=cuttable and any(not request.whole for request in requests),
        whole=bool(real) and asks_for_whole_gpus(spec),
        embedded=None if uri == "auto" else uri == "embedded",
        bridges=tuple(network.bridge for network in spec.networks.values()),
        nodes=len(spec.nodes),
    )


def ok(id_: str, title: str, found: str, why: str) -> HostCheckResult:
    return HostCheckResult(id_, title, Level.PASS, found, why)
