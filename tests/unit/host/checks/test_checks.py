"""The checks of a host over recorded hosts: what each says of each, and what a lab file makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from emulator.cli.render.host_check import host_report_json, host_report_text
from emulator.core.data_files import share_dir
from emulator.core.errors import ConfigError
from emulator.host.checks import HostReport, check_host_readings
from emulator.host.checks.networks import DEFAULT_SUBNETS
from emulator.host.checks.result import Level, Wanted
from emulator.host.parsers import parse_cgroup_mounts, parse_package_list
from emulator.labfile.model import Acceleration
from emulator.operations.host.check import check_host
from tests.support import host_trees
from tests.support.waiting import PATIENCE

# What is not PASS on each recorded host.
EXPECTED: Mapping[str, Mapping[str, str]] = {
    "intel": {},
    "amd": {},
    "no-virtualisation": {
        "cpu.virtualisation": "WARN",
        "cpu.kvm": "WARN",
        "cpu.nested": "WARN",
        "cpu.vhost-net": "WARN",
        "iommu.present": "WARN",
        "iommu.enabled": "WARN",
        "system.clock": "WARN",
        "system.inotify": "WARN",
    },
    "ubuntu-24.04-vendor-vfio": {"gpu.holders": "WARN", "program.user": "WARN", "network.docker": "WARN"},
    "ubuntu-24.04": {
        "iommu.enabled": "WARN",
        "program.libvirt": "FAIL",
        "program.qemu": "FAIL",
        "program.qemu-img": "FAIL",
        "program.dnsmasq": "FAIL",
        "program.packages": "FAIL",
        "program.archives": "WARN",
        "system.inotify": "WARN",
    },
    "unprepared": {
        "cpu.kvm": "WARN",
        "cpu.vhost-net": "WARN",
        "iommu.enabled": "WARN",
        "iommu.arguments": "WARN",
        "gpu.nouveau": "WARN",
        "gpu.driver": "WARN",
        "program.packages": "FAIL",
        "system.clock": "WARN",
        "system.inotify": "WARN",
    },
    "arm": {"cpu.architecture": "FAIL"},
    "driver-free": {},
    "proxmox": {
        "iommu.present": "WARN",
        "iommu.enabled": "WARN",
        "program.libvirt": "FAIL",
        "program.packages": "FAIL",
        "system.kind": "WARN",
    },
    "broken": {
        "cpu.kvm": "WARN",
        "cpu.vhost-net": "WARN",
        "cpu.tun": "FAIL",
        "iommu.enabled": "WARN",
        "iommu.arguments": "WARN",
        "gpu.nouveau": "WARN",
        "gpu.driver": "WARN",
        "gpu.holders": "WARN",
        "program.libvirt": "FAIL",
        "program.qemu": "FAIL",
        "program.dnsmasq": "FAIL",
        "program.ansible": "FAIL",
        "program.packer": "WARN",
        "program.packages": "FAIL",
        "resource.memory": "WARN",
        "resource.disk": "WARN",
        "resource.cores": "WARN",
        "resource.hugepages": "WARN",
        "network.subnets": "WARN",
        "network.hypervisors": "WARN",
        "network.libvirt": "WARN",
        "network.docker": "WARN",
        "network.firewalld": "WARN",
        "system.clock": "WARN",
        "system.open-files": "WARN",
        "system.inotify": "WARN",
        "system.cgroups": "WARN",
    },
}


def judge(root: Path, name: str, wanted: Wanted | None = None, **changes: object) -> HostReport:
    return check_host_readings(host_trees.read(host_trees.plant(root, name, **changes)), wanted or Wanted())


def troubles(report: HostReport) -> dict[str, str]:
    return {result.id: result.level.value for result in report.results if result.level is not Level.PASS}


def result_of(report: HostReport, id_: str) -> tuple[Level, str]:
    return next((result.level, result.found) for result in report.results if result.id == id_)


def test_every_recorded_host_is_judged() -> None:
    assert set(host_trees.NAMES) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_levels_of_each_host(tmp_path: Path, name: str) -> None:
    report = judge(tmp_path, name)
    assert troubles(report) == EXPECTED[name]
    assert report.failed is ("FAIL" in EXPECTED[name].values())
    for result in report.results:
        assert result.found and result.why and result.title
        assert bool(result.fix) is (result.level is not Level.PASS), result


def test_every_check_is_seen_to_fail_or_warn_somewhere(tmp_path: Path) -> None:
    """Each check is made to say something else than PASS, by a host or in a test below."""
    report = judge(tmp_path, "intel")
    spoken = {id_ for troubled in EXPECTED.values() for id_ in troubled}
    in_tests_below = {
        "iommu.groups",
        "gpu.boards",
        "network.pods",
        "gpu.binding",
        "gpu.framebuffer",
        "gpu.sriov",
        "gpu.vgpu",
        "network.bridges",
        "network.forward",
        "network.ufw",
        "program.qemu-img",
        "system.confinement",
    }
    nothing_to_fix = {"cpu.secure-guest"}
    assert {result.id for result in report.results} == spoken | in_tests_below | nothing_to_fix


# ---------------------------------------------------------------- what is found
@pytest.mark.parametrize(
    ("name", "id_", "found"),
    [
        ("intel", "cpu.virtualisation", "Intel VT-x (vmx)"),
        ("intel", "iommu.present", "the firmware announces it (ACPI table DMAR)"),
        ("intel", "iommu.arguments", "intel_iommu=on iommu=pt"),
        ("intel", "gpu.driver", "550.144.02, vGPU host driver, proprietary kernel modules"),
        ("intel", "gpu.vgpu", "0000:41:00.0: mediated devices; 0000:ca:00.0: no vGPUs"),
        ("intel", "gpu.sriov", "0000:41:00.0: 2 of 20 VFs; 0000:ca:00.0: none offered"),
        ("amd", "cpu.virtualisation", "AMD-V (svm)"),
        ("amd", "iommu.arguments", "none, and the IOMMU is on"),
        ("amd", "gpu.driver", "570.124.06, data-centre driver, open kernel modules"),
        ("amd", "gpu.nouveau", "not loaded, blacklisted by modprobe.blacklist=nouveau,nova-core"),
        ("amd", "system.cgroups", "version 1: cpu, cpuacct, cpuset, memory, devices, blkio, freezer"),
        ("ubuntu-24.04-vendor-vfio", "gpu.vgpu", "0000:17:00.0: vendor VFIO (no mdev)"),
        ("ubuntu-24.04-vendor-vfio", "program.user", "ada, in libvirt and kvm: only root can provision"),
        (
            "no-virtualisation",
            "cpu.kvm",
            "exists and answers, but the processor shows no vmx or svm flag: it is not used",
        ),
        ("broken", "gpu.nouveau", "loaded, although blacklisted by /etc/modprobe.d/gpu.conf"),
        ("broken", "gpu.holders", "Xorg (400)"),
        ("broken", "network.docker", "FORWARD is DROP"),
    ],
)
def test_what_is_found(tmp_path: Path, name: str, id_: str, found: str) -> None:
    assert result_of(judge(tmp_path, name), id_)[1] == found


def test_an_ordinary_user_learns_what_was_hidden(tmp_path: Path) -> None:
    report = judge(tmp_path, "ubuntu-24.04-vendor-vfio")
    unseen = {result.id for result in report.results if result.unseen}
    assert unseen == {"gpu.holders", "network.docker"}
    assert "2 not to be seen by this user" in host_report_text(report, verbose=False, subject="it")


@pytest.mark.parametrize(
    ("answer", "uid", "found"),
    [
        (None, 0, "absent"),
        ("refused", 1000, "exists, but ada may not open it"),
        ("broken", 0, "exists, but does not open or does not answer"),
        ("usable", 0, "opens and answers"),
    ],
)
def test_kvm_in_all_its_states(tmp_path: Path, answer: str | None, uid: int, found: str) -> None:
    report = judge(tmp_path, "intel", devices={"/dev/kvm": answer}, uid=uid)
    assert result_of(report, "cpu.kvm") == (Level.PASS if answer == "usable" else Level.WARN, found)


def test_an_old_qemu_img_and_a_silent_one(tmp_path: Path) -> None:
    old = judge(tmp_path / "a", "intel", programs={"qemu-img": "qemu-img version 5.2.0"})
    assert result_of(old, "program.qemu-img") == (Level.FAIL, "5.2.0, older than 7.2")
    silent = judge(tmp_path / "b", "intel", programs={"qemu-img": "Segmentation fault"})
    assert result_of(silent, "program.qemu-img")[0] is Level.WARN


@pytest.mark.parametrize(
    ("answer", "level"),
    [(None, Level.WARN), ("broken", Level.WARN), ("refused", Level.PASS), ("usable", Level.PASS)],
)
def test_vhost_net_in_all_its_states(tmp_path: Path, answer: str | None, level: Level) -> None:
    """QEMU is started by root, so that it does not matter whether this user may open it."""
    report = judge(tmp_path, "intel", devices={"/dev/vhost-net": answer})
    assert result_of(report, "cpu.vhost-net")[0] is level


@pytest.mark.parametrize(
    ("embedded", "socket", "level"),
    [
        (True, True, Level.FAIL),
        (False, True, Level.PASS),
        (None, True, Level.PASS),  # `uri: auto` takes the host's where it answers
        (None, False, Level.FAIL),
    ],
)
def test_virtqemud_alone_serves_only_labs_on_the_host_s_libvirt(
    tmp_path: Path, embedded: bool | None, socket: bool, level: Level
) -> None:
    files = {"/run/libvirt/virtqemud-sock": ""} if socket else {}
    programs = {"libvirtd": None, "virtqemud": "virtqemud (libvirt) 11.0.0\n"}
    report = judge(tmp_path, "intel", Wanted(embedded=embedded), files=files, programs=programs)
    found = "11.0.0 (at least 9.0)"
    if level is Level.FAIL:
        found = "only virtqemud is installed, and a lab's own libvirt is a libvirtd"
    assert result_of(report, "program.libvirt") == (level, found)


@pytest.mark.parametrize(
    ("process", "files", "level", "found"),
    [
        ("chronyd", {"/recorded/clock_synchronised": "yes\n"}, Level.PASS, "synchronised; chrony runs here"),
        (
            "chronyd",
            {"/recorded/clock_synchronised": "no\n"},
            Level.WARN,
            "chrony runs, but the clock is not known to be synchronised",
        ),
        ("chronyd", {}, Level.PASS, "chrony runs; whether the clock is synchronised is unknown"),
        (
            "systemd-timesyn",
            {"/recorded/clock_synchronised": "no\n", "/run/systemd/timesync/synchronized": ""},
            Level.PASS,
            "synchronised; systemd-timesyncd runs here",
        ),
        ("sshd", {"/recorded/clock_synchronised": "yes\n"}, Level.PASS, "synchronised; no time service runs here"),
        ("sshd", {"/recorded/clock_synchronised": "no\n"}, Level.WARN, "no time service runs here"),
        ("sshd", {}, Level.WARN, "no time service runs here"),
    ],
)
def test_a_clock_that_is_right_and_one_that_a_service_is_to_set(
    tmp_path: Path, process: str, files: dict[str, str], level: Level, found: str
) -> None:
    report = judge(tmp_path, "no-virtualisation", processes={612: process}, files=files)
    assert result_of(report, "system.clock") == (level, found)


def test_the_vgpu_services_and_those_that_hold_a_gpu(tmp_path: Path) -> None:
    wanted = Wanted(lab="l", devices=(("GPU-0", "0000:41:00.0"),), slices=True)
    changes = {"processes": {700: "sshd", 701: "nvidia-persiste"}, "holds": {701: ["/dev/nvidia0"]}}
    report = judge(tmp_path, "intel", wanted, **changes)
    by_id = {result.id: result for result in report.results}
    assert by_id["gpu.vgpu"].level is Level.WARN
    assert by_id["gpu.vgpu"].fix == "systemctl enable --now nvidia-vgpu-mgr nvidia-vgpud"
    assert by_id["gpu.holders"].fix == "systemctl stop nvidia-persistenced; when they are done, end them: kill 701"


def test_a_user_outside_the_groups(tmp_path: Path) -> None:
    report = judge(tmp_path, "intel", uid=1000, groups=["kvm"])
    assert result_of(report, "program.user") == (Level.WARN, "ada, not in libvirt: only root can provision")


def test_what_a_user_does_not_see_is_not_taken_for_absent(tmp_path: Path) -> None:
    """With `hidepid` a user sees their own processes only, and not the first one."""
    files = {"/run/libvirt/libvirt-sock": "", "/recorded/clock_synchronised": "no\n"}
    hidden = {"uid": 1000, "groups": ["kvm"], "processes": {700: "bash"}, "files": files}
    root = host_trees.plant(tmp_path / "hidden", "intel", **hidden)
    for pid in (1, 612, 701):
        (root / f"proc/{pid}/comm").unlink()
    report = check_host_readings(host_trees.read(root), Wanted(lab="l", devices=SIMULATED_GPUS, slices=True))
    unseen = {result.id for result in report.results if result.unseen}
    assert {"system.clock", "network.firewalld"} <= unseen
    assert result_of(report, "gpu.vgpu")[0] is Level.PASS
    seen = judge(tmp_path / "seen", "intel", uid=1000, processes={1: "systemd"}, files=files)
    assert {"system.clock", "network.firewalld"}.isdisjoint(result.id for result in seen.results if result.unseen)


def test_a_process_of_a_user_is_no_service_whatever_its_name(tmp_path: Path) -> None:
    """A student calls a process chronyd, and another nvidia-vgpu-mgr: the clock is unkept, the driver what it was."""
    feigned = {"/proc/612/status": "Name:\tchronyd\nUid:\t1001\t1001\t1001\t1001\n"}
    report = judge(tmp_path / "user", "intel", files=feigned)
    assert result_of(report, "system.clock") == (Level.WARN, "no time service runs here")
    served = judge(
        tmp_path / "system", "intel", files={"/proc/612/status": "Name:\tchronyd\nUid:\t106\t106\t106\t106\n"}
    )
    assert result_of(served, "system.clock")[0] is Level.PASS
    driver = judge(tmp_path / "driver", "amd", processes={701: "nvidia-vgpu-mgr"},
                   files={"/proc/701/status": "Uid:\t1001\t1001\t1001\t1001\n"})  # fmt: skip
    assert "data-centre driver" in result_of(driver, "gpu.driver")[1]


def test_no_escape_sequence_of_a_user_reaches_the_terminal(tmp_path: Path) -> None:
    report = judge(
        tmp_path, "broken", processes={400: "\x1b[2J\x1b]0;x"}, files={"/etc/os-release": 'PRETTY_NAME="\x1b[31m"\n'}
    )
    text = host_report_text(report, verbose=True, subject="it") + json.dumps(host_report_json(report))
    assert "\x1b" not in text and "\\u001b" not in text
    assert "[2J" in result_of(report, "gpu.holders")[1]


@pytest.mark.parametrize(
    ("mounts", "unified", "version"),
    [
        ("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n", "", 1),
        ("cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n", "cpu io memory cpuset", 2),
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "cpu io memory cpuset", 2),
        ("", "", 0),
    ],
)
def test_cgroups_of_every_version(mounts: str, unified: str, version: int) -> None:
    assert parse_cgroup_mounts(mounts, unified).version == version


@pytest.mark.parametrize("embedded", [True, False, None])
def test_no_group_lets_an_ordinary_user_provision(tmp_path: Path, embedded: bool | None) -> None:
    report = judge(tmp_path, "ubuntu-24.04-vendor-vfio", Wanted(embedded=embedded))
    (result,) = [result for result in report.results if result.id == "program.user"]
    assert (result.level, result.found) == (Level.WARN, "ada, in libvirt and kvm: only root can provision")
    assert result.fix == "sudo hyperscaler provision FILE"


def test_a_gpu_that_shares_its_group(tmp_path: Path) -> None:
    rows = [*host_trees.table("amd")["pci"], {"at": "0000:82:00.0", "id": "1b21:1242", "class": "0c0330", "group": 14}]
    found = "0000:81:00.0 shares group 14 with 0000:82:00.0 (USB controller, no driver)"
    assert result_of(judge(tmp_path / "a", "amd", pci=rows), "iommu.groups") == (Level.WARN, found)
    wanted = Wanted(lab="l", devices=(("GPU-0", "0000:81:00.0"),), whole=True)
    assert result_of(judge(tmp_path / "b", "amd", wanted, pci=rows), "iommu.groups") == (Level.FAIL, found)


def test_acpi_tables_behind_a_closed_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an ordinary user sees them in some containers: neither there nor absent."""
    from emulator.adapters.system.host_files import RecordedFiles

    listdir = RecordedFiles.listdir

    def closed(self: RecordedFiles, path: str) -> tuple[str, ...]:
        if path == "/sys/firmware/acpi/tables":
            raise PermissionError(13, "Permission denied", path)
        return listdir(self, path)

    monkeypatch.setattr(RecordedFiles, "listdir", closed)
    report = judge(tmp_path, "no-virtualisation")
    assert result_of(report, "iommu.present") == (Level.WARN, "hidden from this user")


# ---------------------------------------------------------------- what a lab asks for
SIMULATED_GPUS = (("GPU-0", "0000:41:00.0"),)


@pytest.mark.parametrize(
    ("name", "wanted", "failing"),
    [
        ("no-virtualisation", Wanted(lab="l", acceleration=Acceleration.KVM), {"cpu.virtualisation", "cpu.kvm"}),
        ("no-virtualisation", Wanted(lab="l", acceleration=Acceleration.TCG), set()),
        (
            "no-virtualisation",
            Wanted(lab="l", devices=SIMULATED_GPUS, slices=True),
            {"iommu.present", "iommu.enabled", "iommu.arguments", "gpu.boards", "gpu.driver"},
        ),
        ("intel", Wanted(lab="l", devices=SIMULATED_GPUS, slices=True), set()),
        ("intel", Wanted(lab="l", devices=SIMULATED_GPUS, whole=True), set()),
        (
            "amd",
            Wanted(lab="l", devices=(("GPU-0", "0000:81:00.0"),), slices=True),
            {"gpu.driver", "gpu.vgpu", "gpu.sriov"},
        ),
        ("amd", Wanted(lab="l", devices=(("GPU-0", "0000:81:00.0"),), whole=True), set()),
        ("ubuntu-24.04-vendor-vfio", Wanted(lab="l", devices=(("GPU-0", "0000:17:00.0"),), slices=True), set()),
    ],
)
def test_a_lab_makes_failures_of_what_it_cannot_do_without(
    tmp_path: Path, name: str, wanted: Wanted, failing: set[str]
) -> None:
    report = judge(tmp_path, name, wanted)
    assert {result.id for result in report.results if result.level is Level.FAIL} == failing


LAB = """\
version: "1.0"
metadata: {name: small}
global: {networks: {hpc_network: {subnet: 192.168.100.0/24, bridge: virbr100}}}
clusters: {hpc: {controller: {memory_gb: 4}, compute_nodes: {count: 2, memory_gb: 4, gpu_enabled: false}}}
hypervisor: {uri: URI}
"""


def _check(tmp_path: Path, text: str, name: str) -> HostReport:
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    root = host_trees.plant(tmp_path / "root", name)
    return check_host(lambda: host_trees.read(root), file, None)


def test_a_lab_file_is_held_against_the_host(tmp_path: Path) -> None:
    report = _check(tmp_path, LAB.replace("URI", "qemu:///system"), "broken")
    levels = {result.id: result.level.value for result in report.results}
    assert levels["resource.memory"] == "FAIL"
    assert levels["resource.disk"] == "FAIL"
    assert levels["resource.cores"] == "WARN"
    assert levels["network.subnets"] == "FAIL"
    assert levels["network.bridges"] == "FAIL"
    _, found = result_of(report, "network.subnets")
    assert found.endswith("192.168.100.0/24 overlaps 192.168.100.0/24, which this host reaches through eth0")
    assert str(tmp_path / "lab.yaml") in found


def test_a_lab_does_not_fit_beside_huge_pages(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.replace("URI", "embedded"))  # 12 GiB in three nodes
    meminfo = "MemTotal: 33554432 kB\nMemAvailable: 30000000 kB\nHugetlb: 25165824 kB\n"
    root = host_trees.plant(tmp_path / "root", "intel", files={"/proc/meminfo": meminfo})
    level, found = result_of(check_host(lambda: host_trees.read(root), file, None), "resource.memory")
    assert level is Level.FAIL
    assert found.endswith("this host has 32.0 GiB in all, 24.0 GiB of it reserved as huge pages, which labs do not use")


def test_a_lab_with_networks_of_its_own_has_no_neighbours(tmp_path: Path) -> None:
    report = _check(tmp_path, LAB.replace("URI", "embedded"), "broken")
    levels = {result.id: result.level.value for result in report.results if result.id.startswith("network.")}
    assert {id_ for id_, level in levels.items() if level != "PASS"} == {"network.hypervisors", "network.libvirt"}


def test_a_lab_that_fits(tmp_path: Path) -> None:
    report = _check(tmp_path, LAB.replace("URI", "auto"), "intel")
    assert troubles(report) == {}
    assert result_of(report, "resource.memory")[1].endswith("enough for small")


def test_a_broken_lab_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        _check(tmp_path, "version: nonsense\n", "intel")


def test_the_default_subnets_are_those_of_the_schema() -> None:
    schema = (share_dir() / "schemas" / "cluster.schema.json").read_text()
    networks = json.loads(schema)["properties"]["global"]["properties"]["networks"]["properties"]
    defaults = [IPv4Network(network["properties"]["subnet"]["default"]) for network in networks.values()]
    assert tuple(defaults) == DEFAULT_SUBNETS


# ---------------------------------------------------------------- what is printed
def test_the_text_is_aligned_and_has_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = host_report_text(judge(tmp_path, "broken"), verbose=False, subject="this host")
    lines = text.splitlines()
    assert "  FAIL  QEMU                  not installed" in lines
    assert lines[lines.index("  FAIL  QEMU                  not installed") + 2] == (
        " " * 30 + "fix: hyperscaler host prepare, or apt-get install qemu-system-x86"
    )
    assert lines[-1].endswith("this host is not fit: fix what says FAIL")
    assert "why:" not in host_report_text(judge(tmp_path / "i", "intel"), verbose=False, subject="x")
    assert "why:" in host_report_text(judge(tmp_path / "j", "intel"), verbose=True, subject="x")


def test_json_has_every_check(tmp_path: Path) -> None:
    report = judge(tmp_path, "broken")
    data = host_report_json(report)
    assert data["fit"] is False
    assert data["counts"] == {level.value: report.count(level) for level in Level}
    keys = {"group", "id", "title", "level", "found", "why", "fix", "unseen"}
    checks = data["checks"]
    assert isinstance(checks, list)
    assert len(checks) == len(report.results) and all(set(check) == keys for check in checks)


@pytest.mark.parametrize(
    ("missing", "level", "found"),
    [
        (["packer"], "WARN", "optional ones missing: packer"),
        (["uidmap", "debsecan"], "WARN", "optional ones missing: debsecan, uidmap"),
        (["zstd", "packer"], "FAIL", "1 missing: zstd; optional ones missing: packer"),
    ],
)
def test_packages_that_labs_do_without_stop_none(tmp_path: Path, missing: list[str], level: str, found: str) -> None:
    report = judge(tmp_path, "intel", packages=missing)
    (result,) = [result for result in report.results if result.id == "program.packages"]
    assert (result.level, result.found) == (Level(level), found)
    assert report.failed == (level == "FAIL")
    asked = {"zstd"} if "zstd" in missing else set(missing)
    assert set(result.fix.partition("--no-install-recommends ")[2].split()) == asked


def test_the_keys_that_debians_apt_brings_are_not_asked_for_there(tmp_path: Path) -> None:
    """A host is read by what dpkg lists, and a package of apt's own is no reason to call it unfit."""
    (result,) = [
        each
        for each in judge(tmp_path, "intel", packages=["debian-archive-keyring"]).results
        if each.id == "program.packages"
    ]
    assert result.level is Level.PASS


SETUP_ONLY = ("python3-venv", "gcc", "pkg-config", "libvirt-dev", "python3-dev")
"""Those that `parse_package_list` leaves out."""

SETUP_STUB = """\
#!/bin/sh
case "$(basename "$0") $*" in
*sudo*) exec "$@" ;;
*dpkg-query*) cat "$STATUS" ;;
*update*) echo "$*" >>"$CALLS" ;;
*install*) echo "$*" >>"$CALLS"; case "$*" in *packer*) exit 100 ;; esac ;;
esac
"""


def run_setup(root: Path, missing: str, more: str = "") -> tuple[str, list[str]]:
    """Run `scripts/setup.sh`, with these packages missing, until it looks for Python: its stderr, calls of apt-get.

    Args:
        more: further lines of what dpkg says, each a state, a package, and what that provides.
    """
    scripts, programs, calls = root / "scripts", root / "bin", root / "calls"
    shutil.copytree(share_dir() / "scripts", scripts)
    programs.mkdir()
    calls.touch()
    for name in ("sudo", "dpkg-query", "apt-get"):
        (programs / name).write_text(SETUP_STUB)
        (programs / name).chmod(0o755)
    names = parse_package_list((scripts / "system-packages.txt").read_text())
    lines = [f"installed {name}, " for name in (*names, *SETUP_ONLY) if name not in missing.split()]
    (root / "status").write_text("\n".join([*lines, *(f"not-installed {name}, " for name in missing.split()), more]))
    variables = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(calls), "PYTHON": "false"}
    variables["STATUS"] = str(root / "status")
    done = subprocess.run(
        ["bash", scripts / "setup.sh"], env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "Python 3.11 or newer is needed" in done.stderr
    return done.stderr, calls.read_text().splitlines()


def test_setup_goes_on_without_an_optional_package(tmp_path: Path) -> None:
    stderr, calls = run_setup(tmp_path, missing="zstd packer debsecan")
    assert "setup: without packer, which labs do not need" in stderr
    assert calls[0] == "update -q"
    assert [line.split("--no-install-recommends ")[1] for line in calls[1:]] == [
        "zstd",
        "packer",
        "debsecan",
    ]


def test_setup_lets_apt_remove_nothing(tmp_path: Path) -> None:
    _, calls = run_setup(tmp_path, missing="zstd packer")
    assert all("--no-remove" in line for line in calls[1:])


@pytest.mark.parametrize(
    ("provides", "there"),
    [
        ("qemu-system-x86 (= 1:10.2)", True),
        ("kvm, qemu-system-x86:any, other (= 2)", True),
        ("qemu-system-x86-microvm", False),
        ("xqemu-system-x86", False),
    ],
)
def test_setup_takes_a_package_that_another_one_provides(tmp_path: Path, provides: str, there: bool) -> None:
    """Proxmox VE's pve-qemu-kvm is such a package, and apt would remove it for Debian's."""
    _, calls = run_setup(tmp_path, missing="qemu-system-x86", more=f"installed pve-qemu-kvm, {provides}")
    assert (calls == []) is there


def test_setup_counts_no_provider_that_was_removed(tmp_path: Path) -> None:
    more = "config-files pve-qemu-kvm, qemu-system-x86 (= 1:10.2)"
    assert run_setup(tmp_path, missing="qemu-system-x86", more=more)[1] != []


def test_setup_does_not_ask_apt_when_nothing_is_missing(tmp_path: Path) -> None:
    assert run_setup(tmp_path, missing="")[1] == []


def test_setup_asks_once_for_an_optional_package_that_the_release_lacks(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".absent-packages").write_text("packer\n")
    assert run_setup(tmp_path, missing="packer")[1] == []


def test_setup_never_leaves_out_a_required_package(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".absent-packages").write_text("zstd\n")
    assert [line.rpartition(" ")[2] for line in run_setup(tmp_path, missing="zstd")[1]] == ["-q", "zstd"]
