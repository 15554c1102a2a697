"""Networks, other hypervisors and other libvirts of the host that a lab could collide with."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from emulator.host.checks.resources import of_finding
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.pod_networks import POD_NETWORK_CODES
from emulator.host.readings import HostReadings
from emulator.labfile.findings import Severity

_OTHERS = {
    "vboxdrv": "VirtualBox",
    "vmmon": "VMware",
    "xen_evtchn": "Xen",
    "xen_gntdev": "Xen",
}
# Names that libvirt, people, Docker, Podman, Kubernetes, Proxmox, LXC, Incus, Xen and VirtualBox give to theirs.
_BRIDGES = ("virbr", "br", "docker", "podman", "cni", "vmbr", "lxcbr", "lxdbr", "incusbr", "xenbr", "vboxnet", "vmnet")
DEFAULT_SUBNETS = (IPv4Network("192.168.100.0/24"), IPv4Network("192.168.200.0/24"))
"""The schema's defaults, for a lab whose file names no subnets."""
OWN_NETWORKS = "the lab has a network namespace of its own"


def uses_host_networks(host: HostReadings, wanted: Wanted) -> bool:
    """Whether a lab's networks are the host's: true with the host's libvirt, false with a libvirt of its own."""
    return host.system_libvirt if wanted.embedded is None else not wanted.embedded


def check_networks(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """Subnets, pod networks and bridges of the lab, other hypervisors, other libvirts."""
    yield _subnets(host, wanted)
    yield _pods(wanted)
    yield _bridges(host, wanted)
    yield _hypervisors(host)
    yield _libvirts(host)


def _subnets(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "network.subnets", "subnets"
    why = "if the host reaches a lab's subnet elsewhere, one of the two loses its traffic"
    taken = ", ".join(map(str, host.facts.networks)) or "none"
    if not wanted.lab and uses_host_networks(host, wanted):
        clash = [net for net in DEFAULT_SUBNETS if any(each.blocks(net) for each in host.facts.networks)]
        if clash:
            found = f"default subnet of labs already in use: {' and '.join(map(str, clash))}; in use here: {taken}"
            fix = "set global.networks.*.subnet in the lab file, or hypervisor.uri: embedded"
            return HostCheckResult(id_, title, Level.WARN, found, why, fix)
    return _of_lab(host, wanted, id_, title, why, "host.subnet", f"in use here: {taken}")


def _pods(wanted: Wanted) -> HostCheckResult:
    id_, title = "network.pods", "pod networks"
    why = (
        "addresses of pods and services are the cluster's own: a network of the host that has them is hidden from pods"
    )
    faults = [finding for finding in wanted.findings if finding.code in POD_NETWORK_CODES]
    if not faults:
        return ok(id_, title, "hide no network of this host" if wanted.lab else "no lab file to compare them with", why)
    found = "; ".join(f"{finding.where}: {finding.what}" for finding in faults)
    fix = "; ".join(finding.fix for finding in faults)
    return HostCheckResult(id_, title, Level.WARN, found, why, fix)


def _bridges(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "network.bridges", "bridges"
    why = "a lab makes its own bridges under the names in its file, and never takes over an existing one"
    bridges = [name for name in host.facts.interfaces if name.startswith(_BRIDGES)]
    return _of_lab(host, wanted, id_, title, why, "host.bridge", f"here: {', '.join(bridges) or 'none'}")


def _of_lab(
    host: HostReadings, wanted: Wanted, id_: str, title: str, why: str, code: str, found: str
) -> HostCheckResult:
    if not uses_host_networks(host, wanted):
        return ok(id_, title, f"{OWN_NETWORKS}; {found}", why)
    faults = [finding for finding in wanted.findings if finding.code == code]
    if faults:
        return of_finding(id_, title, min(faults, key=lambda each: each.severity is not Severity.ERROR), why)
    return ok(id_, title, found, why)


def _hypervisors(host: HostReadings) -> HostCheckResult:
    id_, title = "network.hypervisors", "other hypervisors"
    why = "only one hypervisor can use the processor's virtualisation at a time"
    names = sorted({_OTHERS[module] for module in host.kernel.loaded & _OTHERS.keys()})
    if names:
        modules = " ".join(sorted(host.kernel.loaded & _OTHERS.keys()))
        found = f"{', '.join(names)} is loaded ({modules})"
        return HostCheckResult(
            id_, title, Level.WARN, found, why, f"shut its virtual machines down, then modprobe -r {modules}"
        )
    return ok(id_, title, "none loaded", why)


def _libvirts(host: HostReadings) -> HostCheckResult:
    id_, title = "network.libvirt", "libvirt daemons"
    why = "libvirtd and the modular daemons manage the same guests, and must not run together"
    both = {"libvirtd", "virtqemud"} <= host.processes
    if both:
        fix = "systemctl disable --now libvirtd.service libvirtd.socket, or the virtqemud units"
        return HostCheckResult(id_, title, Level.WARN, "libvirtd and virtqemud both run", why, fix)
    if host.system_libvirt:
        return ok(id_, title, "the host's libvirt listens: `uri: auto` uses it", why)
    return ok(id_, title, "the host's libvirt does not listen: labs have one of their own", why)
