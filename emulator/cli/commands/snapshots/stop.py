"""hyperscaler stop LAB"""

from __future__ import annotations

import click

from emulator.cli.options import confirmed, lab_argument, load_by_name, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import paused, reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals


@click.command("stop")
@lab_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option
@json_option
@needs_host
def command(lab: str, *, yes: bool, wait_seconds: float, as_json: bool) -> None:
    """Shut all machines of LAB down, workers before the nodes that they depend on. `start` lets it run again."""
    from emulator.operations.snapshots.rest import stop_lab
    from emulator.wiring import real_environment

    env = real_environment()
    load_by_name(env, lab)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "stop"),
        reporting(live=True) as reporter,
    ):

        def confirm() -> bool:
            with paused(reporter):
                return confirmed(f"Shut all machines of {lab} down? Jobs and pods end.", yes=yes)

        done = stop_lab(env, lab, reporter, stop, confirm=confirm, wait_seconds=wait_seconds)
    if as_json:
        print_json({"version": 1, "lab": lab, "stopped": done})
    else:
        say(f"{lab} is stopped; hyperscaler start {lab} lets it run again" if done else "nothing was changed")
