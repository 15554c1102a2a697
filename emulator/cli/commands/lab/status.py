"""hyperscaler status [LAB]"""

from __future__ import annotations

import click

from emulator.cli.options import refuse_file_name
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.status import labs_json, labs_table, print_status
from emulator.cli.render.tables import show


@click.command("status")
@click.argument("lab", required=False)
@json_option
def command(lab: str | None, *, as_json: bool) -> None:
    """Show the labs of this host, or the nodes of LAB. Takes no lock, so it works while a lab is being made."""
    from emulator.operations.status import lab_status, list_labs
    from emulator.wiring import real_environment

    env = real_environment()
    if lab is not None:
        refuse_file_name(lab)
        status = lab_status(env, lab)
        if as_json:
            print_json(status.to_json())
        else:
            print_status(status)
        return
    labs = list_labs(env)
    if as_json:
        print_json(labs_json(labs))
    elif labs:
        show(labs_table(labs))
    else:
        say("no labs on this host; `hyperscaler provision config/demo.yaml` makes one")
