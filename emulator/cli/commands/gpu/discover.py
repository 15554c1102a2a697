"""hyperscaler gpu discover [FILE]"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emulator.cli.options import load
from emulator.cli.output import json_option, print_json, say
from emulator.core.errors import ExitCode

if TYPE_CHECKING:
    pass


@click.command("discover")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--file", "file_option", type=click.Path(path_type=Path), help="The same as FILE.")
@json_option
def command(file: Path | None, *, file_option: Path | None, as_json: bool) -> None:
    """Show every GPU of this host: MIG, slices, vGPUs, IOMMU group, who holds it. Changes nothing.

    With FILE the devices of a lab file are compared with them (exit 1 if they differ); if the file says `backend:
    simulated`, the simulated GPUs are shown.
    """
    from emulator.cli.render.gpu import discovery_json, print_discovery
    from emulator.host.gpu_demand import asks_for_whole_gpus
    from emulator.lab.environment import host_gpus
    from emulator.operations.gpu.reports import discover, gpus_of_file
    from emulator.wiring import real_environment

    chosen = file or file_option
    spec = load(chosen).spec if chosen else None
    env = real_environment()
    if spec is None:
        found = discover(host_gpus(env))
    else:
        found = discover(gpus_of_file(env, spec), spec.gpu.devices, whole=asks_for_whole_gpus(spec))
    if as_json:
        print_json(discovery_json(found))
    else:
        print_discovery(found)
    for item in found.differences if not as_json else ():
        say(f"differs: {item}\n  fix: {item.fix}", err=True)
    if found.differences:
        sys.exit(ExitCode.FAILED)
