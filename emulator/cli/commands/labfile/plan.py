"""hyperscaler plan FILE"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from emulator.cli.options import file_argument, load, print_plan
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import QuietReporter
from emulator.core.errors import ExitCode


@click.command("plan")
@file_argument
@json_option
def command(file: Path, *, as_json: bool) -> None:
    """Show exactly what provision would do with FILE, in order and with reasons. Nothing is changed."""
    from emulator.operations.provision import preview
    from emulator.wiring import real_environment

    loaded = load(file)
    plan = preview(real_environment(), loaded, QuietReporter())
    if as_json:
        print_json(plan.to_json())
    else:
        print_plan(plan)
        say(f"plan {plan.digest} (`provision --expect-plan` refuses any other)", err=True)
    if plan.blockers:
        sys.exit(ExitCode.CONFLICT)
