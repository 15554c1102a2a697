"""hyperscaler host check [FILE]"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from emulator.cli.output import json_option, print_json, say
from emulator.core.errors import ExitCode


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--verbose", "-v", is_flag=True, help="Say why each check matters, also of those that pass.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Check the host that was recorded in this directory.",
)
@json_option
def check(file: Path | None, root: Path | None, *, verbose: bool, as_json: bool) -> None:
    """Check whether this machine can run labs, or the lab in FILE.

    Changes nothing, and works as an ordinary user, with a list of what only root can see. Exit code 4 when something
    fails.
    """
    from emulator.cli.render.host_check import host_report_json, host_report_lines
    from emulator.core.paths import Home
    from emulator.operations.host.check import check_host
    from emulator.wiring import host_reader

    report = check_host(host_reader(root), file, Home.default() if root is None else None)
    if as_json:
        print_json(host_report_json(report))
    else:
        for line in host_report_lines(report, verbose=verbose, subject=str(root or "this host")):
            say(*line)
    sys.exit(ExitCode.HOST_NOT_FIT if report.failed else ExitCode.DONE)
