"""hyperscaler destroy LAB"""

from __future__ import annotations

import click

from emulator.cli.options import confirmed, lab_argument, print_plan, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals
from emulator.plan.model import Plan


@click.command("destroy")
@lab_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--missing-ok", is_flag=True, help="Exit with 0 if there is no such lab.")
@wait_option
@json_option
def command(lab: str, *, yes: bool, missing_ok: bool, wait_seconds: float, as_json: bool) -> None:
    """Remove LAB: domains, disks, networks, its hypervisor, keys and state. Golden images stay."""
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.destroy import destroy
    from emulator.wiring import real_environment

    require_lab_name(lab)
    env = real_environment()

    def confirm(plan: Plan) -> bool:
        if not yes:
            print_plan(plan, err=True)
        return confirmed(f"Remove lab {lab} with everything on its disks?", yes=yes)

    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "destroy"),
        reporting(live=yes) as reporter,
    ):
        result = destroy(env, lab, reporter, stop, confirm=confirm, wait_seconds=wait_seconds, missing_ok=missing_ok)
    if as_json:
        done = not (result.declined or result.missing)
        print_json({"version": 1, "lab": lab, "destroyed": done, "missing": result.missing, **result.plan.to_json()})
    elif result.missing:
        say(f"there is no lab {lab}")
    else:
        say("nothing was changed" if result.declined else f"{lab}: gone ({len(result.plan.changes)} removed)")
