"""hyperscaler resume LAB"""

from __future__ import annotations

import click

from emulator.cli.options import lab_argument, load_by_name, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.render.summary import checks_json, checks_text
from emulator.cli.signals import stop_on_signals


@click.command("resume")
@lab_argument
@click.option("--no-verify", is_flag=True, help="Do not try the clusters afterwards.")
@wait_option
@json_option
@needs_host
def command(lab: str, *, no_verify: bool, wait_seconds: float, as_json: bool) -> None:
    """Let the suspended LAB go on where it was. Who lost access meanwhile does not get it back."""
    from emulator.operations.snapshots.rest import resume_lab
    from emulator.wiring import real_environment

    env = real_environment()
    load_by_name(env, lab)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "resume"),
        reporting(live=True) as reporter,
    ):
        checks = resume_lab(env, lab, reporter, stop, verify=not no_verify, wait_seconds=wait_seconds)
    if as_json:
        print_json({"version": 1, "lab": lab, "checks": checks_json(checks)})
        return
    say(f"{lab} goes on")
    if checks:
        say(checks_text(checks))
