"""hyperscaler suspend LAB"""

from __future__ import annotations

import click

from emulator.cli.options import lab_argument, load_by_name, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals


@click.command("suspend")
@lab_argument
@wait_option
@json_option
@needs_host
def command(lab: str, *, wait_seconds: float, as_json: bool) -> None:
    """Write the memory of all machines of LAB to files, and free it; `resume` lets them go on, jobs included.

    It outlasts a reboot of this host.
    """
    from emulator.cli.render.snapshots.text import size_text
    from emulator.operations.snapshots.rest import suspend_lab
    from emulator.wiring import real_environment

    env = real_environment()
    load_by_name(env, lab)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "suspend"),
        reporting(live=True) as reporter,
    ):
        done = suspend_lab(env, lab, reporter, stop, wait_seconds=wait_seconds)
    if as_json:
        shown = {"memory_mib": done.memory_mib, "space_bytes": done.space_bytes}
        print_json({"version": 1, "lab": lab, **shown})
    else:
        say(f"{lab} is suspended; {size_text(done.space_bytes)} on the disk keep what its machines had in memory")
