"""Students and their nodes are hostile to grades: no output runs on the host, steers the terminal or gives points."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.cli.render.teaching.exercises import grade_json, grade_text
from emulator.core.ports import Completed, GuestAddress
from emulator.core.waiting.pace import Pace
from emulator.exercises.grade import MOST_OUTPUT, Grade, Result, grade
from emulator.exercises.load import load_exercise, shipped
from emulator.exercises.model import Command, RunAs
from emulator.guests.ssh import OpenSshShell
from tests.security.test_terminal import ATTACKS, check_harmless
from tests.support.exercise_labs import exercise, setting_of
from tests.support.exercise_stand_ins import StandIns, deployment, job

hostile = pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
INJECTED = ["yes; touch {mark}", "$(touch {mark})", "`touch {mark}`", "yes\ntouch {mark}\n", "'; touch {mark}; '"]


class Says:
    """A node on which the student is root: every command says this, on both streams."""

    def __init__(self, text: str, code: int = 0) -> None:
        self._text, self._code = text, code

    def run(self, guest: GuestAddress, command: str, **_options: object) -> Completed:
        return Completed(("ssh", guest.name, command), self._code, self._text, self._text)

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        del guest, timeout
        return True


@hostile
@pytest.mark.parametrize("code", [0, 1, 255])
def test_what_a_node_says_is_shown_without_effect(text: str, code: int) -> None:
    done = Grade(setting_of(), grade(setting_of(), Says(text, code)))
    assert done.points == 0
    check_harmless(done.checks[0].seen)
    check_harmless(done.checks[0].why)
    check_harmless(grade_text(done))
    check_harmless(json.dumps(grade_json(done), ensure_ascii=False))
    assert len(json.dumps(grade_json(done))) < 5000


@pytest.mark.parametrize("text", INJECTED)
def test_nothing_that_a_node_says_is_run_here(text: str, tmp_path: Path) -> None:
    """Also not where it becomes the input of another command: that is a stream, no part of a command line."""
    mark = tmp_path / "mark"
    said = text.format(mark=mark)
    feeding = exercise().checks[0]
    of = replace(exercise(), checks=(replace(feeding, input_from=Command(run="x"), run="cat >/dev/null; echo no"),))
    setting = setting_of(of)

    class Through(Says):
        def run(self, guest: GuestAddress, command: str, *, stdin: Any = None, **options: object) -> Completed:
            if stdin is None:
                return super().run(guest, command, **options)
            done = subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, text=True, check=False)
            return Completed(("ssh",), done.returncode, done.stdout, done.stderr)

    (graded,) = grade(setting, Through(said))
    assert (graded.result, graded.seen) == (Result.FAILED, "no")
    assert not mark.exists()


def test_a_flood_takes_no_more_than_its_limit_and_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real way of a command, with ssh replaced by one that never ends to say yes."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexec yes\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    shell = OpenSshShell(Path("/k"), Path("/h"), (), HostProcess(output_limit=4 * MOST_OUTPUT), Pace())
    assert shell.argv(GuestAddress("n", IPv4Address("10.0.0.1"), "labadmin"))[0] == "ssh"
    (graded,) = grade(setting_of(), shell)
    assert (graded.result, graded.points, graded.seen) == (Result.FAILED, 0, "")


@pytest.mark.parametrize("name", ["ada; touch {mark}", "$(touch {mark})", "a'b", "-u root", "a b", "a\nb"])
@pytest.mark.parametrize("run_as", list(RunAs))
def test_no_value_leaves_its_word(name: str, run_as: RunAs, tmp_path: Path) -> None:
    """Names of users are checked before; even one that is not stays one word, with sudo in a stand-in's place."""
    mark, user = tmp_path / "mark", name.format(mark=tmp_path / "mark")
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    sudo.chmod(0o755)
    line = setting_of(user=user).line(Command(run='printf %s "$EXERCISE_USER"', run_as=run_as))
    done = subprocess.run(
        ["sh", "-c", line.replace("/usr/bin/sudo", str(sudo))], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (user, "")
    assert not mark.exists()


FORGED = "x\nCOMPLETED|2\n7.batch|COMPLETED\n4\nyes\n"


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("first-job", {"jobs": [job(FORGED), job("first-job COMPLETED", "FAILED"), job("first-job", "FAILED")]}),
        ("array-dependency", {"jobs": [job(FORGED), job("measure|20_1|COMPLETED"), job("collect,measure", "RUNNING")]}),
        (
            "rolling-update",
            {"objects": [deployment("shop", 3, 3, env=[{"name": "RELEASE", "value": "blue\ngreen\nyes"}])]},
        ),
        ("pending-pod", {"objects": [deployment("web", 1, 0, image=FORGED), deployment("web\nyes", 1, 1)]}),
        ("small-quota", {"objects": [deployment("kiosk", 2, 0, image=FORGED)]}),
    ],
)
def test_names_and_values_of_a_student_s_choice_forge_no_answer(
    name: str, table: dict[str, Any], tmp_path: Path
) -> None:
    whole = {"jobs": [], "objects": [], "nodes": {"hpc-compute-1": "idle"}, "munge": "wrong", **table}
    setting = setting_of(load_exercise(shipped(), name).exercise, user="ada")
    graded = StandIns(tmp_path, whole).grade(setting)
    assert [(each.check.title, each.seen) for each in graded if each.points] == []


def test_a_node_with_another_key_cannot_prove_that_it_has_the_right_one(tmp_path: Path) -> None:
    """Root on the compute node may say what they like: the controller decodes it."""
    setting = setting_of(load_exercise(shipped(), "munge-key").exercise)
    for said in ("right", "Success", "wrong:\nSTATUS: Success", "wrong"):
        found: dict[str, Any] = {"jobs": [], "objects": [], "nodes": {}, "munge": said}
        first = StandIns(tmp_path / said.replace("\n", "-"), found).grade(setting)[0]
        assert (first.points > 0) == (said == "right")
