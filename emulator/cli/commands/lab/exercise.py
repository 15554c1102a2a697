"""hyperscaler exercise list|start|hint|grade|end"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emulator.cli.lazy_group import VerbsGroup
from emulator.cli.options import lab_argument, refuse_file_name, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.render.tables import show as show_table
from emulator.cli.signals import stop_on_signals
from emulator.core.errors import ExitCode

if TYPE_CHECKING:
    from emulator.operations.exercises import Wanted

exercise_argument = click.argument("exercise")


def _who_and_where(function: Callable[..., Any]) -> Callable[..., Any]:
    user = click.option("--user", metavar="USER", help="Who does it. Default: you, as the lab's owner.")
    directory = click.option(
        "--from",
        "directory",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="A directory of exercises of your own. Default: those that ship with the program.",
    )
    return user(directory(function))


def _wanted(lab: str, exercise: str, directory: Path | None, user: str | None) -> Wanted:
    from emulator.exercises.load import shipped
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.exercises import Wanted

    refuse_file_name(lab)
    require_lab_name(lab)
    return Wanted(lab, exercise, directory or shipped(), user)


@click.group("exercise", cls=VerbsGroup)
def command() -> None:
    """Exercises on a lab: prepare one, give hints, grade it, take it back."""


@command.command("list")
@lab_argument
@_who_and_where
@json_option
def show(lab: str, *, user: str | None, directory: Path | None, as_json: bool) -> None:
    """List the exercises, and what LAB lacks for them."""
    from emulator.cli.render.teaching.exercises import offers_json, offers_table
    from emulator.operations.exercises import offers
    from emulator.wiring import real_environment

    wanted = _wanted(lab, "", directory, user)
    found = offers(real_environment(), lab, wanted.directory, user)
    if as_json:
        print_json({"version": 1, "lab": lab, "exercises": offers_json(found)})
    elif found:
        show_table(offers_table(found))
    else:
        say(f"there are no exercises in {wanted.directory}", err=True)


@command.command("start")
@lab_argument
@exercise_argument
@_who_and_where
@wait_option
@json_option
def start(
    lab: str, exercise: str, *, user: str | None, directory: Path | None, wait_seconds: float, as_json: bool
) -> None:
    """Prepare EXERCISE on LAB, and say what is to do. Run again, it begins anew."""
    from emulator.cli.render.teaching.exercises import started_json, started_text
    from emulator.operations.exercises import start
    from emulator.wiring import real_environment

    wanted, env = _wanted(lab, exercise, directory, user), real_environment()
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "exercise"),
        reporting(live=True) as reporter,
    ):
        setting = start(env, wanted, reporter, stop, wait_seconds=wait_seconds)
    if as_json:
        print_json(started_json(setting))
    else:
        say(started_text(setting))


@command.command("hint")
@lab_argument
@exercise_argument
@_who_and_where
@json_option
def hint(lab: str, exercise: str, *, user: str | None, directory: Path | None, as_json: bool) -> None:
    """Give the next hint of EXERCISE. The grade says how many were given."""
    from emulator.operations.exercises import hint
    from emulator.wiring import real_environment

    given = hint(real_environment(), _wanted(lab, exercise, directory, user))
    if as_json:
        shown = {"exercise": exercise, "hint": given.text, "number": given.number, "of": given.of}
        print_json({"version": 1, "lab": lab, **shown})
    else:
        say(f"Hint {given.number} of {given.of}: {given.text.strip()}")


@command.command("grade")
@lab_argument
@exercise_argument
@_who_and_where
@json_option
def grade(lab: str, exercise: str, *, user: str | None, directory: Path | None, as_json: bool) -> None:
    """Grade EXERCISE as it is now, and change nothing. The exit code is 0 if all points were reached, else 1."""
    from emulator.cli.render.teaching.exercises import grade_json, grade_text
    from emulator.operations.exercises import grade_exercise
    from emulator.wiring import real_environment

    wanted, env = _wanted(lab, exercise, directory, user), real_environment()
    with run_log(env.home.lab(lab).logs, "exercise"):
        done = grade_exercise(env, wanted)
    if as_json:
        print_json(grade_json(done))
    else:
        say(grade_text(done))
    if not done.solved:
        sys.exit(ExitCode.FAILED)


@command.command("end")
@lab_argument
@exercise_argument
@_who_and_where
@wait_option
def end(lab: str, exercise: str, *, user: str | None, directory: Path | None, wait_seconds: float) -> None:
    """Take back what `start` prepared. Run again, it finds nothing to do."""
    from emulator.operations.exercises import end
    from emulator.wiring import real_environment

    wanted, env = _wanted(lab, exercise, directory, user), real_environment()
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "exercise"),
        reporting(live=True) as reporter,
    ):
        end(env, wanted, reporter, stop, wait_seconds=wait_seconds)
    say(f"{lab}: the exercise {exercise} was taken back")
