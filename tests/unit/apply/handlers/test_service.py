from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from emulator.adapters.simulated.services import SimulatedSupervisor
from emulator.apply.handler import ApplyContext
from emulator.apply.handlers.service import ServiceHandler
from emulator.core.errors import ConflictError, ServiceError
from emulator.plan.diff import diff
from emulator.plan.model import Action, Presence, Recorded
from emulator.plan.resources import resource_from_json
from emulator.plan.service_resources import Service

CONTEXT = ApplyContext("demo", lambda _key: {})


class Bench:
    def __init__(self, root: Path) -> None:
        self.directory = root / "demo" / "supervisor"
        self.directory.parent.mkdir()
        self.running = root / "running"
        self.supervisor = SimulatedSupervisor(self.directory, self.running, broken=frozenset({"/bin/false"}))
        self.handler = ServiceHandler(self.supervisor, self.directory)
        self.web = Service(
            name="web", directory=str(self.directory), program="/bin/web", arguments=("a",), needs=("x",)
        )

    def changes(self, wanted: Service, made: Service) -> list[tuple[Action, str]]:
        """What a plan would do, with `made` on record."""
        record = Recorded(made, {})
        seen = self.handler.observe(wanted, record)
        plan = diff("demo", [wanted], {made.id: record}, {wanted.id: seen}, self.handler.find("demo"))
        return [(change.action, change.reason) for change in plan.changes]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_service_is_made_found_and_removed(bench: Bench) -> None:
    assert bench.handler.observe(bench.web, None).presence is Presence.ABSENT
    assert bench.handler.ensure(bench.web, None, CONTEXT) == {}
    assert bench.changes(bench.web, bench.web) == []
    assert bench.handler.find("demo") == (bench.web,)
    bench.handler.delete(bench.web, {}, CONTEXT)
    assert bench.handler.find("demo") == () and not bench.directory.exists()
    bench.handler.delete(bench.web, {}, CONTEXT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"program": "/bin/other"}, "program /bin/web -> /bin/other"),
        ({"arguments": ("a", "b")}, "arguments +b"),
        ({"memory_mib": 64}, "memory mib 0 -> 64"),
        ({"account": "nobody"}, "account none -> nobody"),
    ],
)
def test_another_command_or_limit_is_changed_in_place(bench: Bench, change: dict[str, object], reason: str) -> None:
    bench.handler.ensure(bench.web, None, CONTEXT)
    other = dataclasses.replace(bench.web, **change)  # type: ignore[arg-type]
    assert bench.changes(other, bench.web) == [(Action.UPDATE, reason)]
    bench.handler.ensure(other, bench.web, CONTEXT)
    assert bench.changes(other, other) == []


def test_an_edited_record_is_drift(bench: Bench) -> None:
    bench.handler.ensure(bench.web, None, CONTEXT)
    record = bench.directory / "wanted" / "web.json"
    record.write_text("{}")
    assert bench.changes(bench.web, bench.web) == [
        (Action.UPDATE, "its settings on the host are not the recorded ones")
    ]
    assert [found.id for found in bench.handler.find("demo")] == ["service/web"], "destroy still takes it away"


def test_one_that_does_not_run_is_repaired(bench: Bench) -> None:
    bench.handler.ensure(bench.web, None, CONTEXT)
    (bench.running / "web").unlink()
    assert bench.changes(bench.web, bench.web) == [(Action.REPAIR, "does not run: it ended with exit code 1")]
    (bench.running / "supervisor").unlink()
    assert bench.changes(bench.web, bench.web) == [(Action.REPAIR, "its supervisor does not run")]
    bench.handler.ensure(bench.web, bench.web, CONTEXT)
    assert bench.changes(bench.web, bench.web) == []


def test_one_that_ends_at_once_fails_the_step(bench: Bench) -> None:
    broken = dataclasses.replace(bench.web, program="/bin/false")
    with pytest.raises(ServiceError, match="does not run"):
        bench.handler.ensure(broken, None, CONTEXT)
    bench.handler.delete(broken, {}, CONTEXT)


def test_the_supervisor_of_another_lab_is_left_alone(bench: Bench) -> None:
    foreign = dataclasses.replace(bench.web, directory=str(bench.directory.parent.parent / "other" / "supervisor"))
    bench.handler.ensure(bench.web, None, CONTEXT)
    for act in (
        lambda: bench.handler.ensure(foreign, None, CONTEXT),
        lambda: bench.handler.delete(foreign, {}, CONTEXT),
    ):
        with pytest.raises(ConflictError, match="not in the lab's directory"):
            act()
    assert bench.handler.find("demo") == (bench.web,)


def test_a_service_survives_the_journal(bench: Bench) -> None:
    assert resource_from_json(bench.web.to_json()) == bench.web
