"""hyperscaler image list"""

from __future__ import annotations

import click

from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.images import image_fields, images_table, name_fields
from emulator.cli.render.tables import show


@click.command("list")
@json_option
def command(*, as_json: bool) -> None:
    """List the images of the store, the newest of each name first."""
    from emulator.core.debian.releases import image_of
    from emulator.images.store.tags import names_of
    from emulator.wiring import image_store

    store = image_store()
    images = [(image, names_of(store, image)) for image in store.list()]
    if as_json:
        print_json([image_fields(image) | name_fields(names) for image, names in images])
    elif images:
        show(images_table(images))
    else:
        name = image_of("hpc-base", None)
        say(f"no images yet; `hyperscaler image build {name}` makes one, and so does provision")
