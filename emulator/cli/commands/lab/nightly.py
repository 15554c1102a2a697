"""hyperscaler nightly FILE"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emulator.cli.options import file_argument, load, needs_host
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.signals import stop_on_signals
from emulator.core.errors import ExitCode, HyperscalerError, InterruptedRunError, UsageError

if TYPE_CHECKING:
    from emulator.core.ports.notifications import Message, Notifier
    from emulator.operations.nightly.model import Night

_FORMS = (".html", ".json")
_SENT = frozenset({"version", "lab", "file", "built", "started", "seconds", "good", "kept", "error"})
"""What a webhook gets of the report."""


@click.command("nightly")
@file_argument
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what the night has to say to this .html or .json file; may be given several times.",
)
@click.option(
    "--notify",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Who is notified of a failure, by mail or webhook; a file that only root can read.",
)
@click.option("--keep-images", is_flag=True, help="Take the golden images that there are.")
@click.option(
    "--place",
    type=click.Choice(["auto", "next-to", "in-place"]),
    default="auto",
    show_default=True,
    help="Next to the last good lab, or in its place. auto: what this host holds.",
)
@click.option("--keep-failed", is_flag=True, help="Leave a lab that failed as it is until the next night.")
@json_option
@needs_host
def command(
    file: Path,
    *,
    reports: Sequence[Path],
    notify: Path | None,
    keep_images: bool,
    place: str,
    keep_failed: bool,
    as_json: bool,
) -> None:
    """Build the lab of FILE from nothing, prove that it works, and keep the last good one if it does not.

    Asks nothing. The labs are called NAME-a and NAME-b in turn. The exit code is 0 after a good night, else 1.
    """
    from emulator.operations.nightly.model import Place
    from emulator.operations.nightly.rebuild import NightOptions, nightly
    from emulator.operations.nightly.report import headline, report_json, summary
    from emulator.wiring import nightly_builds, notifiers, real_environment

    _require_reports(reports)
    people = notifiers(notify) if notify is not None else ()
    chosen = {"auto": None, "next-to": Place.NEXT_TO, "in-place": Place.IN_PLACE}[place]
    options = NightOptions(not keep_images, chosen, keep_failed)
    try:
        loaded, env = load(file), real_environment()
        with stop_on_signals() as stop, reporting(live=False) as reporter:
            night = nightly(env, loaded, options, nightly_builds(loaded.spec), reporter, stop)
    except InterruptedRunError:
        raise
    except HyperscalerError as error:
        began = f"nightly rebuild of {file.name} could not begin"
        _notify(people, _message(began, str(error), {"error": error.to_json()}))
        raise
    _write(reports, night)
    if not night.good:
        data = {key: value for key, value in report_json(night).items() if key in _SENT}
        _notify(people, _message(headline(night), summary(night), data))
    if as_json:
        print_json(report_json(night))
    else:
        say(summary(night))
    if not night.good:
        sys.exit(ExitCode.FAILED)


def _require_reports(reports: Sequence[Path]) -> None:
    """Before hours of work: reports that can be written."""
    for path in reports:
        if path.suffix not in _FORMS:
            raise UsageError(f"a report is a {' or '.join(_FORMS)} file", where=str(path), fix="name it report.html")
        if not path.absolute().parent.is_dir():
            raise UsageError("there is no such directory", where=str(path.absolute().parent), fix="make it first")


def _write(reports: Sequence[Path], night: Night) -> None:
    from emulator.core.fs import write_whole
    from emulator.operations.nightly.report import report_html, report_json

    for path in reports:
        html = path.suffix == ".html"
        text = report_html(night) if html else json.dumps(report_json(night), indent=2) + "\n"
        try:
            write_whole(path, text.encode(), mode=0o644)
        except HyperscalerError as error:
            say(f"warning: {error}", err=True)


def _message(subject: str, text: str, data: dict[str, object]) -> Message:
    from emulator.core.ports.notifications import Message

    return Message(f"hyperscaler: {subject}", text, data)


def _notify(people: Sequence[Notifier], message: Message) -> None:
    """Notify all; one that cannot be reached keeps no other from it."""
    for each in people:
        try:
            each.send(message)
        except HyperscalerError as error:
            say(f"warning: {error}", err=True)
