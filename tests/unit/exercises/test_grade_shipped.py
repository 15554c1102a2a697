"""The exercises that ship: they are valid, give points only for work that was done, and change nothing by grading."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from emulator.exercises.load import exercise_names, load_exercise, shipped
from emulator.exercises.model import Command, Exercise, RunAs
from tests.support import exercise_solutions
from tests.support.exercise_labs import setting_of
from tests.support.exercise_stand_ins import StandIns, deployment, job

NAMES = exercise_names(shipped())
Table = dict[str, Any]


def table(**parts: Any) -> Table:
    return {"jobs": [], "objects": [], "nodes": {"hpc-compute-1": "idle"}, "munge": "right", **parts}


def four(**last: Any) -> list[dict[str, Any]]:
    parts = [job("measure", JobID=f"20_{task}", End=f"2026-01-01T10:00:2{task}") for task in range(1, 5)]
    return [*parts[:3], {**parts[3], **last}]


def collect(submit: str, start: str) -> dict[str, Any]:
    return job("collect", JobID="21", Submit=f"2026-01-01T10:00:{submit}", Start=f"2026-01-01T10:00:{start}")


ON_TIME = collect("10", "24")
NOTEBOOK = job("notebook", "RUNNING", JobID="30_1")
GREEN, BLUE = [{"name": "RELEASE", "value": "green"}], [{"name": "RELEASE", "value": "blue"}]
CAREFUL = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
HASTY = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}


def revision(name: str, env: list[dict[str, str]], replicas: int, owner: str = "shop") -> dict[str, Any]:
    made = deployment(name, replicas, replicas, env=env)
    owners = [{"uid": owner, "controller": True}]
    return {**made, "kind": "ReplicaSet", "metadata": {**made["metadata"], "ownerReferences": owners}}


def quota(cpu: str = "100m") -> dict[str, Any]:
    metadata = {"name": "exercise", "namespace": "student-ada"}
    return {"kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"requests.cpu": cpu}}}


# exercise -> what the cluster has when it is solved
SOLVED: dict[str, Table] = {
    "first-job": table(jobs=[job("first-job")]),
    "array-dependency": table(jobs=[*four(), ON_TIME]),
    "gpu-slice": table(jobs=[job("evaluation"), job("notebook", "CANCELLED by 3000")]),
    "drained-node": table(jobs=[job("mine")]),
    "munge-key": table(jobs=[job("mine")]),
    "pending-pod": table(objects=[deployment("web", 1, 1)]),
    "rolling-update": table(
        objects=[
            deployment("shop", 3, 3, env=GREEN, strategy=CAREFUL),
            revision("shop-1", BLUE, 0),
            revision("shop-2", GREEN, 3),
        ]
    ),
    "small-quota": table(objects=[deployment("kiosk", 2, 2), quota()]),
}

# exercise, what a student did instead, what the cluster has then, and the points of it
NOT_SOLVED: list[tuple[str, str, Table, int]] = [
    ("first-job", "nothing", table(), 0),
    ("first-job", "another's job", table(jobs=[job("first-job", User="eve")]), 0),
    ("first-job", "one from before", table(jobs=[job("first-job", End="2025-12-31T10:00:00")]), 0),
    ("first-job", "it failed", table(jobs=[job("first-job", "FAILED")]), 0),
    ("first-job", "no limit", table(jobs=[job("first-job", TimelimitRaw="Partition_Limit")]), 7),
    ("first-job", "an hour", table(jobs=[job("first-job", TimelimitRaw="60")]), 7),
    ("first-job", "srun", table(jobs=[{**job("first-job"), "steps": [{"JobID": "7.0"}]}]), 7),
    ("array-dependency", "nothing", table(), 0),
    ("array-dependency", "three tasks", table(jobs=[*four()[:3], ON_TIME]), 2),
    ("array-dependency", "one failed", table(jobs=[*four(State="FAILED"), ON_TIME]), 2),
    ("array-dependency", "too late", table(jobs=[*four(), collect("40", "41")]), 6),
    ("array-dependency", "did not wait", table(jobs=[*four(), collect("02", "03")]), 6),
    ("array-dependency", "four arrays", table(jobs=[{**each, "JobID": f"{n}_1"} for n, each in enumerate(four())]), 0),
    ("gpu-slice", "nothing", table(jobs=[job("evaluation", "PENDING"), NOTEBOOK]), 0),
    ("gpu-slice", "both cancelled", table(jobs=[job("evaluation", "CANCELLED")]), 3),
    ("gpu-slice", "without a slice", table(jobs=[job("evaluation", AllocTRES="cpu=1,node=1")]), 5),
    ("gpu-slice", "submitted again", table(jobs=[job("evaluation"), job("evaluation", "CANCELLED", JobID="8")]), 8),
    ("drained-node", "nothing", table(nodes={"hpc-compute-1": "drained*"}), 0),
    ("drained-node", "resumed without slurmd", table(nodes={"hpc-compute-1": "idle*"}), 0),
    ("drained-node", "a job before", table(jobs=[job("mine", Start="2025-12-31T23:59:59")]), 4),
    ("drained-node", "a job elsewhere", table(jobs=[job("mine", NodeList="hpc-compute-2")]), 4),
    ("munge-key", "nothing", table(munge="wrong"), 0),
    ("munge-key", "no job", table(), 5),
    ("pending-pod", "nothing", table(objects=[deployment("web", 1, 0)]), 0),
    ("pending-pod", "deleted", table(), 0),
    ("pending-pod", "scaled to nothing", table(objects=[deployment("web", 0, 0)]), 0),
    ("pending-pod", "another image", table(objects=[deployment("web", 1, 1, image="other")]), 7),
    ("rolling-update", "nothing", table(objects=[deployment("shop", 3, 3, env=BLUE, strategy=HASTY)]), 0),
    (
        "rolling-update",
        "made anew",
        table(objects=[deployment("shop", 3, 3, env=GREEN, strategy=CAREFUL), revision("shop-2", GREEN, 3)]),
        7,
    ),
    (
        "rolling-update",
        "a blue one of nobody's",
        table(
            objects=[
                deployment("shop", 3, 3, env=GREEN, strategy=HASTY),
                revision("shop-2", GREEN, 3),
                revision("made", BLUE, 0, owner="other"),
            ]
        ),
        4,
    ),
    ("small-quota", "nothing", table(objects=[deployment("kiosk", 2, 1), quota()]), 0),
    ("small-quota", "a larger quota", table(objects=[deployment("kiosk", 2, 2), quota("1")]), 7),
    ("small-quota", "no quota", table(objects=[deployment("kiosk", 2, 2)]), 7),
    ("small-quota", "fewer wanted", table(objects=[deployment("kiosk", 1, 1), quota()]), 0),
]


def test_all_are_tried() -> None:
    assert set(SOLVED) == set(NAMES) == {name for name, *_ in NOT_SOLVED}


@pytest.mark.parametrize("name", NAMES)
def test_they_are_valid(name: str) -> None:
    assert load_exercise(shipped(), name).report.findings == ()


def exercise(name: str) -> Exercise:
    return load_exercise(shipped(), name).exercise


@pytest.mark.parametrize("name", NAMES)
def test_the_work_has_all_points_twice(name: str, tmp_path: Path) -> None:
    stand_ins, setting = StandIns(tmp_path, SOLVED[name]), setting_of(exercise(name), user="ada")
    first = stand_ins.grade(setting)
    assert [(each.check.title, each.seen) for each in first if each.points != each.check.points] == []
    assert stand_ins.grade(setting) == first
    assert sum(each.points for each in first) == setting.exercise.points == 10


@pytest.mark.parametrize(("name", "what", "found", "points"), NOT_SOLVED, ids=[f"{n}-{w}" for n, w, *_ in NOT_SOLVED])
def test_other_work_has_what_it_is_worth(name: str, what: str, found: Table, points: int, tmp_path: Path) -> None:
    setting = setting_of(exercise(name), user="ada")
    graded = StandIns(tmp_path, found).grade(setting)
    assert sum(each.points for each in graded) == points, [(each.check.title, each.seen) for each in graded]
    assert all(each.why == each.check.otherwise for each in graded if not each.points)


CHANGES = re.compile(
    r"\b(sbatch|srun|salloc|scancel|scontrol|sacctmgr|apply|create|delete|patch|edit|scale|label|set|rm|mv|cp|install|"
    r"tee|dd|mkdir|touch|systemctl|kill)\b|(?<![0-9&>=\"])>(?![&=])"
)


@pytest.mark.parametrize("name", NAMES)
def test_checks_change_nothing(name: str) -> None:
    """By their words: none that changes anything, and no output into a file."""
    for check in exercise(name).checks:
        for command in filter(None, (check, check.input_from)):
            script = re.sub(r"'[^']*'", "", command.run)  # without the programs of awk and Python
            assert CHANGES.search(script) is None, script


@pytest.mark.parametrize("name", NAMES)
def test_no_check_is_the_student_s_own_process(name: str) -> None:
    assert all(check.run_as is not RunAs.USER for check in exercise(name).checks)


def all_commands(of: Exercise) -> list[Command]:
    return [*of.setup, *of.cleanup, *of.checks, *(each.input_from for each in of.checks if each.input_from)]


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_sh(name: str) -> None:
    for command in all_commands(exercise(name)):
        done = subprocess.run(["sh", "-n"], input=command.run, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command.run


@pytest.mark.parametrize("name", NAMES)
def test_scripts_know_their_variables(name: str) -> None:
    known = setting_of(exercise(name), user="ada").variables()
    for command in all_commands(exercise(name)):
        used = set(re.findall(r"\$\{?(EXERCISE_[A-Z_]+)", command.run))
        assert used <= set(known), command.run


@pytest.mark.parametrize("name", NAMES)
def test_what_is_prepared_is_taken_back(name: str) -> None:
    """Each node that is prepared is also cleaned up, and there are hints."""
    of = exercise(name)
    assert {each.node for each in of.setup} <= {each.node for each in of.cleanup}
    assert len(of.hints) >= 2


def test_the_labs_tests_carry_out_all_of_them() -> None:
    assert sorted((*exercise_solutions.SLURM, *exercise_solutions.KUBERNETES)) == sorted(NAMES)
    for name, (wrong, right) in exercise_solutions.ATTEMPTS.items():
        assert wrong.points < right.points == exercise(name).points
