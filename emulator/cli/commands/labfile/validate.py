"""hyperscaler validate FILE"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from emulator.cli.options import file_argument, print_findings
from emulator.cli.output import json_option, print_json, say
from emulator.core.errors import ExitCode


@click.command("validate")
@file_argument
@click.option("--host", is_flag=True, help="Also check that this machine can carry the lab.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@json_option
def command(file: Path, *, host: bool, strict: bool, as_json: bool) -> None:
    """Check a lab FILE and report every fault at once; `-` reads standard input.

    The file alone is judged, so a lab for a big workstation can be checked on a laptop; --host adds whether it
    fits on this machine. Exit code 3 when there is an error.
    """
    from emulator.operations.validate import validate

    env = None
    if host:
        from emulator.wiring import real_environment

        env = real_environment()
    stream = sys.stdin.buffer if str(file) == "-" else None
    file = Path("stdin") if stream else file
    report = validate(file, env, stream)
    failed = report.has_errors(strict=strict)
    if as_json:
        print_json({"version": 1, **report.to_json(), "valid": not failed})
    else:
        print_findings(report)
        errors, warnings = _count(len(report.errors), "error"), _count(len(report.warnings), "warning")
        if not failed:
            say(f"{file}: valid" + (f", {warnings}" if report.warnings else ""))
        else:
            say(f"{file}: {errors}, {warnings}", err=True)
    sys.exit(ExitCode.INVALID_CONFIG if failed else ExitCode.DONE)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
