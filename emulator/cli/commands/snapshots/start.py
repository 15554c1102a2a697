"""hyperscaler start LAB"""

from __future__ import annotations

import click

from emulator.cli.options import lab_argument, load_by_name, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.render.summary import provision_json, provision_summary
from emulator.cli.signals import stop_on_signals


@click.command("start")
@lab_argument
@click.option("--cold", is_flag=True, help="A suspended lab as well: give up what its machines had in memory.")
@wait_option
@json_option
@needs_host
def command(lab: str, *, cold: bool, wait_seconds: float, as_json: bool) -> None:
    """Let the stopped LAB run again, as `provision` with its own file does."""
    from emulator.operations.snapshots.rest import start_lab
    from emulator.wiring import real_environment

    env = real_environment()
    loaded = load_by_name(env, lab)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "start"),
        reporting(live=True) as reporter,
    ):
        result = start_lab(env, lab, reporter, stop, cold=cold, wait_seconds=wait_seconds)
    if as_json:
        print_json(provision_json(loaded.spec, result))
    else:
        say(provision_summary(loaded.spec, result))
