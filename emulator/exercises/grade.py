"""Grading: what the checks' commands come to, and what that is worth.

What a node prints is the word of those who are root there. It is read up to a limit and compared as a whole; it is
never searched, evaluated or run, here or elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from emulator.core.errors import CommandError, CommandTimeoutError, HyperscalerError
from emulator.core.ports import Completed, GuestShell
from emulator.core.units import natural, printable
from emulator.exercises.model import Check, Command, Expectation
from emulator.exercises.setting import Setting

MOST_OUTPUT = 65536
"""Characters of an answer that are looked at. A longer one is wrong."""

_QUOTED = 200
_SSH_FAILED = 255


class Result(StrEnum):
    """What came of a check. One without an answer says nothing of the student's work: it may be asked again."""

    PASSED = "passed"
    FAILED = "failed"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Graded:
    """A check's result.

    Attributes:
        check: of the exercise.
        result: what came of it.
        why: for the student, what is missing; for one without an answer, why there is none.
        seen: the beginning of what was printed, made printable; empty where that says nothing.
    """

    check: Check
    result: Result
    why: str = ""
    seen: str = ""

    @property
    def points(self) -> int:
        return self.check.points if self.result is Result.PASSED else 0


@dataclass(frozen=True, slots=True)
class Grade:
    """All checks of an exercise for one student. `late`: it was graded after the student's time was over."""

    setting: Setting
    checks: tuple[Graded, ...]
    late: bool = False
    hints: int = 0

    @property
    def points(self) -> int:
        return sum(each.points for each in self.checks)

    @property
    def solved(self) -> bool:
        return all(each.result is Result.PASSED for each in self.checks)

    @property
    def unanswered(self) -> tuple[Graded, ...]:
        return tuple(each for each in self.checks if each.result is Result.UNANSWERED)


def grade(setting: Setting, shell: GuestShell) -> tuple[Graded, ...]:
    """Ask the nodes, one check after the other."""
    return tuple(_graded(check, setting, shell) for check in setting.exercise.checks)


def _graded(check: Check, setting: Setting, shell: GuestShell) -> Graded:
    try:
        stdin = None
        if check.input_from is not None:
            fed = _run(check.input_from, setting, shell)
            if len(fed.stdout) > MOST_OUTPUT:
                return _too_much(check)
            stdin = fed.stdout
        done = _run(check, setting, shell, stdin)
    except _NoAnswerError as error:
        return Graded(check, Result.UNANSWERED, error.what)
    except _FloodError:
        return _too_much(check)
    if len(done.stdout) > MOST_OUTPUT:
        return _too_much(check)
    if holds(check.expect, done):
        return Graded(check, Result.PASSED)
    return Graded(check, Result.FAILED, check.otherwise, printable(done.stdout.strip()[:_QUOTED]))


def holds(expect: Expectation, done: Completed) -> bool:
    """Whether a command came to what was expected."""
    if done.returncode != expect.exit:
        return False
    printed = done.stdout.strip()
    if expect.prints is not None and printed != expect.prints.strip():
        return False
    if expect.at_least is not None:
        number = natural(printed)
        return number is not None and number >= expect.at_least
    return True


def run_command(command: Command, setting: Setting, shell: GuestShell) -> None:
    """Carry out a command that prepares or takes back.

    Raises:
        HyperscalerError: it failed, or the node gave no answer.
    """
    node = setting.node(command.node)
    done = shell.run(node, setting.line(command), timeout=command.seconds, check=False)
    if done.returncode == 0:
        return
    said = printable((done.stderr.strip() or done.stdout.strip())[-_QUOTED:])
    raise HyperscalerError(
        f"a command of the exercise {setting.exercise.name} failed with exit status {done.returncode}: {said}",
        where=f"{node.name}, as {command.run_as.value}",
        fix=f"run the same command again; `hyperscaler verify {setting.spec.name}` looks at the lab itself",
    )


class _NoAnswerError(HyperscalerError):
    """A node did not answer: nothing is known."""


class _FloodError(HyperscalerError):
    """A node printed without end."""


def _too_much(check: Check) -> Graded:
    return Graded(check, Result.FAILED, "the node printed more than an answer can be")


def _run(command: Command, setting: Setting, shell: GuestShell, stdin: str | None = None) -> Completed:
    node = setting.node(command.node)
    try:
        done = shell.run(node, setting.line(command), timeout=command.seconds, check=False, stdin=stdin)
    except CommandTimeoutError as error:
        raise _NoAnswerError(f"{node.name} gave no answer in time; grade again") from error
    except CommandError as error:  # with check=False only more output than is taken
        raise _FloodError(error.what) from error
    if done.returncode == _SSH_FAILED:
        raise _NoAnswerError(f"{node.name} cannot be reached: {printable(done.stderr.strip()[:_QUOTED])}")
    return done
