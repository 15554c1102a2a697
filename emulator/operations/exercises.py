"""Exercises: which a lab can have, preparing one and taking it back, hints, and grades."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emulator.core.errors import HyperscalerError, InterruptedRunError, UsageError
from emulator.core.paths import LabPaths
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.credentials.users import AccessRole, read_book
from emulator.exercises.grade import Grade, grade, run_command
from emulator.exercises.load import LoadedExercise, exercise_names, load_exercise
from emulator.exercises.model import Command, Exercise
from emulator.exercises.record import Begun, read_record, record_path, write_record
from emulator.exercises.setting import Setting, Student, head_of
from emulator.lab.environment import Environment
from emulator.lab.lab_files import load_recorded_lab, require_lab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.gpu_placement import NodeGpus, node_gpus
from emulator.lab.run import LabRun, provisioned_run
from emulator.labfile.model import ClusterSpec, Role
from emulator.operations.connect import access_to
from emulator.operations.credentials.rotator import Rotator


@dataclass(frozen=True, slots=True)
class Wanted:
    """An exercise of a lab. `user` is who does it, None for the lab's owner; `directory` holds the exercise."""

    lab: str
    exercise: str
    directory: Path
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """An exercise and what the lab lacks for it. Of one whose file is invalid there is no more than `loaded`."""

    loaded: LoadedExercise
    lacks: tuple[str, ...] = ()
    begun: Begun | None = None


@dataclass(frozen=True, slots=True)
class Hint:
    """The hint `number` of `of`."""

    text: str
    number: int
    of: int


def offers(env: Environment, lab: str, directory: Path, user: str | None = None) -> tuple[Offer, ...]:
    """All exercises of a directory, by name.

    Raises:
        UsageError: no such lab, user or directory.
    """
    spec, paths = load_recorded_lab(env.home, lab).spec, env.home.lab(lab)
    gpus = node_gpus(spec, open_record(env.home, lab).state)
    found = []
    for name in exercise_names(directory):
        loaded = load_exercise(directory, name)
        exercise = loaded.maybe_exercise
        if exercise is None:
            found.append(Offer(loaded))
            continue
        student = _student(spec, paths, user, exercise)
        lacks = Setting(spec, gpus, exercise, student).lacks()
        found.append(Offer(loaded, lacks, read_record(record_path(paths.exercises, name, student.name))))
    return tuple(found)


def start(
    env: Environment, wanted: Wanted, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> Setting:
    """Prepare an exercise. What an earlier start prepared is taken back before, so that it can be run again and again.

    Only a preparation that was finished is on record: one that was ended half way cannot be graded.

    Raises:
        UsageError: the lab lacks something, or the student may not solve it.
        ConflictError: another command works on the lab.
        HyperscalerError: a command failed on a node.
    """
    exercise = load_exercise(wanted.directory, wanted.exercise).exercise
    require_lab(env.home, wanted.lab)
    with provisioned_run(env, wanted.lab, "exercise start", reporter, stop, wait_seconds=wait_seconds) as run:
        setting, record = _begin(run, exercise, wanted.user)
        record.unlink(missing_ok=True)
        _carry_out(run, setting, exercise.cleanup, "take back")
        setting = replace(setting, started=int(time.time()))
        _carry_out(run, setting, exercise.setup, "prepare")
        write_record(record, Begun(setting.started))
        return setting


def end(env: Environment, wanted: Wanted, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0) -> None:
    """Take back what was prepared; nothing is to do for an exercise that was not started.

    Raises:
        UsageError: the lab cannot have the exercise.
        ConflictError: another command works on the lab.
        HyperscalerError: a command failed on a node.
    """
    exercise = load_exercise(wanted.directory, wanted.exercise).exercise
    require_lab(env.home, wanted.lab)
    with provisioned_run(env, wanted.lab, "exercise end", reporter, stop, wait_seconds=wait_seconds) as run:
        setting, record = _begin(run, exercise, wanted.user)
        _carry_out(run, setting, exercise.cleanup, "take back")
        record.unlink(missing_ok=True)


def _begin(run: LabRun, exercise: Exercise, user: str | None) -> tuple[Setting, Path]:
    """Note who works on the exercise, and see that the lab can have it; its setting and the path of its record."""
    setting = _setting(run.spec, run.paths, run.access.gpus, exercise, user)
    setting.require()
    run.log.add(exercise=exercise.name, who=setting.student.name)
    run.begin()
    Rotator(run).settle()
    return setting, record_path(run.paths.exercises, exercise.name, setting.student.name)


def hint(env: Environment, wanted: Wanted) -> Hint:
    """The next hint; the last one again when all were given.

    Raises:
        UsageError: the exercise was not started, or it has no hints.
    """
    exercise = load_exercise(wanted.directory, wanted.exercise).exercise
    spec, paths = load_recorded_lab(env.home, wanted.lab).spec, env.home.lab(wanted.lab)
    student = _student(spec, paths, wanted.user, exercise)
    path, begun = _begun(paths, exercise, student)
    if not exercise.hints:
        raise UsageError(f"the exercise {exercise.name} has no hints", fix="its text has all there is to say")
    number = min(begun.hints + 1, len(exercise.hints))
    write_record(path, replace(begun, hints=number))
    return Hint(exercise.hints[number - 1], number, len(exercise.hints))


def grade_exercise(env: Environment, wanted: Wanted) -> Grade:
    """Grade an exercise that was started. Takes no lock and changes neither the lab nor the record.

    Raises:
        UsageError: it was not started, or the lab cannot have it.
    """
    exercise = load_exercise(wanted.directory, wanted.exercise).exercise
    spec, paths = load_recorded_lab(env.home, wanted.lab).spec, env.home.lab(wanted.lab)
    access = replace(access_to(env, spec), pace=env.pace(spec))
    setting = _setting(spec, paths, access.gpus, exercise, wanted.user)
    setting.require()
    _, begun = _begun(paths, exercise, setting.student)
    setting = replace(setting, started=begun.started)
    late = time.time() - begun.started > exercise.minutes * 60
    return Grade(setting, grade(setting, env.guests.shell(access)), late, begun.hints)


def _carry_out(run: LabRun, setting: Setting, commands: Sequence[Command], what: str) -> None:
    for number, command in enumerate(commands, 1):
        if run.stop.is_set():
            raise InterruptedRunError(
                f"stopped on request while the exercise {setting.exercise.name} was being prepared or taken back",
                fix=f"hyperscaler exercise end {run.name} {setting.exercise.name}",
            )
        subject, step = setting.node(command.node).name, f"{what} {number}/{len(commands)}"
        run.reporter.event(Event("exercise", subject, Status.RUNNING, step))
        try:
            run_command(command, setting, run.shell)
        except HyperscalerError:
            run.reporter.event(Event("exercise", subject, Status.FAILED, step))
            raise
        run.reporter.event(Event("exercise", subject, Status.DONE, step))


def _begun(paths: LabPaths, exercise: Exercise, student: Student) -> tuple[Path, Begun]:
    path = record_path(paths.exercises, exercise.name, student.name)
    begun = read_record(path)
    if begun is None:
        raise UsageError(
            f"the exercise {exercise.name} was not started for {student.name}",
            fix=f"hyperscaler exercise start LAB {exercise.name}, with --user for a student's",
        )
    return path, begun


def _setting(spec: ClusterSpec, paths: LabPaths, gpus: NodeGpus, exercise: Exercise, user: str | None) -> Setting:
    return Setting(spec, gpus, exercise, _student(spec, paths, user, exercise))


def _student(spec: ClusterSpec, paths: LabPaths, name: str | None, exercise: Exercise) -> Student:
    """The person who does an exercise; without a name the lab's owner, who has no namespace of their own.

    Raises:
        UsageError: nobody of this name has access to the lab.
    """
    if name is None or name == spec.ssh.user:
        return Student(spec.ssh.user, AccessRole.ADMIN, own_namespace=False)
    book = read_book(paths.access).at(time.time())
    user = book.user(name)
    if user is None or user.revoked:
        known = ", ".join(each.name for each in book.users if not each.revoked) or "nobody"
        raise UsageError(
            f"{name} has no access to lab {spec.name}",
            fix=f"who has: {known}; hyperscaler access add {spec.name} NAME gives it",
        )
    heads = {node.role: node.name for node in spec.nodes if node.role.is_head}
    own_namespace = (
        Role.CLOUD_CONTROL_PLANE in heads and user.role_at(heads[Role.CLOUD_CONTROL_PLANE]) is AccessRole.STUDENT
    )
    head = heads.get(head_of(exercise), "")
    return Student(user.name, user.role_at(head), own_namespace)
