"""hyperscaler gpu top [LAB]"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emulator.cli.output import json_option, print_json
from emulator.cli.render.tables import show

if TYPE_CHECKING:
    pass


@click.command("top")
@click.argument("lab", required=False)
@json_option
def command(lab: str | None, *, as_json: bool) -> None:
    """Show memory and utilisation of GPUs and slices, and which node holds each; of LAB, or of the whole host."""
    from emulator.cli.render.gpu import usage_json, usage_table
    from emulator.lab.environment import host_gpus
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.gpu.reports import gpus_of_lab, recorded_states, usage
    from emulator.wiring import real_environment

    env = real_environment()
    if lab is None:
        host = host_gpus(env)
    else:
        require_lab_name(lab)
        host = gpus_of_lab(env, lab)
    gpus = usage(host, recorded_states(env.home, lab))
    if as_json:
        print_json({"version": 1, "lab": lab, "boards": usage_json(gpus)})
    else:
        show(usage_table(gpus))
