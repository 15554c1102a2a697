"""hyperscaler image packer-files NAME DIRECTORY"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting


@click.command("packer-files")
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--base", default="debian-base", show_default=True, help="Image that Packer's machine starts from.")
@click.option(
    "--with-passwords",
    "passwords",
    is_flag=True,
    help="Also write package sources and a proxy that hold a password. For qemu.base only: during qemu.installer"
    " every account of this host could read them.",
)
@json_option
def command(name: str, directory: Path, *, base: str, passwords: bool, as_json: bool) -> None:
    """Write what packer/image.pkr.hcl needs into the new DIRECTORY, from the recipe NAME. See packer/README.md."""
    from emulator.operations.images.packer import build_command, write_files
    from emulator.wiring import images_of_host, real_environment

    with reporting(live=True) as reporter:
        variables = write_files(
            real_environment(), images_of_host(), name, directory, reporter, base=base, passwords=passwords
        )
    if as_json:
        print_json({"version": 1, "name": name, "directory": str(variables.parent), "variables": str(variables)})
    else:
        say(build_command(variables))
