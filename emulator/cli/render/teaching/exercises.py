"""Exercises and grades, as text and as JSON. Keys of the JSON are an interface: add, do not rename."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emulator.cli.render.tables import Table
from emulator.exercises.grade import Grade, Graded, Result
from emulator.exercises.setting import Setting
from emulator.operations.exercises import Offer

_MARK = {Result.PASSED: "ok        ", Result.FAILED: "FAILED    ", Result.UNANSWERED: "NO ANSWER "}


def offers_table(found: Sequence[Offer]) -> Table:
    rows, notes = [], {}
    for number, offer in enumerate(found):
        exercise = offer.loaded.maybe_exercise
        if exercise is None:
            rows.append((offer.loaded.name, "", "", "", "", "the file is invalid"))
            notes[number] = "; ".join(each.render().replace("\n", " ") for each in offer.loaded.report.errors[:3])
            continue
        state = "started" if offer.begun else "can be started"
        if offer.lacks:
            state = "not in this lab"
            notes[number] = f"the lab lacks {' and '.join(offer.lacks)}"
        about = exercise.cluster.value, exercise.role.value, f"{exercise.minutes} min"
        rows.append((exercise.name, exercise.title, *about, state))
    return Table(("NAME", "TITLE", "CLUSTER", "TAKES", "TIME", "STATE"), rows, notes)


def offers_json(found: Sequence[Offer]) -> list[dict[str, Any]]:
    return [_offer(offer) for offer in found]


def _offer(offer: Offer) -> dict[str, Any]:
    exercise = offer.loaded.maybe_exercise
    if exercise is None:
        findings = [each.to_json() for each in offer.loaded.report.findings]
        return {"name": offer.loaded.name, "valid": False, "findings": findings}
    return {
        "name": exercise.name,
        "valid": True,
        "title": exercise.title,
        "cluster": exercise.cluster.value,
        "role": exercise.role.value,
        "minutes": exercise.minutes,
        "points": exercise.points,
        "lacks": list(offer.lacks),
        "started": offer.begun.started if offer.begun else None,
    }


def started_text(setting: Setting) -> str:
    exercise, lab = setting.exercise, setting.spec.name
    user = "" if setting.student.name == setting.spec.ssh.user else f" --user {setting.student.name}"
    values = "\n".join(f"  {name} = {value}" for name, value in _shown(setting).items())
    return "\n".join(
        (
            f"{exercise.title} ({exercise.points} points, {exercise.minutes} minutes, for {setting.student.name})",
            "",
            exercise.text.strip(),
            "",
            "In this lab:",
            values,
            "",
            f"  hyperscaler exercise hint {lab} {exercise.name}{user}",
            f"  hyperscaler exercise grade {lab} {exercise.name}{user}",
            f"  hyperscaler exercise end {lab} {exercise.name}{user}",
        )
    )


def started_json(setting: Setting) -> dict[str, Any]:
    exercise = setting.exercise
    return {
        "version": 1,
        "lab": setting.spec.name,
        "exercise": exercise.name,
        "user": setting.student.name,
        "title": exercise.title,
        "text": exercise.text,
        "points": exercise.points,
        "minutes": exercise.minutes,
        "started": setting.started,
        "values": _shown(setting),
    }


def _shown(setting: Setting) -> dict[str, str]:
    """The variables that are of use to a student, by the names that texts use."""
    hidden = ("EXERCISE_STARTED", "KUBECONFIG")
    return {name: value for name, value in setting.variables().items() if value and name not in hidden}


def grade_text(done: Grade) -> str:
    exercise = done.setting.exercise
    lines = [line for each in done.checks for line in _lines(each)]
    late = f"; graded after the {exercise.minutes} minutes were over" if done.late else ""
    hints = f", {done.hints} of {len(exercise.hints)} hints" if done.hints else ""
    lines.append(f"{done.setting.student.name}: {done.points} of {exercise.points} points{hints}{late}")
    if done.unanswered:
        lines.append("Not all nodes answered, which says nothing of the work: grade again.")
    return "\n".join(lines)


def _lines(each: Graded) -> list[str]:
    lines = [f"{_MARK[each.result]}{each.points:>3}/{each.check.points:<3} {each.check.title}"]
    if each.why:
        lines.append(f"    {each.why.strip()}")
    return lines


def grade_json(done: Grade) -> dict[str, Any]:
    return {
        "version": 1,
        "lab": done.setting.spec.name,
        "exercise": done.setting.exercise.name,
        "user": done.setting.student.name,
        "points": done.points,
        "of": done.setting.exercise.points,
        "solved": done.solved,
        "late": done.late,
        "hints": done.hints,
        "checks": [
            {
                "title": each.check.title,
                "result": each.result.value,
                "points": each.points,
                "of": each.check.points,
                "why": each.why,
                "seen": each.seen,
            }
            for each in done.checks
        ],
    }
