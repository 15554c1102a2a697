"""hyperscaler status [LAB]"""

from __future__ import annotations

import click

from emulator.cli.options import refuse_file_name
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.status import labs_json, labs_table, print_clusters, print_known, print_status
from emulator.cli.render.tables import show


@click.command("status")
@click.argument("lab", required=False)
@json_option
def command(lab: str | None, *, as_json: bool) -> None:
    """Show the labs of this host, or the nodes of LAB. Takes no lock, so it works while a lab is being made."""
    from emulator.operations.status import LabStatus, lab_status, list_labs
    from emulator.wiring import real_environment

    env = real_environment()
    if lab is not None:
        refuse_file_name(lab)
        if as_json:
            print_json(lab_status(env, lab).to_json())
            return
        # A cluster may take a minute for its answer on a busy host: all else is shown before.
        known: list[LabStatus] = []

        def on_known(status: LabStatus, seconds: float) -> None:
            known.append(status)
            print_known(status, seconds)

        status = lab_status(env, lab, on_known=on_known)
        if not known:
            print_status(status)
        print_clusters(status)
        return
    labs = list_labs(env)
    if as_json:
        print_json(labs_json(labs))
    elif labs:
        show(labs_table(labs))
    else:
        say("no labs on this host; `hyperscaler provision config/demo.yaml` makes one")
