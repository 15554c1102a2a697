"""hyperscaler gpu release LAB"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emulator.cli.options import confirmed, lab_argument, print_plan, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals

if TYPE_CHECKING:
    from emulator.plan.model import Plan


@click.command("release")
@lab_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option
@json_option
def command(lab: str, *, yes: bool, wait_seconds: float, as_json: bool) -> None:
    """Give back what LAB has on the host's GPUs; the rest of the lab stays. Refused while its guests run."""
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.gpu.release import release
    from emulator.wiring import real_environment

    require_lab_name(lab)
    env = real_environment()

    def confirm(plan: Plan) -> bool:
        if not yes:
            print_plan(plan, err=True)
        return confirmed(f"Give back the GPUs of lab {lab}?", yes=yes)

    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "gpu-release"),
        reporting(live=yes) as reporter,
    ):
        result = release(env, lab, reporter, stop, confirm=confirm, wait_seconds=wait_seconds)
    if as_json:
        print_json({**result.plan.to_json(), "released": not result.declined})
    elif result.plan.is_empty:
        say(f"{lab} has nothing on the host's GPUs")
    else:
        gone = f"{lab}: {len(result.plan.changes)} GPU resources given back"
        say("nothing was changed" if result.declined else gone)
