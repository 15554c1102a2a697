"""`status` answers whatever state the labs are in."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from emulator.apply.journal import VERSION, encode
from emulator.apply.lock import exclusive_lock, holder_of
from emulator.core.errors import ConfigError, UsageError
from emulator.core.ports import DomainState
from emulator.lab.lab_files import load_lab_file
from emulator.operations.status import LabStatus, lab_status, list_labs
from tests.support.journeys import DUAL
from tests.support.simulated_world import SimulatedHost, lab_text
from tests.support.stop_points import in_sequence


def test_a_newer_journal_of_one_lab_leaves_the_others_in_sight(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    journal = host.home.lab("newer").journal
    journal.parent.mkdir(parents=True)
    journal.write_bytes(encode({"v": VERSION + 1, "type": "hologram"}))
    lines = {line.name: line for line in list_labs(host.environment())}
    assert lines["demo"].nodes == 2 and lines["demo"].problem == ""
    assert "newer than this version understands" in lines["newer"].problem


def test_a_lab_is_known_from_the_first_step_of_its_provision(host: SimulatedHost) -> None:
    """Between the lab's directory and its file there is a moment; `status` must not call the lab unknown then."""
    seen: list[LabStatus] = []
    nothing = host.hook.after

    def look(_name: str) -> None:
        host.hook.after = nothing  # a look goes through the hook, too
        seen.append(lab_status(host.environment(), "demo"))
        host.hook.after = look if len(seen) < 12 else nothing

    host.hook.after = look
    with in_sequence():
        host.provision(host.lab_file(lab_text()))
    assert len(seen) == 12
    assert "provision demo" in seen[0].busy and seen[0].nodes == () and seen[0].problems == ("being made",)


def test_a_lab_without_its_file_is_told_of_and_an_unknown_one_is_not(host: SimulatedHost) -> None:
    host.home.lab("half").root.mkdir(parents=True)
    status = lab_status(host.environment(), "half")
    assert status.to_json()["nodes"] == [] and "its file is missing" in status.problems[0]
    for name in ("unknown", "../../etc"):
        with pytest.raises(UsageError):
            lab_status(host.environment(), name)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        # Kubernetes 1.20, compiled from Debian's source.
        ('source: debian-source, version: "1.20"', "kubernetes.source"),
        ('source: upstream, version: "1.31"', "kubernetes.version"),
        ("cni: calico, ingress: nginx", "kubernetes.ingress"),
    ],
)
def test_a_lab_with_what_this_version_cannot_set_up_is_looked_at_and_destroyed(
    host: SimulatedHost, settings: str, code: str
) -> None:
    """Its file passed an earlier version of the program."""
    host.provision(host.lab_file(DUAL))
    kept = host.home.lab("demo").spec
    kept.write_text(kept.read_text().replace("cni: bridge", settings))
    assert settings in kept.read_text()
    status = lab_status(host.environment(), "demo")
    assert {node.state for node in status.nodes} == {"running"}
    # The same file is no request any more; the error names the line to change.
    again = load_lab_file(kept)
    assert [finding.code for finding in again.report.errors] == [code]
    with pytest.raises(ConfigError):
        again.require_valid()
    host.destroy("demo")
    assert not kept.exists()


@pytest.mark.parametrize(
    ("down", "told"),
    [
        ((), {"slurm", "kubernetes"}),
        (("hpc-compute-1", "cloud-cpu-worker-1"), {"slurm", "kubernetes"}),
        (("hpc-controller",), {"kubernetes"}),
        (("cloud-control-plane", "hpc-compute-1"), {"slurm"}),
        (("hpc-controller", "cloud-control-plane"), set()),
    ],
)
def test_each_cluster_whose_head_runs_is_asked(host: SimulatedHost, down: tuple[str, ...], told: set[str]) -> None:
    host.provision(host.lab_file(DUAL))
    libvirt = host.hypervisor(host.home.lab("demo"), quiet=True)
    for name in down:
        libvirt.set_state(f"demo-{name}", DomainState.SHUTOFF)
    status = lab_status(host.environment(), "demo")
    assert set(status.clusters) == told
    assert {f"{name} is shutoff" for name in down} <= set(status.problems)


@pytest.mark.parametrize("left", [0, 40])
def test_a_lab_with_a_damaged_file_is_told_of(host: SimulatedHost, left: int) -> None:
    host.provision(host.lab_file(lab_text()))
    kept = host.home.lab("demo").spec
    kept.write_bytes(kept.read_bytes()[:left])
    status = lab_status(host.environment(), "demo")
    assert (status.nodes, status.hypervisor) == ((), "embedded")
    assert f"its file ({kept}) is damaged; provision it again from your own" in status.problems[0]
    host.provision(host.lab_file(lab_text()))
    assert lab_status(host.environment(), "demo").problems == ()


def test_a_holder_is_seen_where_proc_locks_has_another_device(host: SimulatedHost) -> None:
    """As on btrfs and overlay file systems."""
    path = host.home.locks / "demo.lock"
    with exclusive_lock(path, purpose="provision demo"):
        with patch("os.major", lambda _device: 255):
            assert "provision demo" in holder_of(path)
        text = path.read_text()
    assert holder_of(path) == ""
    path.write_text(text.replace('"started": "', '"started": "9'))  # its process died, and the id came again
    assert holder_of(path) == ""
