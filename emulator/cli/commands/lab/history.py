"""hyperscaler history [LAB]"""

from __future__ import annotations

import click

from emulator.cli.output import json_option, print_json


@click.command("history")
@click.argument("lab", required=False)
@click.option(
    "-n", "last", type=click.IntRange(min=0), default=20, show_default=True, help="How many entries; 0 for all."
)
@json_option
def command(lab: str | None, *, last: int, as_json: bool) -> None:
    """Show who changed what on this host: one LAB, or all, removed ones included."""
    from emulator.cli.render.history import print_history
    from emulator.operations.history import history
    from emulator.wiring import real_environment

    found = history(real_environment(), lab, last=last)
    if as_json:
        print_json(found.to_json())
    else:
        print_history(found, lab)
