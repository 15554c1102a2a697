"""`status` shows what it knows before it asks the clusters, which may take a while on a busy host."""

from __future__ import annotations

import dataclasses
from typing import Any

import click.testing
import pytest

from emulator.cli.commands.lab import status as under_test
from emulator.core.waiting.pace import Pace
from emulator.operations import status as operations
from emulator.operations.status import LabStatus, NodeStatus, lab_status
from tests.support.simulated_world import SimulatedGuests, SimulatedHost

LAB = """\
version: "1.0"
metadata: {name: demo}
clusters:
  hpc:
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 8}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 8}
hypervisor: {uri: embedded}
"""


def test_all_else_is_known_before_the_clusters_are_asked(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.provision(host.lab_file(LAB))
    order: list[str] = []

    def answer(self: Any, spec: Any, access: Any, kinds: Any) -> dict[str, str]:
        order.append(f"asked {access.pace.factor}")
        return {"slurm": "1 idle"}

    def known(status: LabStatus, seconds: float) -> None:
        order.append(f"known {len(status.nodes)} nodes, {seconds:.0f} s")
        assert status.clusters == {}
        assert status.problems == ()

    monkeypatch.setattr(SimulatedGuests, "cluster_state", answer)

    env = dataclasses.replace(host.environment(), pace=lambda _spec: Pace(factor=4.0))
    status = lab_status(env, "demo", on_known=known)
    assert order == ["known 2 nodes, 48 s", "asked 4.0"]
    assert status.clusters == {"slurm": "1 idle"}


NODE = NodeStatus("hpc-controller", "hpc_controller", "10.0.0.2", 1, 1024, "running")
KNOWN = LabStatus("demo", "embedded", {"verify": "done"}, (NODE,), {}, "", ())


def test_the_nodes_are_printed_while_a_cluster_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    runner = click.testing.CliRunner()

    def slow(_env: Any, _name: str, *, on_known: Any) -> LabStatus:
        on_known(KNOWN, 48.0)
        seen.append("asking")
        return LabStatus(**{**_fields(KNOWN), "clusters": {"kubernetes": "no answer within 48 s"}})

    monkeypatch.setattr(operations, "lab_status", slow)
    monkeypatch.setattr("emulator.wiring.real_environment", object)
    done = runner.invoke(under_test.command, ["demo"])
    assert seen == ["asking"]
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "lab demo on hypervisor embedded"
    assert lines[1].startswith("hpc-controller")
    assert lines[2:] == ["phases: verify done", "kubernetes: no answer within 48 s"]
    assert "asking the scheduler of each cluster, for at most 48 s" in done.stderr


def test_a_lab_without_a_cluster_to_ask_is_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "lab_status", lambda _env, _name, *, on_known: KNOWN)
    monkeypatch.setattr("emulator.wiring.real_environment", object)
    done = click.testing.CliRunner().invoke(under_test.command, ["demo"])
    assert done.stdout.count("hpc-controller") == 1
    assert done.stderr == ""


def _fields(status: LabStatus) -> dict[str, Any]:
    return {name: getattr(status, name) for name in LabStatus.__slots__}
