"""Kubernetes nodes that leave the file: drained on the running cluster, before anything of them is deleted."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from emulator.adapters.simulated.guests import Answer, SimulatedShell
from emulator.core.errors import CommandTimeoutError, ConflictError, InterruptedRunError
from emulator.core.ports import Completed, DomainState, GuestAddress
from emulator.core.progress import Event, Reporter, SilentReporter
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import Pace
from emulator.lab import drain
from emulator.lab.drain import departing_nodes
from tests.support import simulated_world
from tests.support.simulated_world import SimulatedHost

LAB = """\
version: "1.0"
metadata: {{name: demo}}
timeouts: {{boot: 10}}
clusters:
  cloud:
    control_plane: {{cpu_cores: {cores}, memory_gb: 3, disk_gb: 10}}
    worker_nodes:
      cpu_workers: {{count: {workers}, cpu_cores: 1, memory_gb: 2, disk_gb: 10}}
hypervisor: {{uri: embedded}}
"""
FIRST, SECOND = "cloud-cpu-worker-1", "cloud-cpu-worker-2"
NODES = json.dumps(
    {
        "items": [
            {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}
            for name, ready in ((FIRST, "True"), (SECOND, "True"))
        ]
    }
)
ASKED = Answer(r".* get nodes -o json", stdout=NODES)
READY = Answer("true")


class Warnings(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.events: list[Event] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def event(self, event: Event) -> None:
        self.events.append(event)


def answering(patch: pytest.MonkeyPatch, *answers: Answer) -> list[str]:
    """The commands that nodes are sent from now on; they say `answers`."""
    asked: list[str] = []
    whole = simulated_world.SimulatedGuests.shell

    class Noting(SimulatedShell):
        def run(self, guest: GuestAddress, command: str, **options: Any) -> Completed:
            asked.append(command)
            return super().run(guest, command, **options)

    def shell(self: Any, access: Any) -> SimulatedShell:
        made = whole(self, access)
        return Noting(made._hypervisor, answers)

    patch.setattr(simulated_world.SimulatedGuests, "shell", shell)
    return asked


def provision(host: SimulatedHost, workers: int, reporter: Reporter | None = None) -> None:
    host.provision(host.lab_file(LAB.format(workers=workers, cores=2)), reporter=reporter)


def test_a_node_that_leaves_is_drained_while_its_machine_runs(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    provision(host, 2)
    asked = answering(monkeypatch, READY, ASKED, Answer(r".* drain cloud-cpu-worker-2 .*", stdout="drained"))
    reporter = Warnings()
    provision(host, 1, reporter)
    assert [f"{event.phase} {event.subject}" for event in reporter.events if event.phase == "drain"] == [
        f"drain {SECOND}"
    ] * 2
    drain = next(command for command in asked if " drain " in command)
    assert "--ignore-daemonsets" in drain
    # One step cordons and says so: a run that is killed from here on leaves a node that the next one knows as its own.
    before, _, _ = drain.partition(" && ")
    patch = json.loads(before.split("-p ")[1].strip("'"))
    assert patch == {
        "metadata": {"annotations": {"hyperscaler/draining": "true"}},
        "spec": {"unschedulable": True},
    }
    order = [event.phase for event in reporter.events]
    assert order.index("drain") < order.index("apply")
    assert f"domain/{SECOND}" not in host.state().resources


def test_a_node_that_cannot_be_drained_is_kept_and_takes_pods_again(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    provision(host, 2)
    refusing = Answer(
        r".* drain .*", stdout="Cannot evict pod as it would violate the pod's disruption budget", returncode=1
    )
    asked = answering(monkeypatch, READY, ASKED, refusing, Answer(r".* patch node .*"))
    with pytest.raises(ConflictError, match="disruption budget") as caught:
        provision(host, 1)
    assert SECOND in (caught.value.where or "")
    assert "patch node cloud-cpu-worker-2" in asked[-1]
    assert json.loads(asked[-1].split("-p ")[1].strip("'"))["spec"] == {"unschedulable": None}
    assert f"domain/{SECOND}" in host.state().resources
    info = host.hypervisor(host.home.lab("demo"), quiet=True).domain(f"demo-{SECOND}")
    assert info is not None
    assert info.state is DomainState.RUNNING


def patched(asked: list[str]) -> list[tuple[str, Any]]:
    """Nodes that were patched by a step of its own, each with whether it was cordoned."""
    alone = [command for command in asked if " patch node " in command and " drain " not in command]
    return [
        (command.split(" patch node ")[1].split()[0], json.loads(command.split("-p ")[1].strip("'"))["spec"])
        for command in alone
    ]


@pytest.mark.parametrize("deaf", [False, True], ids=["the cluster answers", "it does not"])
def test_when_one_node_cannot_be_drained_all_take_pods_again(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    provision(host, 2)
    answers = (READY, ASKED, Answer(f".* drain {FIRST} .*"), Answer(f".* drain {SECOND} .*", returncode=1))
    asked = answering(monkeypatch, *answers)
    if deaf:
        whole = simulated_world.SimulatedGuests.shell

        def shell(self: Any, access: Any) -> Any:
            made = whole(self, access)
            run = made.run

            def raising(guest: GuestAddress, command: str, **options: Any) -> Completed:
                done = run(guest, command, **options)
                if patched([command]):
                    raise CommandTimeoutError("no answer within 60 s")
                return done

            made.run = raising  # type: ignore[method-assign]
            return made

        monkeypatch.setattr(simulated_world.SimulatedGuests, "shell", shell)
    with pytest.raises(ConflictError, match=f"{SECOND} cannot be drained"):
        provision(host, 0)
    assert patched(asked) == [(name, {"unschedulable": None}) for name in (FIRST, SECOND)]
    assert f"domain/{FIRST}" in host.state().resources


@pytest.mark.parametrize("during", [FIRST, SECOND])
def test_a_stop_is_heard_between_nodes(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, during: str) -> None:
    provision(host, 2)
    asked = answering(monkeypatch, READY, ASKED, Answer(".* drain .*"), Answer(".* patch node .*"))
    stop = StopFlag()

    class Stopping(SilentReporter):
        def event(self, event: Event) -> None:
            if event.phase == "drain" and event.subject == during:
                stop.set()

    with pytest.raises(InterruptedRunError, match="nothing was deleted"):
        host.provision(host.lab_file(LAB.format(workers=0, cores=2)), stop=stop, reporter=Stopping())
    begun = [FIRST, SECOND][: 1 if during == FIRST else 2]
    assert [command.split(" drain ")[1].split()[0] for command in asked if " drain " in command] == begun
    assert patched(asked) == [(name, {"unschedulable": None}) for name in begun]
    assert {f"domain/{FIRST}", f"domain/{SECOND}"} <= host.state().resources.keys()


def test_a_node_that_somebody_else_cordoned_stays_so(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    provision(host, 2)
    nodes = json.loads(NODES)
    nodes["items"][1]["spec"] = {"unschedulable": True}
    refusing = Answer(r".* drain .*", stdout="no", returncode=1)
    asked = answering(monkeypatch, READY, Answer(r".* get nodes -o json", stdout=json.dumps(nodes)), refusing)
    with pytest.raises(ConflictError):
        provision(host, 1)
    assert " drain " in asked[-1]
    assert not any("patch" in command for command in asked)


@pytest.mark.parametrize(
    "answers", [(), (Answer(r".* get nodes .*", stdout="no json"),)], ids=["it does not run", "garbled"]
)
def test_a_cluster_that_cannot_be_asked_is_no_obstacle(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, answers: tuple[Answer, ...]
) -> None:
    provision(host, 2)
    reporter = Warnings()
    answering(monkeypatch, READY, *answers)
    provision(host, 1, reporter)
    assert [text for text in reporter.warnings if f"{SECOND} cannot be drained" in text]
    assert f"domain/{SECOND}" not in host.state().resources


@pytest.mark.parametrize(("workers", "cores", "leaving"), [(2, 2, ()), (1, 2, (SECOND,)), (0, 2, (FIRST, SECOND))])
def test_only_workers_whose_machine_is_deleted_leave(
    host: SimulatedHost, workers: int, cores: int, leaving: tuple[str, ...]
) -> None:
    provision(host, 2)
    loaded = host.lab_file(LAB.format(workers=workers, cores=cores))
    assert departing_nodes(host.plan(loaded), loaded.spec) == leaving


class Rounds:
    """A control plane whose `kubectl drain` is cut off after each round; `gone`: whether a pod went in it."""

    def __init__(self, *gone: bool, done: bool = True) -> None:
        self.gone, self.done, self.commands = list(gone), done, list[str]()

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        self.commands.append(command)
        if not self.gone:
            return Completed(("ssh",), int(not self.done), "", "" if self.done else "global timeout reached")
        said = "evicting pod default/a\n" + ("pod/a evicted\n" if self.gone.pop(0) else "")
        return Completed(("ssh",), 1, said, "error: global timeout reached: 180s")

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True


HEAD = GuestAddress("cloud-control-plane", IPv4Address("10.0.0.2"), "labadmin")


def test_a_node_whose_pods_go_slowly_is_drained_for_longer() -> None:
    shell = Rounds(True, True)
    drain.drain_node(FIRST, shell, HEAD, 180, Pace(factor=2.5), cordoned=False)
    assert len(shell.commands) == 3
    assert "--timeout=450s" in shell.commands[0]


def test_a_node_whose_pods_stay_is_given_up_after_one_round() -> None:
    shell = Rounds(False, True, True)
    with pytest.raises(ConflictError, match="cannot be drained within 450 s"):
        drain.drain_node(FIRST, shell, HEAD, 180, Pace(factor=2.5), cordoned=False)
    assert len(shell.commands) == 1


def test_pods_that_come_back_for_ever_do_not_hold_the_run_for_ever() -> None:
    shell = Rounds(*[True] * 100)
    with pytest.raises(ConflictError, match="cannot be drained within 720 s"):
        drain.drain_node(FIRST, shell, HEAD, 180, Pace(), cordoned=False)
    assert len(shell.commands) == drain.MOST_ROUNDS
