"""What `exercise` prints, its JSON and its exit codes; what it does is tested with the operation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from emulator import wiring
from emulator.cli.main import cli
from tests.support.exercise_host import ExerciseHost, said
from tests.support.simulated_world import LAB, SimulatedHost


@pytest.fixture
def lab(host: SimulatedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExerciseHost:
    made = ExerciseHost(host, tmp_path / "exercises")
    monkeypatch.setattr(wiring, "real_environment", made.environment)
    return made


def run(lab: ExerciseHost, verb: str, *words: str) -> Result:
    return CliRunner().invoke(cli, ["exercise", verb, LAB, *words, "--from", str(lab.exercises)])


def data(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_way_through(lab: ExerciseHost) -> None:
    listed = run(lab, "list")
    assert listed.exit_code == 0
    assert "own   A title  slurm    student  30 min  can be started" in listed.stdout
    started = run(lab, "start", "own")
    assert started.exit_code == 0
    assert started.stdout.startswith("A title (5 points, 30 minutes, for labadmin)\n\nWhat to do.\n")
    assert "  EXERCISE_COMPUTE = hpc-compute-1\n" in started.stdout
    assert "  hyperscaler exercise grade demo own\n" in started.stdout
    assert "EXERCISE_STARTED" not in started.stdout
    assert run(lab, "hint", "own").stdout == "Hint 1 of 2: the first\n"
    failed = run(lab, "grade", "own")
    assert failed.exit_code == 1
    assert failed.stdout == ("FAILED      0/5   it holds\n    not so\nlabadmin: 0 of 5 points, 1 of 2 hints\n")
    lab.answers["look"] = said("yes\n")
    solved = run(lab, "grade", "own")
    assert (solved.exit_code, solved.stdout.splitlines()[0]) == (0, "ok          5/5   it holds")
    assert run(lab, "end", "own").stdout == "demo: the exercise own was taken back\n"


def test_json(lab: ExerciseHost) -> None:
    (offer,) = data(run(lab, "list", "--json"))["exercises"]
    assert (offer["name"], offer["lacks"], offer["points"], offer["started"]) == ("own", [], 5, None)
    started = data(run(lab, "start", "own", "--json"))
    assert (started["user"], started["text"], started["values"]["EXERCISE_CONTROLLER"]) == (
        "labadmin",
        "What to do.",
        "hpc-controller",
    )
    assert data(run(lab, "hint", "own", "--json"))["hint"] == "the first"
    lab.answers["look"] = said("no")
    graded = run(lab, "grade", "own", "--json")
    assert graded.exit_code == 1
    assert data(graded) == {
        "version": 1,
        "lab": LAB,
        "exercise": "own",
        "user": "labadmin",
        "points": 0,
        "of": 5,
        "solved": False,
        "late": False,
        "hints": 1,
        "checks": [
            {"title": "it holds", "result": "failed", "points": 0, "of": 5, "why": "not so", "seen": "no"},
        ],
    }
    assert run(lab, "grade", "own", "--json").stdout == graded.stdout


def test_a_missing_answer_says_grade_again(lab: ExerciseHost) -> None:
    run(lab, "start", "own")
    lab.answers["look"] = said("", 255, "no route")
    done = run(lab, "grade", "own")
    assert done.exit_code == 1
    assert "NO ANSWER   0/5   it holds\n    hpc-controller cannot be reached: no route\n" in done.stdout
    assert "says nothing of the work: grade again" in done.stdout


def test_an_invalid_exercise_is_listed_with_its_fault(lab: ExerciseHost) -> None:
    lab.write("bad", "title: x\n")
    listed = run(lab, "list").stdout
    assert "the file is invalid" in listed
    assert "this key is missing" in listed
    (bad, _) = data(run(lab, "list", "--json"))["exercises"]
    assert (bad["valid"], {each["code"] for each in bad["findings"]}) == (False, {"key.missing"})


def test_the_shipped_ones_are_the_default(lab: ExerciseHost) -> None:
    listed = CliRunner().invoke(cli, ["exercise", "list", LAB])
    assert listed.exit_code == 0
    assert "first-job" in listed.stdout
    assert "the lab lacks a Kubernetes cluster" in listed.stdout
    assert "the lab lacks 1 GPU or slice in its Slurm cluster (it has 0)" in listed.stdout


def test_a_directory_without_any(lab: ExerciseHost, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli, ["exercise", "list", LAB, "--from", str(tmp_path / "empty")])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "there are no exercises in" in done.stderr
