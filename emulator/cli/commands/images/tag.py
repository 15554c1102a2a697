"""hyperscaler image tag REF TAG"""

from __future__ import annotations

import click

from emulator.cli.output import json_option
from emulator.cli.render.images import print_image


@click.command("tag")
@click.argument("ref")
@click.argument("tag")
@json_option
def command(ref: str, tag: str, *, as_json: bool) -> None:
    """Give the image REF the tag TAG; NAME:TAG then names it, also in a lab file."""
    from emulator.images.store.tags import tag_image
    from emulator.wiring import image_store

    print_image(tag_image(image_store(), ref, tag), as_json=as_json)
