"""A lab whose users come in by the host's gateway: its service, what is refused, and what is handed out."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from emulator.core.errors import HostNotFitError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.users import AccessRole
from emulator.operations.credentials.access import Granted, GrantRequest, grant
from emulator.operations.credentials.archive import pack, readme
from emulator.operations.status import lab_status
from emulator.operations.validate import validate
from tests.support.recording_reporter import RecordingReporter
from tests.support.simulated_world import LAB, SimulatedHost, lab_text

BY_GATEWAY = lab_text() + "access: {gateway: true}\n"


def services(host: SimulatedHost) -> set[str]:
    return {info.name for info in lab_status(host.environment(), LAB).services}


def give(host: SimulatedHost, reporter: SilentReporter | RecordingReporter) -> Granted:
    request = GrantRequest("ada", AccessRole.STUDENT, 3600)
    return grant(host.environment(), LAB, request, reporter, StopFlag())


def test_the_relay_comes_and_goes_with_the_lab_file(host: SimulatedHost) -> None:
    lab = host.lab_file(BY_GATEWAY)
    host.provision(lab)
    assert "gateway" in services(host)
    assert host.plan(lab).is_empty
    (words,) = [path.read_text() for path in (host.machine / "services").rglob("gateway")]
    assert "own:hpc-controller=192.168.100.10:22" in words
    assert "hs-demo" in words
    plain = host.lab_file(lab_text())
    assert [change.resource.id for change in host.plan(plain).changes] == ["service/gateway"]
    host.provision(plain)
    assert "gateway" not in services(host)
    host.provision(host.lab_file(BY_GATEWAY))
    host.destroy()
    assert list((host.machine / "services").iterdir()) == []


def test_a_relay_that_is_down_is_drift_and_is_started_again(host: SimulatedHost) -> None:
    lab = host.lab_file(BY_GATEWAY)
    host.provision(lab)
    next((host.machine / "services").rglob("gateway")).unlink()
    assert any("service/gateway" in problem for problem in lab_status(host.environment(), LAB).problems)
    host.provision(lab)
    assert lab_status(host.environment(), LAB).problems == ()


def test_a_host_without_a_gateway_is_named_before_anything_is_made(host: SimulatedHost, tmp_path: Path) -> None:
    host.door = None
    with pytest.raises(HostNotFitError, match=r"this host's gateway.*it is off") as refused:
        host.provision(host.lab_file(BY_GATEWAY))
    assert "enable-gateway" in (refused.value.fix or "")
    assert not host.home.lab(LAB).root.exists() or not host.home.lab(LAB).journal.exists()
    file = tmp_path / "lab.yaml"
    file.write_text(BY_GATEWAY)
    assert "host.gateway" in {finding.code for finding in validate(file, host.environment()).errors}
    assert "host.gateway" not in {finding.code for finding in validate(file, None).errors}


def test_who_gets_access_is_handed_one_archive(host: SimulatedHost) -> None:
    host.provision(host.lab_file(BY_GATEWAY))
    granted = give(host, SilentReporter())
    assert not granted.namespaced
    assert granted.archive == granted.directory / "hyperscaler-demo-ada.tar.gz"
    assert granted.archive.stat().st_mode & 0o077 == 0
    with tarfile.open(granted.archive) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
        config = archive.extractfile("hyperscaler-demo/config")
        assert config is not None
        assert config.read() == b"by gpu.example.org 2222\n"
    assert entries["hyperscaler-demo"].mode == 0o700
    assert {entry.mode for entry in entries.values() if entry.isfile()} == {0o600}
    assert "hyperscaler-demo/README.txt" in entries


def test_a_gateway_that_is_off_by_now_is_said_at_once(host: SimulatedHost) -> None:
    host.provision(host.lab_file(BY_GATEWAY))
    host.door = None
    reporter = RecordingReporter()
    assert give(host, reporter).namespaced
    assert any("gateway is off" in warning for warning in reporter.warnings)


def test_only_what_is_for_the_user_is_packed(tmp_path: Path) -> None:
    assert pack(tmp_path, "demo", "ada", "hpc-controller") is None
    for name in ("config", "id_ed25519", "kubeconfig", "gateway-cert.pub", "notes"):
        (tmp_path / name).write_text(name)
    for _ in range(2):  # the second one does not hold the first one
        path = pack(tmp_path, "demo", "ada", "hpc-controller")
        assert path is not None
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
            names = {Path(name).name for name in archive.getnames()}
        assert names == {"hyperscaler-demo", "config", "id_ed25519", "kubeconfig", "gateway-cert.pub", "README.txt"}


@pytest.mark.parametrize("forwards", [True, False])
def test_three_lines_say_how(*, forwards: bool) -> None:
    lines = readme("demo", "ada", "hpc-controller", forwards=forwards).splitlines()
    assert len(lines) == 3
    assert 'tar -xzf hyperscaler-demo-ada.tar.gz -C "$HOME/.ssh"' in lines[0]
    assert "ssh -F config hpc-controller" in lines[1]
    assert ("ssh -N -F config demo-kubernetes" in lines[2]) is forwards
