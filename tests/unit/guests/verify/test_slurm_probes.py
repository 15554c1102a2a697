"""The probes of a Slurm cluster, on guests that answer from a script."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from emulator.core.errors import CommandTimeoutError, VerifyError
from emulator.core.ports import Completed, GuestAddress
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.verify.report import CheckResult, VerifyReport
from emulator.guests.verify.slurm_probes import job_script, slurm_summary, verify_slurm
from emulator.labfile.model import ClusterSpec, NodeSpec, PartitionSpec, Role, SlurmSpec, TimeoutSpec
from tests.support.waiting import PATIENCE


def node(name: str, role: Role, last: int) -> NodeSpec:
    return NodeSpec(name, role, 1, 1024, 8, IPv4Address(f"192.168.100.{last}"))


LAB = ClusterSpec(
    "demo",
    "",
    (
        node("hpc-controller", Role.HPC_CONTROLLER, 10),
        node("hpc-compute-1", Role.HPC_COMPUTE, 11),
        node("hpc-compute-2", Role.HPC_COMPUTE, 12),
    ),
    {},
    slurm=SlurmSpec((PartitionSpec("main"),), "main"),
    timeouts=TimeoutSpec(verify=60),
)
ADDRESSES = {entry.name: GuestAddress(entry.name, entry.ip, "root") for entry in LAB.nodes}
IDLE = "hpc-compute-1|idle|gpu:1g.10gb:1|none\nhpc-compute-2|idle|(null)|none\n"
JOB = """\
7 hpc-compute-1 hpc-compute-1
7 hpc-compute-2 hpc-compute-2
--accounting--
7|student|COMPLETED|2|0:0
"""
Answer = tuple[int, str, str]


@dataclass
class ScriptedShell:
    """Answers by the first word of the command; a list is used up one answer at a time, its last one stays."""

    answers: dict[str, list[Answer]]
    asked: list[tuple[str, str]] = field(default_factory=list)
    dead: frozenset[str] = frozenset()

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        self.asked.append((guest.name, command.split()[0]))
        if guest.name in self.dead:
            raise CommandTimeoutError("did not answer", where="ssh")
        queue = self.answers[command.split()[0]]
        code, out, err = queue.pop(0) if len(queue) > 1 else queue[0]
        if command == "unmunge":
            assert stdin == "MUNGE:credential:\n"
        return Completed(("ssh",), code, out, err)

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return guest.name not in self.dead


def guests(**changes: list[Answer]) -> ScriptedShell:
    answers: dict[str, list[Answer]] = {
        "munge": [(0, "MUNGE:credential:\n", "")],
        "unmunge": [(0, "STATUS:          Success (0)\n", "")],
        "sinfo": [(0, IDLE, "")],
        "cd": [(0, JOB, "")],
    }
    return ScriptedShell({**answers, **changes})


@dataclass
class Ticking:
    seconds: float = 0.0

    def clock(self) -> Clock:
        def sleep(seconds: float) -> None:
            self.seconds += seconds

        return Clock(now=lambda: self.seconds, sleep=sleep)


def verify(shell: ScriptedShell, gpus: dict[str, tuple[NodeGpu, ...]] | None = None) -> VerifyReport:
    return verify_slurm(LAB, shell, ADDRESSES, gpus, clock=Ticking().clock())


def test_a_healthy_cluster_in_five_logins() -> None:
    shell = guests()
    heard: list[CheckResult] = []
    report = verify_slurm(
        LAB,
        shell,
        ADDRESSES,
        {"hpc-compute-1": (NodeGpu("1g.10gb", 1),)},
        clock=Ticking().clock(),
        on_check=heard.append,
    )
    assert report.ok and report.failed == ()
    assert [check.name for check in report.checks] == [
        "munge hpc-compute-1", "munge hpc-compute-2", "nodes", "gpus", "job main", "accounting main",
    ]  # fmt: skip
    assert heard == list(report.checks)
    assert len(shell.asked) == 5


def test_what_else_the_lab_file_asks_for_is_tried_as_well() -> None:
    assert LAB.slurm is not None
    lab = replace(LAB, slurm=replace(LAB.slurm, mpi="pmix", rest_api=True, scrontab=True))
    answer = '{"path": "/slurm/v0.0.42/nodes/", "status": 200, "nodes": ["hpc-compute-1", "hpc-compute-2"]}'
    shell = guests(
        cd=[(0, JOB, ""), (0, "ranks 2 hpc-compute-1 hpc-compute-2\n", "")],
        sudo=[(0, answer, ""), (1, "no crontab for student\n", "")],
    )
    report = verify_slurm(lab, shell, ADDRESSES, clock=Ticking().clock())
    assert report.ok, report.failed
    assert [check.name for check in report.checks][-3:] == ["mpi", "rest api", "scrontab"]
    down = guests(sinfo=[(0, "hpc-compute-1|down|(null)|none\n", "")], sudo=[(1, "", "no such socket")])
    report = verify_slurm(lab, down, ADDRESSES, clock=Ticking().clock())
    details = {check.name: check.detail for check in report.failed}
    assert details["mpi"] == "not tried: not all nodes are up"
    assert details["scrontab"] == "no such socket"
    assert details["rest api"] == "no answer from slurmrestd: no such socket"


def test_nodes_may_take_a_while() -> None:
    starting = "hpc-compute-1|down*|(null)|none\n"
    report = verify(guests(sinfo=[(1, "", "cannot contact slurm controller"), (0, starting, ""), (0, IDLE, "")]))
    assert report.ok
    assert next(check for check in report.checks if check.name == "nodes").seconds == 4.0


def test_nodes_that_come_one_after_the_other_are_waited_for_beyond_the_time() -> None:
    """The lab allows a minute; the nodes take longer, and what keeps the first one moves on."""
    states = [f"hpc-compute-1|down|(null)|step {step}\n" for step in range(16) for _ in range(5)]
    report = verify(guests(sinfo=[*((0, text, "") for text in states), (0, IDLE, "")]))
    assert report.ok
    assert next(check for check in report.checks if check.name == "nodes").seconds == 160.0


def test_a_slow_host_gives_the_job_more_time() -> None:
    script = job_script(PartitionSpec("main", nodes=("a",)), "student", 600)
    assert "timeout 600 srun" in script
    assert "--immediate=450" in script
    assert "--time=10" in script


def test_nodes_that_never_come_up_are_named_and_no_job_is_tried() -> None:
    shell = guests(sinfo=[(0, "hpc-compute-1|drained|(null)|Low RealMemory\nhpc-compute-2|idle|(null)|none\n", "")])
    report = verify(shell)
    assert [(check.name, check.detail) for check in report.failed] == [
        (
            "nodes",
            "hpc-compute-1 is drained (Low RealMemory) (given up after 60 s, the last 60 s of them without progress)",
        ),
        ("job main", "not tried: not all nodes are up"),
    ]
    assert ("hpc-controller", "cd") not in shell.asked


@pytest.mark.parametrize(
    ("shell", "failed"),
    [
        (lambda: guests(munge=[(1, "", "munge: Error: no socket")]), {"munge hpc-controller"}),
        (lambda: guests(unmunge=[(16, "STATUS: Invalid credential (16)\n", "")]), {
            "munge hpc-compute-1", "munge hpc-compute-2",
        }),
        (lambda: guests(cd=[(1, "--accounting--\n", "srun: error: queue is full")]), {"job main", "accounting main"}),
        (lambda: guests(cd=[(0, JOB.replace("COMPLETED", "RUNNING"), "")]), {"accounting main"}),
    ],
)  # fmt: skip
def test_each_fault_fails_its_own_check(shell: Callable[[], ScriptedShell], failed: set[str]) -> None:
    assert {check.name for check in verify(shell()).failed} == failed


def test_a_guest_that_cannot_be_reached_is_a_failed_check() -> None:
    shell = guests()
    shell.dead = frozenset({"hpc-compute-2"})
    report = verify(shell)
    assert [check.detail for check in report.failed] == ["does not decode what hpc-controller encodes: did not answer"]


def test_wrong_gpus() -> None:
    report = verify(guests(), {"hpc-compute-2": (NodeGpu("1g.10gb", 2),)})
    assert [check.name for check in report.failed] == ["gpus"]


def test_a_lab_without_slurm_is_refused() -> None:
    with pytest.raises(VerifyError, match="no Slurm cluster"):
        verify_slurm(ClusterSpec("a", "", (), {}), guests(), {})


def test_summary_for_a_status_display() -> None:
    assert slurm_summary(LAB, guests(), ADDRESSES, Pace()) == "2 idle"
    assert not VerifyReport(()).ok


STUBS = {
    "sudo": '[ "$1 $2 $3 $4" = "-n -u student --" ] && shift 4 && exec "$@"',
    "srun": 'echo "41 a a"; echo "41 b b"',
    "sacct": 'n=$(cat "$STATE" 2>/dev/null || echo 0); echo $((n + 1)) >"$STATE"\n'
    '[ "$n" -ge 1 ] && echo "41|student|COMPLETED|2|0:0" || echo "41|student|RUNNING|2|0:0"',
    "sleep": ":",
}


@pytest.mark.parametrize("works", [True, False])
def test_the_job_script_waits_for_the_record(tmp_path: Path, works: bool) -> None:
    """The script is run by a real shell, with stubs in the place of Slurm's commands."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, body in {**STUBS, **({} if works else {"srun": "echo no such partition >&2; exit 1"})}.items():
        (stubs / name).write_text(f"#!/bin/sh\n{body}\n")
        (stubs / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", job_script(PartitionSpec("main", ("a", "b")), "student")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={"PATH": f"{stubs}:/usr/bin:/bin", "STATE": str(tmp_path / "state")},
    )
    printed, _, record = done.stdout.partition("--accounting--\n")
    if works:
        assert done.returncode == 0
        assert printed == "41 a a\n41 b b\n" and record == "41|student|COMPLETED|2|0:0\n"
    else:
        assert done.returncode == 1
        assert record == "" and done.stderr == "no such partition\n"


WITH_LOGIN = replace(LAB, nodes=(*LAB.nodes, node("hpc-login-1", Role.HPC_LOGIN, 129)))


def verify_with_login(answer: Answer, sinfo: str = IDLE) -> tuple[VerifyReport, ScriptedShell]:
    places = {entry.name: GuestAddress(entry.name, entry.ip, "root") for entry in WITH_LOGIN.nodes}
    # The controller's job comes first, then the one from the login node.
    shell = guests(cd=[(0, JOB, ""), answer], sinfo=[(0, sinfo, "")])
    return verify_slurm(WITH_LOGIN, shell, places, clock=Ticking().clock()), shell


def test_a_job_is_started_from_each_login_node() -> None:
    report, shell = verify_with_login((0, "8 hpc-compute-2 hpc-compute-2\n", ""))
    assert report.ok
    assert [check.name for check in report.checks][2] == "munge hpc-login-1"
    assert (report.checks[-1].name, report.checks[-1].detail) == ("job from hpc-login-1", "job 8: hpc-compute-2")
    assert shell.asked[-1] == ("hpc-login-1", "cd")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ((1, "", "srun: error: cannot contact slurm controller\n"), "cannot contact slurm controller"),
        ((0, "", ""), "it said nothing"),
        ((0, "8 hpc-login-1 hpc-login-1\n", ""), "job 8 ran on hpc-login-1"),
        ((0, "8 hpc-compute-1 a\n8 hpc-compute-2 b\n", ""), "job 8 ran on hpc-compute-1 hpc-compute-2"),
    ],
)
def test_a_login_node_from_which_no_job_runs_fails_its_own_check(answer: Answer, detail: str) -> None:
    report, _ = verify_with_login(answer)
    assert [check.name for check in report.failed] == ["job from hpc-login-1"]
    assert detail in report.failed[0].detail


def test_no_job_is_started_from_a_login_node_while_nodes_are_down() -> None:
    report, shell = verify_with_login((0, "", ""), "hpc-compute-1|drained|(null)|none\n")
    assert [check.name for check in report.failed] == ["nodes", "job main", "job from hpc-login-1"]
    assert ("hpc-login-1", "cd") not in shell.asked
