"""What holds the guests of the host's libvirt, on recorded hosts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from emulator.adapters.system.host_files import RecordedFiles
from emulator.host.checks import check_host_readings
from emulator.host.checks.result import HostCheckResult, Wanted
from emulator.host.parsers import parse_security_drivers
from tests.support import host_trees

LIBVIRT = {"/run/libvirt/libvirt-sock": ""}
APPARMOR = {"/sys/module/apparmor/parameters/enabled": "Y\n"}
PROFILES = {"/etc/apparmor.d/libvirt/TEMPLATE.qemu": "profile LIBVIRT_TEMPLATE {}"}
CONF = "/etc/libvirt/qemu.conf"


def results(root: Path, files: Mapping[str, str]) -> dict[str, HostCheckResult]:
    report = check_host_readings(host_trees.read(host_trees.plant(root, "intel", files=files)), Wanted())
    return {result.id: result for result in report.results}


@pytest.mark.parametrize(
    ("files", "level", "found"),
    [
        ({}, "PASS", "neither is active"),
        (APPARMOR, "PASS", "not those of a lab's own libvirt"),
        ({"/sys/module/apparmor/parameters/enabled": "N\n", **LIBVIRT}, "PASS", "neither is active"),
        ({**APPARMOR, **LIBVIRT, **PROFILES}, "PASS", "AppArmor, with a label of its own for each guest"),
        ({**APPARMOR, **LIBVIRT}, "WARN", "profiles for guests are not installed"),
        ({**APPARMOR, **LIBVIRT, **PROFILES, CONF: 'security_driver = "none"\n'}, "WARN", "settings forbid it"),
        ({**APPARMOR, **LIBVIRT, **PROFILES, CONF: 'security_driver = [ "apparmor" ]\n'}, "PASS", "AppArmor, with"),
        ({"/sys/fs/selinux/enforce": "1", **LIBVIRT}, "PASS", "SELinux, with a label of its own for each guest"),
        ({"/sys/fs/selinux/enforce": "0", **LIBVIRT}, "PASS", "neither is active"),
    ],
)
def test_the_kernel_s_module_and_libvirt_s_use_of_it(
    tmp_path: Path, files: Mapping[str, str], level: str, found: str
) -> None:
    result = results(tmp_path, files)["system.confinement"]
    assert result.level == level and found in result.found
    assert bool(result.fix) is (level == "WARN")


def test_settings_that_only_root_reads_are_said_to_be_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = RecordedFiles.read

    def refused(self: RecordedFiles, path: str) -> str:
        if path == CONF:
            raise PermissionError(13, "Permission denied", path)
        return read(self, path)

    monkeypatch.setattr(RecordedFiles, "read", refused)
    found = results(tmp_path, {**APPARMOR, **LIBVIRT, **PROFILES, CONF: ""})
    assert (found["system.confinement"].level, found["system.confinement"].unseen) == ("WARN", True)


@pytest.mark.parametrize(
    ("text", "drivers"),
    [
        ("", ()),
        ('#security_driver = "none"\n', ()),
        ('security_driver = "none"  # "apparmor"\n', ("none",)),
        ('security_driver = "none"\nsecurity_driver = [ "selinux", "apparmor" ]', ("selinux", "apparmor")),
        ('my_security_driver = "x"', ()),
    ],
)
def test_settings_are_read_as_libvirt_reads_them(text: str, drivers: tuple[str, ...]) -> None:
    assert parse_security_drivers(text) == drivers
