"""`status` names the services of a lab, and what is wrong with one; `provision` repairs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.cli.render.status import print_status
from emulator.core.ports import DomainState
from emulator.operations.status import LabStatus, lab_status
from tests.support.simulated_world import LAB, SimulatedHost, lab_text


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    made = SimulatedHost(tmp_path / "host")
    yield made
    made.close()


def running(host: SimulatedHost) -> Path:
    """What runs of the lab's services, as files."""
    return next((host.machine / "services").iterdir())


def status(host: SimulatedHost) -> LabStatus:
    return lab_status(host.environment(), LAB)


def services(host: SimulatedHost) -> dict[str, str]:
    return {info.name: info.state.value for info in status(host).services}


def test_a_lab_has_its_services(host: SimulatedHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.provision(host.lab_file(lab_text()))
    seen = status(host)
    assert services(host) == {"console-limits": "running", "disk-reserve": "running"}
    assert seen.problems == ()
    print_status(seen)
    assert "  service console-limits: running (ready)\n" in capsys.readouterr().out
    assert json.loads((running(host) / "disk-reserve").read_text())[-2:] == ["--bytes", str(2 << 30)]
    host.destroy()
    assert list((host.machine / "services").iterdir()) == []


def test_one_that_is_down_is_named_once_with_its_reason(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text())
    host.provision(lab)
    (running(host) / "disk-reserve").unlink()
    assert status(host).problems == ("service/disk-reserve: does not run: it ended with exit code 1",)
    assert status(host).to_json()["services"][1] == {
        "name": "disk-reserve",
        "state": "restarting",
        "reason": "it ended with exit code 1",
        "note": "",
    }
    (running(host) / "supervisor").unlink()
    assert status(host).problems == (
        "service/console-limits: its supervisor does not run",
        "service/disk-reserve: its supervisor does not run",
    )
    host.provision(lab)
    assert status(host).problems == () and host.plan(lab).is_empty


def test_another_reserve_changes_the_service_and_restarts_no_guest(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    lab = host.lab_file(lab_text().replace('uri: "embedded"', 'uri: "embedded", disk_reserve_gb: 5'))
    assert [(change.action.value, change.resource.id) for change in host.plan(lab).changes] == [
        ("update", "service/disk-reserve")
    ]
    host.provision(lab)
    none = host.lab_file(lab_text().replace('uri: "embedded"', 'uri: "embedded", disk_reserve_gb: 0'))
    assert [(change.action.value, change.resource.id) for change in host.plan(none).changes] == [
        ("delete", "service/disk-reserve")
    ]
    host.provision(none)
    assert services(host) == {"console-limits": "running"}


def test_a_lab_of_an_earlier_version_gets_its_services(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text())
    host.provision(lab)
    host.supervisor(host.home.lab(LAB).supervisor, quiet=True).remove("console-limits")
    assert [change.resource.id for change in host.plan(lab).changes] == ["service/console-limits"]
    host.provision(lab)
    states = {info.state for info in host.hypervisor(host.home.lab(LAB), quiet=True).domains()}
    assert states == {DomainState.RUNNING}


def test_services_go_with_a_lab_whose_journal_is_lost(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    host.home.lab(LAB).journal.unlink()
    host.destroy()
    assert list((host.machine / "services").iterdir()) == []
    assert not host.home.lab(LAB).root.exists()
