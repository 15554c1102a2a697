"""What a check says, and what a lab wants of its host."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from emulator.labfile.findings import Finding
from emulator.labfile.model import Acceleration, ClusterSpec, GpuBackend, GpuStrategy


class Level(StrEnum):
    """FAIL: `provision` cannot work. WARN: it works, slower or with a risk, or this user could not look."""

    PASS = "PASS"  # noqa: S105 - the word of virt-host-validate, and no password
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class HostCheckResult:
    """One check of the host and its result.

    Attributes:
        id: `group.name`, an interface of `--json`.
        title: a few words for people.
        found: what the host has.
        why: why it matters to a lab.
        fix: the next thing to do, a command where there is one; empty when all is well.
        unseen: this user could not see all of it.
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
    """What of a lab file its host is judged by; without a file nothing is asked for in particular.

    Attributes:
        devices: id and PCI address of the real GPUs that the file lists.
        slices: some node gets a slice of a GPU, so that vGPUs are needed.
        whole: some node gets a whole GPU.
        embedded: the lab has a libvirt and networks of its own; None leaves it to what the host has.
        bridges: those of the file's networks.
        nodes: how many; 0 without a file.
        own_gpus: PCI addresses of GPUs that the lab has already, so that its own guests hold them.
        findings: what the file says about memory, disk, cores and networks of this host.
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
    """What a lab wants, its findings left out: they need the host."""
    real = spec.gpu.devices if spec.gpu.backend is not GpuBackend.SIMULATED else ()
    requests = [node.gpu for node in spec.nodes if node.gpu is not None]
    uri = spec.hypervisor.uri
    gpus_only = spec.gpu.strategy is GpuStrategy.WHOLE
    return Wanted(
        lab=spec.name,
        acceleration=spec.hypervisor.acceleration,
        devices=tuple((device.id, device.pci_address.lower()) for device in real),
        slices=bool(real) and not gpus_only and any(not request.whole for request in requests),
        whole=bool(real) and (gpus_only or any(request.whole for request in requests)),
        embedded=None if uri == "auto" else uri == "embedded",
        bridges=tuple(network.bridge for network in spec.networks.values()),
        nodes=len(spec.nodes),
    )


def ok(id_: str, title: str, found: str, why: str) -> HostCheckResult:
    return HostCheckResult(id_, title, Level.PASS, found, why)
