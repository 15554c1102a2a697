"""hyperscaler gpu map LAB"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emulator.cli.options import lab_argument
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.tables import show
from emulator.core.paths import Home

if TYPE_CHECKING:
    pass


@click.command("map")
@lab_argument
@json_option
def command(lab: str, *, as_json: bool) -> None:
    """Print which node of LAB holds which slice: GPU, profile, placement, GPU instance, vGPU."""
    from emulator.cli.render.gpu import map_table
    from emulator.operations.gpu.reports import recorded_mdev_map

    data = recorded_mdev_map(Home.default(), lab)
    if as_json:
        print_json(data)
    elif data["nodes"]:
        show(map_table(data))
    else:
        say(f"{lab} holds no GPU")
