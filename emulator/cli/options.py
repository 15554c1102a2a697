"""What the verbs that take a lab file or a lab name share."""

from __future__ import annotations

import math
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from emulator.cli.output import Styled, say
from emulator.core.errors import UsageError
from emulator.core.extras import require_host_libraries

if TYPE_CHECKING:
    from emulator.lab.lab_files import LoadedLab
    from emulator.labfile.findings import Report
    from emulator.plan.model import Plan

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# By the name of the action.
_COLOURS = {
    "CREATE": "green",
    "ADOPT": "cyan",
    "UPDATE": "yellow",
    "REPAIR": "yellow",
    "REPLACE": "magenta",
    "DELETE": "red",
}

file_argument = click.argument("file", type=click.Path(path_type=Path))
lab_argument = click.argument("lab")


def _seconds(_context: click.Context, _option: click.Parameter, value: float) -> float:
    """A time to wait. Every comparison with `nan` is false, so that such a wait would never end."""
    if not (math.isfinite(value) and value >= 0):
        raise click.BadParameter("a number of seconds, 0 or more")
    return value


wait_option = click.option(
    "--wait",
    "wait_seconds",
    type=float,
    default=0.0,
    callback=_seconds,
    metavar="SECONDS",
    help="Wait for the lab's lock.",
)


def needs_host(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A verb that cannot do its work without libvirt and Ansible refuses before it has done anything."""

    @wraps(function)
    def checked(*words: Parameters.args, **options: Parameters.kwargs) -> Result:
        require_host_libraries()
        return function(*words, **options)

    return checked


def print_findings(report: Report, *, quiet_warnings: bool = False) -> None:
    """All findings on stderr, errors in red."""
    for finding in report.findings:
        if quiet_warnings and finding.severity.value == "warning":
            continue
        word = f"{finding.severity.value}:"
        before, found, after = finding.render().partition(word)
        colour = "red" if finding.severity.value == "error" else "yellow"
        say(before, Styled(found, colour, bold=True), after, err=True)


def print_plan(plan: Plan, *, err: bool = False) -> None:
    """The plan, one change a line: sign, kind, name on the host and the reason."""
    if plan.is_empty:
        say(f"{plan.lab}: nothing to change", err=err)
    for change in plan.changes:
        kind, _, name = change.resource.id.partition("/")
        shown = f"{plan.lab}-{name}" if kind in ("domain", "volume", "network") else name
        line = f"{change.action.sign} {kind} {shown}: {change.reason}"
        say(Styled(line, _COLOURS[change.action.name]), err=err, wrap=True)
    for blocker in plan.blockers:
        line = f"x {blocker.resource_id}: {blocker.what}\n    fix: {blocker.fix}"
        say(Styled(line, "red", bold=True), err=err, wrap=True)
    for note in plan.notes:
        say(f"note: {note}", err=err, wrap=True)
    if plan.changes:
        say(_counted(plan), err=True)


def _counted(plan: Plan) -> str:
    """How many changes of each kind: what the signs mean, too."""
    counts = Counter(change.action for change in plan.changes)
    return ", ".join(f"{action.sign} {number} to {action.value}" for action, number in counts.items())


def load(file: Path) -> LoadedLab:
    """The lab of a file; findings are printed, and errors end the command with exit code 3."""
    from emulator.lab.lab_files import load_lab_file

    loaded = load_lab_file(file)
    print_findings(loaded.report)
    loaded.require_valid()
    return loaded


def load_by_name(env: Any, lab: str) -> LoadedLab:
    """The lab as last provisioned. A file name is taken for what people mean by it."""
    from emulator.lab.lab_files import load_recorded_lab

    refuse_file_name(lab)
    return load_recorded_lab(env.home, lab)


def refuse_file_name(lab: str) -> None:
    """Raises: UsageError for the name of a file in the place of a lab's."""
    if "/" in lab or lab.endswith((".yaml", ".yml")):
        raise UsageError(
            f"{lab} looks like a file; this command takes the lab's name",
            fix="hyperscaler status lists the labs; the name is metadata.name in the file",
        )


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask on the terminal; without one, only `--yes` will do."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("no terminal to confirm on", fix="use --yes to go on without a question")
    # While nothing is under way, one Ctrl-C is enough.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, previous)
