"""Exercises in a lab: prepared as a whole or not at all, taken back, and graded without a trace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from emulator.apply.lock import exclusive_lock
from emulator.core.errors import ConflictError, HyperscalerError, InterruptedRunError, StateError, UsageError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.users import AccessRole
from emulator.exercises.grade import Grade, Result
from emulator.exercises.setting import Setting
from emulator.operations import exercises
from emulator.operations.credentials.access import GrantRequest, grant, revoke
from emulator.operations.exercises import Wanted
from emulator.operations.history import history
from tests.support.exercise_host import ExerciseHost, said
from tests.support.exercise_labs import EXERCISE
from tests.support.simulated_world import LAB, SimulatedHost

PREPARED = ["hpc-controller labadmin take back", "hpc-controller labadmin prepare"]


@pytest.fixture
def lab(host: SimulatedHost, tmp_path: Path) -> ExerciseHost:
    return ExerciseHost(host, tmp_path / "exercises")


def wanted(lab: ExerciseHost, user: str | None = None, name: str = "own") -> Wanted:
    return Wanted(LAB, name, lab.exercises, user)


def start(lab: ExerciseHost, user: str | None = None, stop: StopFlag | None = None) -> Setting:
    return exercises.start(lab.environment(), wanted(lab, user), SilentReporter(), stop or StopFlag())


def end(lab: ExerciseHost, user: str | None = None) -> None:
    exercises.end(lab.environment(), wanted(lab, user), SilentReporter(), StopFlag())


def graded(lab: ExerciseHost, user: str | None = None) -> Grade:
    return exercises.grade_exercise(lab.environment(), wanted(lab, user))


def give(lab: ExerciseHost, name: str, role: AccessRole = AccessRole.STUDENT) -> None:
    grant(lab.environment(), LAB, GrantRequest(name, role, 3600), SilentReporter(), StopFlag())
    lab.ran.clear()


def test_prepared_graded_and_taken_back(lab: ExerciseHost) -> None:
    before = int(time.time())
    setting = start(lab)
    assert lab.ran == PREPARED
    assert before <= setting.started <= time.time()
    assert lab.records == ["own.labadmin.json"]
    lab.answers["look"] = said("yes\n")
    done = graded(lab)
    assert (done.points, done.solved, done.late, done.hints) == (5, True, False, 0)
    end(lab)
    assert lab.records == []
    with pytest.raises(UsageError, match="the exercise own was not started for labadmin"):
        graded(lab)


def test_started_again_it_begins_anew(lab: ExerciseHost) -> None:
    start(lab)
    exercises.hint(lab.environment(), wanted(lab))
    start(lab)
    assert lab.ran == PREPARED * 2
    assert graded(lab).hints == 0


def test_ended_twice_there_is_nothing_to_do(lab: ExerciseHost) -> None:
    end(lab)
    end(lab)
    assert lab.records == []


def test_grading_leaves_everything_as_it_is(lab: ExerciseHost) -> None:
    start(lab)
    root = lab.host.home.lab(LAB).root

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    before, lab.answers["look"] = files(), said("no")
    first = graded(lab)
    assert graded(lab) == first
    assert not first.solved
    assert files() == before
    assert lab.ran[2:] == ["hpc-controller labadmin look"] * 2


def test_grading_waits_for_no_lock(lab: ExerciseHost) -> None:
    start(lab)
    with exclusive_lock(lab.host.home.locks / f"{LAB}.lock", purpose="test"):
        assert not graded(lab).solved
        with pytest.raises(ConflictError):
            start(lab)


def test_a_preparation_that_failed_cannot_be_graded(lab: ExerciseHost) -> None:
    start(lab)
    lab.answers["prepare"] = said("", 1, "no space")
    with pytest.raises(HyperscalerError, match="exit status 1: no space"):
        start(lab)
    with pytest.raises(UsageError, match="was not started"):
        graded(lab)


def test_one_that_was_stopped_cannot_either_and_is_taken_back_by_the_next(lab: ExerciseHost) -> None:
    stop = StopFlag()
    lab.on_run = lambda _script: stop.set()
    with pytest.raises(InterruptedRunError, match="stopped on request") as caught:
        start(lab, stop=stop)
    assert caught.value.fix == "hyperscaler exercise end demo own"
    assert (lab.ran, lab.records) == (PREPARED[:1], [])
    lab.on_run = lambda _script: None
    start(lab)
    assert lab.ran == PREPARED[:1] + PREPARED


def test_a_killed_preparation_leaves_no_record(lab: ExerciseHost) -> None:
    def killed(script: str) -> None:
        if script == "prepare":
            raise KeyboardInterrupt

    lab.on_run = killed
    with pytest.raises(KeyboardInterrupt):
        start(lab)
    assert lab.records == []


def test_students_have_their_own(lab: ExerciseHost) -> None:
    give(lab, "ada")
    give(lab, "bob", AccessRole.ADMIN)
    start(lab, "ada")
    assert lab.ran == ["hpc-controller ada take back", "hpc-controller ada prepare"]
    exercises.hint(lab.environment(), wanted(lab, "ada"))
    start(lab, "bob")
    assert lab.records == ["own.ada.json", "own.bob.json"]
    assert (graded(lab, "ada").hints, graded(lab, "bob").hints) == (1, 0)
    end(lab, "ada")
    assert lab.records == ["own.bob.json"]


def test_who_has_no_access_is_refused(lab: ExerciseHost) -> None:
    give(lab, "ada")
    for name in ("eve", "../ada", "root", "", "ada; reboot"):
        with pytest.raises(UsageError, match="has no access to lab demo") as caught:
            start(lab, name)
        assert caught.value.fix == "who has: ada; hyperscaler access add demo NAME gives it"
    revoke(lab.environment(), LAB, "ada", SilentReporter(), StopFlag())
    lab.ran.clear()
    with pytest.raises(UsageError, match="ada has no access"):
        start(lab, "ada")
    assert (lab.ran, lab.records) == ([], [])


def test_what_a_student_may_not_do_is_refused_before_anything_is_done(lab: ExerciseHost) -> None:
    lab.write("own", EXERCISE.replace("cluster: slurm", "cluster: slurm\nrole: admin"))
    give(lab, "ada")
    with pytest.raises(UsageError, match="ada is a student"):
        start(lab, "ada")
    assert lab.ran == []
    start(lab)
    assert lab.ran == PREPARED


def test_a_lab_that_lacks_something_is_refused_in_words(lab: ExerciseHost) -> None:
    lab.write("own", EXERCISE.replace("cluster: slurm", "cluster: slurm\nneeds: {compute_nodes: 5, gpus: 1}"))
    with pytest.raises(UsageError, match=r"lacks 5 compute nodes \(it has 1\) and 1 GPU or slice") as caught:
        start(lab)
    assert "provision" in caught.value.fix
    assert lab.ran == []
    with pytest.raises(UsageError, match="there is no lab other"):
        exercises.start(lab.environment(), Wanted("other", "own", lab.exercises), SilentReporter(), StopFlag())


def test_hints_come_one_by_one_and_the_last_stays(lab: ExerciseHost) -> None:
    start(lab)
    given = [exercises.hint(lab.environment(), wanted(lab)) for _ in range(3)]
    assert [(each.text, each.number, each.of) for each in given] == [
        ("the first", 1, 2),
        ("the second", 2, 2),
        ("the second", 2, 2),
    ]
    assert graded(lab).hints == 2


def test_late_work_has_its_points(lab: ExerciseHost, monkeypatch: pytest.MonkeyPatch) -> None:
    start(lab)
    lab.answers["look"] = said("yes")
    later = time.time() + 31 * 60
    monkeypatch.setattr(time, "time", lambda: later)
    done = graded(lab)
    assert (done.late, done.points) == (True, 5)


def test_a_node_that_does_not_answer_is_no_failure(lab: ExerciseHost) -> None:
    start(lab)
    lab.answers["look"] = said("", 255, "ssh: connect: no route")
    assert [each.result for each in graded(lab).unanswered] == [Result.UNANSWERED]


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"version": 1}', '{"version": 2, "started": 1, "hints": 0}', "{" * 9999]
)
def test_a_damaged_record_is_told(lab: ExerciseHost, text: str) -> None:
    start(lab)
    record = lab.host.home.lab(LAB).exercises / "own.labadmin.json"
    record.write_text(text)
    with pytest.raises(StateError, match="the record of an exercise cannot be used") as caught:
        graded(lab)
    assert caught.value.where == str(record)
    start(lab)
    assert not graded(lab).solved


def test_offers_say_what_is_lacking_and_invalid(lab: ExerciseHost) -> None:
    lab.write("bad", "title: only\n")
    lab.write("large", EXERCISE.replace("cluster: slurm", "cluster: slurm\nneeds: {compute_nodes: 9}"))
    start(lab)
    found = {each.loaded.name: each for each in exercises.offers(lab.environment(), LAB, lab.exercises)}
    assert list(found) == ["bad", "large", "own"]
    assert found["bad"].loaded.maybe_exercise is None
    assert found["large"].lacks == ("9 compute nodes (it has 1)",)
    assert found["own"].begun is not None


def test_history_says_who_was_prepared_for(lab: ExerciseHost) -> None:
    start(lab)
    last = history(lab.environment(), LAB, last=1).commands[0]
    assert (last.command, last.result, last.details) == (
        "exercise start",
        "done",
        {"exercise": "own", "who": "labadmin"},
    )


def test_records_go_with_the_lab(lab: ExerciseHost) -> None:
    start(lab)
    lab.host.destroy()
    assert not lab.host.home.lab(LAB).root.exists()
