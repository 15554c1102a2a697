"""Which architecture a host has, and which systems are not general-purpose ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from emulator.core.errors import HostNotFitError
from emulator.core.paths import Home
from emulator.core.progress import SilentReporter
from emulator.host.checks import HostReport, check_host_readings
from emulator.host.checks.result import HostCheckResult, Level, Wanted
from emulator.host.parsers import parse_dpkg_status
from emulator.host.platform import SystemSigns, foreign_architecture, parse_architecture, system_kind
from emulator.host.prepare.steps import PreparationPlan, plan_preparation
from emulator.operations.host.prepare import Wish, prepare
from emulator.operations.host.record import PreparedHost
from tests.support import host_trees

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\n"


def report_of(root: Path, name: str, **changes: Any) -> HostReport:
    return check_host_readings(host_trees.read(host_trees.plant(root, name, **changes)), Wanted())


def result_of(report: HostReport, id_: str) -> HostCheckResult:
    return next(result for result in report.results if result.id == id_)


def planned(root: Path, name: str, **changes: Any) -> PreparationPlan:
    readings = host_trees.read(host_trees.plant(root, name, **changes))
    return plan_preparation(readings, user=None, gpus=bool(readings.gpus))


# ---------------------------------------------------------------- architecture
@pytest.mark.parametrize(
    ("arch", "cpuinfo", "release", "expected"),
    [
        ("", X86, "6.1.0-44-amd64", "x86_64"),
        ("", X86, "6.8.0-51-generic", "x86_64"),
        ("x86_64\n", "", "", "x86_64"),
        ("aarch64\n", "", "6.8.0-51-generic", "aarch64"),
        ("", ARM, "6.8.0-51-generic", "aarch64"),
        ("", "", "6.1.0-44-arm64", "aarch64"),
        ("", "", "6.6.31+rpt-rpi-v8", "aarch64"),
        ("", "CPU implementer\t: 0x41\nCPU architecture: 7\n", "6.1.0-44-armmp", "arm"),
        ("", X86, "6.1.0-44-686-pae", "i686"),
        ("", "processor\t: 0\nisa\t\t: rv64imafdc\n", "6.6.0", "riscv64"),
        ("", "processor\t: 0\ncpu\t\t: POWER9, altivec supported\n", "5.14.0", "ppc64le"),
        ("", "vendor_id       : IBM/S390\n", "6.1.0-44-s390x", "s390x"),
        ("", "", "", ""),
        ("", "nonsense", "nonsense", ""),
    ],
)
def test_architectures(arch: str, cpuinfo: str, release: str, expected: str) -> None:
    assert parse_architecture(arch, cpuinfo, release) == expected
    assert bool(foreign_architecture(expected)) is (expected not in ("", "x86_64"))


def test_on_another_architecture_that_is_all_that_is_said(tmp_path: Path) -> None:
    report = report_of(tmp_path, "arm")
    (only,) = report.results
    assert (only.id, only.level) == ("cpu.architecture", Level.FAIL)
    assert only.found == "64-bit ARM (aarch64), and labs need an x86-64 host"
    assert "VT-x" not in only.fix


def test_another_architecture_is_not_prepared(tmp_path: Path) -> None:
    made = planned(tmp_path / "plan", "arm")
    assert made.steps == () and made.manual == ()
    assert made.notes == (
        "this host is 64-bit ARM (aarch64), and labs need an x86-64 host; use an x86-64 host; here `hyperscaler "
        "validate` and `hyperscaler gpu plan` work",
    )
    root = host_trees.plant(tmp_path / "host", "arm")
    nothing: Any = None  # neither files nor programs are to be touched
    host = PreparedHost(Home(tmp_path / "home"), lambda: host_trees.read(root), nothing, nothing)
    with pytest.raises(HostNotFitError, match="64-bit ARM"):
        prepare(host, Wish(), SilentReporter())


# ---------------------------------------------------------------- kinds of systems
@pytest.mark.parametrize(
    ("signs", "packages", "name", "refused"),
    [
        (SystemSigns({"ID": "debian"}, "6.1.0-44-amd64"), {"apt"}, None, False),
        (SystemSigns({"ID": "ubuntu"}, "6.8.0-51-generic"), {"apt"}, None, False),
        (SystemSigns({"ID": "debian"}, "6.8.12-4-pve"), {"proxmox-ve"}, "Proxmox VE", False),
        (SystemSigns({"ID": "debian"}, "6.8.12-4-pve"), {"pve-manager"}, "Proxmox VE", False),
        (SystemSigns({"ID": "debian"}, "6.8.12-4-pve"), set(), "a kernel of Proxmox VE", False),
        (SystemSigns({"ID": "debian"}, "6.8.12-4-pve", container="lxc"), set(), "a container (lxc)", False),
        (SystemSigns({"ID": "debian"}, "6.6.44-production+truenas"), set(), "TrueNAS", True),
        (SystemSigns({"ID": "debian"}, markers=frozenset({"/usr/bin/midclt"})), set(), "TrueNAS", True),
        (SystemSigns({"ID": "slackware"}, "6.1.118-Unraid"), None, "Unraid", True),
        (SystemSigns({"NAME": "XCP-ng", "ID": "xenenterprise"}), None, "XCP-ng (a Xen dom0)", True),
        (SystemSigns({"NAME": "XCP-ng", "ID": "xcp-ng"}), None, "XCP-ng (a Xen dom0)", True),
        (SystemSigns({"NAME": "XenServer", "ID": "xenenterprise"}), None, "XenServer (a Xen dom0)", True),
        (SystemSigns({"ID": "rhel", "VARIANT_ID": "ovirt-node"}), None, "oVirt Node", True),
        (SystemSigns({"ID": "debian"}), {"openmediavault"}, "OpenMediaVault", False),
        (SystemSigns({"ID": "ubuntu"}, "5.15.167.4-microsoft-standard-WSL2"), set(), None, False),
        (SystemSigns({"ID": "nixos"}), None, "NixOS", False),
        (
            SystemSigns(
                {"ID": "fedora", "VARIANT_ID": "coreos", "PRETTY_NAME": "Fedora CoreOS 41"},
                markers=frozenset({"/run/ostree-booted"}),
            ),
            None,
            "Fedora CoreOS 41",
            False,
        ),
        (SystemSigns({"ID": "debian"}, container="docker"), {"apt"}, "a container (docker)", False),
        (SystemSigns({"ID": "debian"}, xen_control=True), {"apt"}, "the control domain of a Xen hypervisor", False),
    ],
)
def test_kinds_of_systems(signs: SystemSigns, packages: set[str] | None, name: str | None, refused: bool) -> None:
    kind = system_kind(signs, None if packages is None else frozenset(packages))
    if "WSL2" in signs.kernel:
        name = "Windows Subsystem for Linux"
    if name is None:
        assert kind is None
        return
    assert kind is not None
    assert kind.name.startswith(name)
    assert kind.refused is refused
    assert kind.why and kind.fix


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"/run/systemd/container": "lxc\n"}, "a container (lxc)"),
        ({"/.dockerenv": ""}, "a container (docker)"),
        ({"/run/.containerenv": ""}, "a container (podman)"),
        ({"/etc/unraid-version": 'version="7.0"\n'}, "Unraid"),
        ({"/proc/xen/capabilities": "control_d\n"}, "the control domain of a Xen hypervisor (dom0)"),
    ],
)
def test_signs_are_read_from_the_host(tmp_path: Path, files: Mapping[str, str], found: str) -> None:
    kind = result_of(report_of(tmp_path, "amd", files=files), "system.kind")
    assert kind.found == f"Debian GNU/Linux 12 (bookworm): {found}"
    assert kind.level is (Level.FAIL if found == "Unraid" else Level.WARN)


def test_an_appliance_is_not_prepared(tmp_path: Path) -> None:
    made = planned(tmp_path, "unprepared", files={"/usr/bin/midclt": ""})
    assert made.steps == ()
    assert made.refusal is not None
    assert "TrueNAS" in made.refusal[0]


# ---------------------------------------------------------------- packages
def test_a_package_that_another_one_provides_is_installed(tmp_path: Path) -> None:
    packages = result_of(report_of(tmp_path / "check", "proxmox"), "program.packages")
    assert packages.found == (
        "4 missing: libvirt-daemon, libvirt-daemon-system, libvirt-daemon-driver-qemu, libvirt-clients"
    )
    assert "--no-remove" in packages.fix
    made = planned(tmp_path / "plan", "proxmox")
    (install,) = [step for step in made.steps if step.id == "packages"]
    assert "--no-remove" in install.argv
    assert not {"qemu-system-x86", "qemu-utils"} & set(install.argv)
    assert made.notes[0].startswith("this host is Proxmox VE: Proxmox VE brings a QEMU of its own")


def test_provided_packages_in_all_their_spellings() -> None:
    status = (
        "Package: qemu-system-x86-hwe\nStatus: install ok installed\nArchitecture: amd64\n"
        "Provides: qemu-kvm (= 1:10.2.1+ds-1ubuntu4), qemu-system-x86 (= 1:10.2.1+ds-1ubuntu4)\nConflicts: qemu-kvm\n\n"
        "Package: folded\nStatus: hold ok installed\nProvides: one,\n two:any,\n\tthree\n"
        "Description: x\n Provides: no\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nProvides: four\n\n"
        "Package: half\nStatus: install ok half-configured\nProvides: five\n\n"
        "Package: late\nPriority: optional\nSection: x\nInstalled-Size: 1\nStatus: install ok installed\n\n"
        "Status: install ok installed\nProvides: six\n"
    )
    assert parse_dpkg_status(status) == {
        "qemu-system-x86-hwe", "qemu-kvm", "qemu-system-x86", "folded", "one", "two", "three", "late",
    }  # fmt: skip
