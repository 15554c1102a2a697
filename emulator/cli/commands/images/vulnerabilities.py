"""hyperscaler image vulnerabilities REF"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.images import vulnerabilities_table
from emulator.cli.render.tables import show


@click.command("vulnerabilities")
@click.argument("ref")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The security tracker's data as a file.  [default: fetched]",
)
@click.option("--only-fixed", is_flag=True, help="Only those that an update of Debian fixes.")
@json_option
def command(ref: str, *, data: Path | None, only_fixed: bool, as_json: bool) -> None:
    """List known vulnerabilities of the packages of the image REF, as Debian's debsecan sees them."""
    from dataclasses import asdict

    from emulator.wiring import image_store, vulnerability_listing

    image = image_store().show(ref)
    found = vulnerability_listing().of(image, data=data, only_fixed=only_fixed)
    if as_json:
        rows = [asdict(item) for item in found]
        print_json({"version": 1, "name": image.name, "digest": image.digest, "vulnerabilities": rows})
        return
    if found:
        show(vulnerabilities_table(found))
    say(f"{len(found)} known vulnerabilities in {image.name} {image.digest[:12]}", err=True)
