"""Reading exercises: those that ship with the program, and those in a directory of the user's."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from emulator.core.data_files import share_dir
from emulator.core.errors import ConfigError, UsageError
from emulator.exercises.model import FILE, Exercise, Place, exercise_schema
from emulator.labfile.findings import Finding, Report, Severity
from emulator.labfile.read.document import parse_document
from emulator.labfile.read.read_file import read_lab_file
from emulator.labfile.read.sections import read_section
from emulator.labfile.read.structure import check_structure, shown
from emulator.labfile.read.tree import Map, positions
from emulator.labfile.read.view import Context, View

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class LoadedExercise:
    """An exercise's file that was read; `maybe_exercise` is None when the report has errors."""

    name: str
    report: Report
    maybe_exercise: Exercise | None

    @property
    def exercise(self) -> Exercise:
        """Raises: ConfigError when the file has errors; it names them all."""
        if self.maybe_exercise is None:
            errors = self.report.errors
            error = ConfigError(
                "\n".join(
                    (f"{len(errors)} error{'s' if len(errors) != 1 else ''} in the exercise", *map(_line, errors))
                ),
                where=self.report.file,
                fix="correct the file; docs/user/exercises.md has every key",
            )
            error.details["findings"] = [finding.to_json() for finding in self.report.findings]
            raise error
        return self.maybe_exercise


def _line(finding: Finding) -> str:
    return f"  {finding.render()}"


def shipped() -> Path:
    """The directory of the exercises that ship with the program."""
    return share_dir() / "config" / "exercises"


def load_exercise(directory: Path, name: str) -> LoadedExercise:
    """The exercise in `directory`/`name`.

    Raises:
        UsageError: no such exercise; names those that there are.
    """
    known = exercise_names(directory)
    if not NAME.fullmatch(name) or name not in known:
        there = ", ".join(known) or "none"
        raise UsageError(
            f"there is no exercise {name!r} in {directory}",
            fix=f"there are: {there}; one's own are in a directory that --from names, each as NAME/{FILE}",
        )
    path = directory / name / FILE
    text, refusal = read_lab_file(path)
    if text is None:
        return LoadedExercise(name, Report.of(str(path), (refusal,) if refusal else ()), None)
    exercise, report = parse_exercise(text, file=str(path))
    return LoadedExercise(name, report, replace(exercise, name=name) if exercise else None)


def exercise_names(directory: Path) -> tuple[str, ...]:
    """Names of the directories that hold an exercise, sorted.

    Raises:
        UsageError: the directory cannot be read.
    """
    try:
        found = [entry.name for entry in directory.iterdir() if (entry / FILE).is_file()]
    except OSError as error:
        raise UsageError(
            f"exercises cannot be looked for: {error.strerror}",
            where=str(directory),
            fix=f"name a directory that holds exercises, each as NAME/{FILE}",
        ) from error
    return tuple(sorted(name for name in found if NAME.fullmatch(name)))


def parse_exercise(text: str, *, file: str) -> tuple[Exercise | None, Report]:
    """An exercise from its text, or all that is wrong with it; `file` is the name that the findings carry."""
    document = parse_document(text, file=file)
    if not isinstance(document.root, Map):
        what = "the file is empty" if document.root is None else f"expected a mapping, got {shown(document.root)}"
        fix = 'begin with `version: "1.0"`; config/exercises has examples'
        fault = Finding(Severity.ERROR, "value.type", file, 1, 1, "", what, fix)
        return None, Report.of(file, document.findings or (fault,))
    structure = check_structure(document.root, exercise_schema())
    context = Context(file, structure.refused)
    root = View(context, exercise_schema(), (), document.root, document.root.at)
    exercise = read_section(Exercise, root)
    _check(root, exercise)
    found = (*document.findings, *structure.findings(file=file, hint=lambda _path, _text: ""), *context.findings)
    report = Report.of(file, found, positions=positions(document.root))
    return (None if report.has_errors() else exercise), report


def _check(root: View, exercise: Exercise) -> None:
    """What several keys say together."""
    cluster = root.usable("cluster", exercise.cluster)
    places = [view for key in ("setup", "checks", "cleanup") for view in root.child(key).items()]
    places += [view.child("input_from") for view in root.child("checks").items()]
    wanted = {place.value for place in Place if place.cluster is exercise.cluster}
    for view in places:
        node = view.child("node")
        name = node.plain() if node.node is not None else None
        if cluster is not None and isinstance(name, str) and name not in wanted:
            node.error(
                "exercise.node",
                f"the node {name} is not of the cluster {exercise.cluster.value}, which the exercise is about",
                f"write {' or '.join(sorted(wanted))}",
            )
    for view, check in root.each("checks", exercise.checks):
        if check.expect.prints is not None and check.expect.at_least is not None:
            view.child("expect").error(
                "exercise.expect", "prints and at_least cannot both hold", "keep one, and make two checks of it"
            )
