"""hyperscaler verify LAB"""

from __future__ import annotations

import click

from emulator.cli.options import lab_argument, load_by_name, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.render.summary import checks_json, checks_text


@click.command("verify")
@lab_argument
@wait_option
@json_option
@needs_host
def command(lab: str, *, wait_seconds: float, as_json: bool) -> None:
    """Prove that LAB works, by running jobs on it."""
    from emulator.operations.verify import verify
    from emulator.wiring import real_environment

    env = real_environment()
    load_by_name(env, lab)
    with run_log(env.home.lab(lab).logs, "verify"), reporting(live=True) as reporter:
        checks = verify(env, lab, reporter, wait_seconds=wait_seconds)
    if as_json:
        print_json({"version": 1, "lab": lab, "checks": checks_json(checks)})
    else:
        say(checks_text(checks))
