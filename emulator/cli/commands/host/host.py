"""hyperscaler host check|prepare|restore|enable-autostart|disable-autostart"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from emulator.cli.commands.host.check import check
from emulator.cli.commands.host.prepare import prepare, restore
from emulator.cli.options import lab_argument
from emulator.cli.render.progress import reporting


@click.group("host")
def command() -> None:
    """This machine as a host of labs."""


command.add_command(check)
command.add_command(prepare)
command.add_command(restore)


@command.command("enable-autostart")
@lab_argument
def enable_autostart(lab: str) -> None:
    """Have LAB brought back when this machine starts: GPUs first, then networks and nodes, then a verification."""
    from emulator.operations.host.autostart import enable_autostart, unit_name
    from emulator.wiring import real_environment

    program = Path(sys.argv[0]).absolute()
    with reporting(live=False) as reporter:
        changed = enable_autostart(real_environment(), lab, program, reporter)
    click.echo(f"{lab}: {unit_name(lab)} is {'now' if changed else 'already'} started with this machine")


@command.command("disable-autostart")
@lab_argument
def disable_autostart(lab: str) -> None:
    """Leave LAB off when this machine starts. What runs now goes on."""
    from emulator.operations.host.autostart import disable_autostart
    from emulator.wiring import real_environment

    with reporting(live=False) as reporter:
        removed = disable_autostart(real_environment(), lab, reporter)
    click.echo(f"{lab}: {'no longer' if removed else 'was not'} started with this machine")
