"""hyperscaler provision FILE"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.options import confirmed, file_argument, load, needs_host, print_plan, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import paused, reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.render.summary import provision_json, provision_summary
from emulator.cli.signals import stop_on_signals
from emulator.plan.model import Plan


@click.command("provision")
@file_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask before changing the host.")
@wait_option
@click.option("--expect-plan", metavar="DIGEST", help="Refuse any plan but the one `plan` printed.")
@click.option("--plain", is_flag=True, help="Plain progress lines, also on a terminal.")
@json_option
@needs_host
def command(file: Path, *, yes: bool, wait_seconds: float, expect_plan: str | None, plain: bool, as_json: bool) -> None:
    """Bring this host to what FILE asks for, configure the clusters and verify them.

    Asks first, unless there is nothing to change. Run again it changes nothing; run after an interruption it
    goes on; after an edit of the file it applies the difference.
    """
    from emulator.operations.provision import Options, provision
    from emulator.wiring import real_environment

    loaded = load(file)
    env = real_environment()

    def confirm(plan: Plan) -> bool:
        if plan.is_empty:
            return True
        with paused(reporter):
            print_plan(plan, err=True)
            return confirmed(f"Apply {len(plan.changes)} changes to this host?", yes=yes)

    options = Options(confirm=confirm, expected_plan=expect_plan, wait_seconds=wait_seconds)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(loaded.spec.name).logs, "provision"),
        reporting(live=not plain) as reporter,
    ):
        result = provision(env, loaded, options, reporter, stop)
    if as_json:
        print_json(provision_json(loaded.spec, result))
    else:
        say(provision_summary(loaded.spec, result))
