"""hyperscaler image show REF"""

from __future__ import annotations

import sys

import click

from emulator.cli.output import json_option, print_json
from emulator.cli.render.images import image_fields, name_fields, print_fields
from emulator.core.errors import ExitCode


@click.command("show")
@click.argument("ref")
@click.option("--packages", is_flag=True, help="Also list the packages with their versions.")
@click.option("--verify", is_flag=True, help="Compare the files with the manifest's checksums; exit 1 if they differ.")
@json_option
def command(ref: str, *, packages: bool, verify: bool, as_json: bool) -> None:
    """Show the image REF, a name or the beginning of a digest: kernel, sizes, the checksums of its files."""
    from emulator.images.store.tags import names_of
    from emulator.wiring import image_store

    store = image_store()
    image = store.show(ref)
    faults = store.verify(image) if verify else []
    checked = {**image.manifest.artefacts, **image.manifest.records}
    fields = (
        image_fields(image)
        | name_fields(names_of(store, image))
        | {"sha256": {name: file.sha256 for name, file in checked.items()}}
    )
    if packages or as_json:
        fields["packages"] = dict(image.manifest.packages)
    if verify:
        fields["faults"] = faults
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)
    sys.exit(ExitCode.FAILED if faults else ExitCode.DONE)
