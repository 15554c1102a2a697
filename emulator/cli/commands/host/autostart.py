"""hyperscaler host enable-autostart LAB, hyperscaler host disable-autostart LAB"""

from __future__ import annotations

import click

from emulator.cli.options import lab_argument
from emulator.cli.output import say
from emulator.cli.render.progress import reporting


@click.command("enable-autostart")
@lab_argument
def enable_autostart(lab: str) -> None:
    """Start LAB with this machine: GPUs first, then networks and nodes, then a verification."""
    from emulator.operations.host.autostart import enable_autostart, unit_name
    from emulator.operations.host.program import this_program
    from emulator.wiring import real_environment

    with reporting(live=False) as reporter:
        changed = enable_autostart(real_environment(), lab, this_program(), reporter)
    say(f"{lab}: {unit_name(lab)} is {'now' if changed else 'already'} started with this machine")


@click.command("disable-autostart")
@lab_argument
def disable_autostart(lab: str) -> None:
    """Do not start LAB with this machine. What runs now goes on."""
    from emulator.operations.host.autostart import disable_autostart
    from emulator.wiring import real_environment

    with reporting(live=False) as reporter:
        removed = disable_autostart(real_environment(), lab, reporter)
    say(f"{lab}: {'no longer' if removed else 'was not'} started with this machine")
