"""Ends on the node: whose access is over by which clock, in which order it is taken, what is said of what is left."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from emulator.core.data_files import share_dir
from emulator.credentials.ssh_trust import SshTrust
from emulator.credentials.users import FIRST_UID, LAST_UID, AccessBook, AccessRole
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import ConnectionFacts
from emulator.kubernetes.config.users import USERS_NAMESPACE, student_namespace
from emulator.labfile.load import load_spec
from tests.support.playbook_modules import PLAYBOOKS, user_end
from tests.support.waiting import PATIENCE

FILES = PLAYBOOKS / "roles/lab_access/files"
ADA = {"name": "ada", "uid": 3000, "end": 1000, "namespace": "student-ada"}


# ---------------------------------------------------------------- who is over
def test_the_node_reads_what_the_inventory_says() -> None:
    book = AccessBook().granted("ada", AccessRole.STUDENT, public_key="key of ada", expires=1000)
    book = book.granted("bob", AccessRole.ADMIN, public_key="key of bob", expires=2000)
    book = book.granted("eve", AccessRole.STUDENT, public_key="key of eve", expires=3000).without("eve")
    spec, _ = load_spec(share_dir() / "config" / "minimal.yaml")
    assert spec is not None
    connection = ConnectionFacts("labadmin", Path("/k"), Path("/h"))
    inventory = build_inventory(spec, connection, trust=SshTrust(book=book.at(1500)))
    source = (PLAYBOOKS / "roles/lab_access/templates/ends.j2").read_text()
    template = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True).from_string(source)  # noqa: S701
    text = template.render(lab_ends=inventory.vars["lab_ends"])
    users, bad = user_end.parse_ends(text)
    assert bad == []
    # What has ended by the host's clock has ended, whatever the node's says.
    assert [(user["name"], user["uid"], user["end"]) for user in users] == [
        ("ada", 3000, 0),
        ("bob", 3001, 2000),
        ("eve", 3002, 0),
    ]
    assert users[1]["namespace"] == student_namespace("bob")
    assert user_end.ACCOUNTS == USERS_NAMESPACE
    assert (user_end.USER_UIDS[0], user_end.USER_UIDS[-1]) == (FIRST_UID, LAST_UID)


@pytest.mark.parametrize(
    "line",
    [
        "ada 0 0 student-ada",
        "ada 2999 0 student-ada",
        "ada 60000 0 x",
        "ada 3000",
        "-x 3000 0 n",
        "a 3000 0 -n",
        "\x1b[2J",
    ],
)
def test_a_line_that_is_no_user_is_named_and_the_others_count(line: str) -> None:
    users, bad = user_end.parse_ends(f"{line}\nbob 3001 0 student-bob\n")
    assert [user["name"] for user in users] == ["bob"]
    assert bad == [ascii(line)]


def over(*, wall: float, boottime: float, seen: dict[str, Any] | None = None, record: Any = None) -> bool:
    limits = user_end.deadlines([ADA], seen or {}, wall=wall, boottime=boottime)
    return bool(user_end.is_over(ADA, limits["ada"], record or {}, wall=wall, boottime=boottime))


def test_access_ends_by_either_clock() -> None:
    assert not over(wall=999, boottime=5)
    assert over(wall=1000, boottime=5)
    # Seen at boottime 10, when 100 s were left. Since then the wall clock was set back.
    seen = user_end.deadlines([ADA], {}, wall=900, boottime=10)
    assert not over(wall=950, boottime=60, seen=seen)
    assert over(wall=100, boottime=110, seen=seen)
    # Forward is believed, too: a guest that was paused is told the time.
    assert over(wall=5000, boottime=11, seen=seen)


def test_an_end_that_was_carried_out_stays_so_after_a_boot_with_a_wrong_clock() -> None:
    assert over(wall=5, boottime=1, record={"ada": {"end": 1000, "settled": True}})
    assert not over(wall=5, boottime=1, record={"ada": {"end": 900, "settled": True}})


def test_a_new_end_counts_from_when_it_is_seen() -> None:
    seen = user_end.deadlines([{**ADA, "end": 50}], {}, wall=0, boottime=0)
    assert user_end.deadlines([ADA], seen, wall=60, boottime=60) == {"ada": (1000, 1000)}


# ---------------------------------------------------------------- what is done
class Node:
    """A node that keeps what was done to it, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, slurm: bool = True, kubernetes: bool = False) -> None:
        self.done: list[str] = []
        self.left: list[str] = []
        self.broken = ""
        self.expiry = ""
        monkeypatch.setattr(user_end, "has_account", lambda _user: True)
        monkeypatch.setattr(user_end, "expiry", lambda _name: self.expiry)
        monkeypatch.setattr(user_end, "is_controller", lambda: slurm)
        monkeypatch.setattr(user_end, "run", self.run)
        monkeypatch.setattr(user_end, "end_processes", self.end_processes)
        monkeypatch.setattr(user_end, "ADMIN_CONF", "/" if kubernetes else "/nonexistent")
        ticks = iter(range(0, 100000, 7))
        monkeypatch.setattr(user_end, "time", SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda _: None))

    def run(self, *argv: str) -> str:
        line = " ".join(argv)
        if self.broken and self.broken in line:
            raise user_end.CommandError(f"{argv[0]}: no answer")
        if argv[0] == "squeue":
            self.done.append("squeue")
            return "\n".join(self.left)
        if argv[:4] == ("sacctmgr", "-nP", "show", "associations"):
            return "ada\n"
        if argv[0] == "usermod":
            self.expiry = argv[2]
        if "get" in argv:
            return "resourcequota/hyperscaler" if "resourcequota" in argv else "\n".join(self.left)
        self.done.append(line.replace("env HOME=/root kubectl --kubeconfig / ", "kubectl "))
        return ""

    def end_processes(self, uid: int) -> list[str]:
        self.done.append(f"kill {uid}")
        return []


def test_new_work_is_barred_before_the_old_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    assert user_end.end(ADA, everything=True) == []
    assert node.done == [
        "usermod --expiredate 1 ada",
        "sacctmgr --immediate --quiet modify user where name=ada account=lab set maxsubmitjobs=0",
        "scancel --quiet --user=ada",
        "scancel --quiet --full --signal=KILL --user=ada",
        "kill 3000",
        "squeue",
    ]


def test_roles_and_tokens_go_before_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, slurm=False, kubernetes=True)
    assert user_end.end(ADA, everything=True) == []
    kinds = [line.split()[1:3] for line in node.done if line.startswith("kubectl")]
    assert kinds == [
        ["delete", "clusterrolebindings"],
        ["delete", "rolebindings"],
        ["delete", "serviceaccount"],
        ["patch", "resourcequota"],
        ["delete", "secrets"],
        ["delete", "serviceaccounts"],
        ["delete", user_end.WORKLOADS],
    ]
    assert "--grace-period=1" in node.done[-1]


@pytest.mark.parametrize("broken", ["usermod", "sacctmgr", "scancel", "squeue"])
def test_a_step_that_fails_keeps_no_other_from_being_done(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    node = Node(monkeypatch)
    node.broken = broken
    assert any(broken in each for each in user_end.end(ADA, everything=True))
    assert "kill 3000" in node.done


def test_what_is_left_is_named_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node(monkeypatch)
    node.left = ["17"]
    limits = {"ada": (1000, 0)}
    record, clean = user_end.carry_out([ADA], {}, limits, wall=2000, boottime=1)
    assert (record, clean) == ({"ada": {"end": 1000, "settled": False}}, False)
    assert capsys.readouterr().out == "the access of ada has ended\nada: left: job 17\n"
    node.left = []
    record, clean = user_end.carry_out([ADA], record, limits, wall=2060, boottime=2)
    assert (record, clean) == ({"ada": {"end": 1000, "settled": True}}, True)
    node.done.clear()
    # From then on the clusters are left in peace; processes are looked for each time.
    user_end.carry_out([ADA], record, limits, wall=2120, boottime=3)
    assert node.done == ["kill 3000"]


def test_access_that_is_given_again_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    limits = {"ada": (1000, 0)}
    record, _ = user_end.carry_out([ADA], {}, limits, wall=2000, boottime=1)
    node.done.clear()
    again, limits = {**ADA, "end": 9000}, {"ada": (9000, 9000)}
    assert user_end.carry_out([again], record, limits, wall=2000, boottime=1) == ({}, True)
    assert node.done == [
        "usermod --expiredate  ada",
        "sacctmgr --immediate --quiet modify user where name=ada account=lab set maxsubmitjobs=-1",
    ]
    node.done.clear()
    user_end.carry_out([again], {}, limits, wall=2000, boottime=1)
    assert node.done == [], "a user whose time has not come costs nothing"


def test_a_whole_run_leaves_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    monkeypatch.setattr(
        user_end,
        "time",
        SimpleNamespace(
            time=lambda: 2000, clock_gettime=lambda _: 5, CLOCK_BOOTTIME=7, monotonic=lambda: 0, sleep=lambda _: None
        ),
    )
    for name in ("ENDS", "RECORD", "DEADLINES"):
        monkeypatch.setattr(user_end, name, str(tmp_path / "var" / name))
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "ENDS").write_text("ada 3000 1000 student-ada\nbob 3001 9000 student-bob\n")
    assert user_end.main() == 0
    assert json.loads((tmp_path / "var" / "RECORD").read_text()) == {"ada": {"end": 1000, "settled": True}}
    assert json.loads((tmp_path / "var" / "DEADLINES").read_text()) == {"ada": [1000, -995], "bob": [9000, 7005]}
    assert [line for line in node.done if "bob" in line] == []
    (tmp_path / "var" / "RECORD").write_text("damaged")
    assert user_end.main() == 0


# ---------------------------------------------------------------- units
def test_systemd_accepts_the_units() -> None:
    units = sorted(FILES.glob("hyperscaler-ends.*"))
    assert [unit.suffix for unit in units] == [".path", ".service", ".timer"]
    argv = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        pytest.skip("no systemd-analyze here")
    assert "hyperscaler-ends" not in done.stderr, done.stderr


def test_the_timer_acts_by_both_clocks_and_when_one_jumps() -> None:
    lines = (FILES / "hyperscaler-ends.timer").read_text().splitlines()
    assert {"OnCalendar=*:*:00", "OnUnitInactiveSec=1min", "OnBootSec=1min", "OnClockChange=true"} <= set(lines)
    service = (FILES / "hyperscaler-ends.service").read_text()
    assert f"ConditionFileNotEmpty={user_end.ENDS}" in service
