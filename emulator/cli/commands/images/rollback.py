"""hyperscaler image rollback NAME"""

from __future__ import annotations

import click

from emulator.cli.output import json_option
from emulator.cli.render.images import print_image


@click.command("rollback")
@click.argument("name")
@json_option
def command(name: str, *, as_json: bool) -> None:
    """Make the build of NAME that was current before the current one again. A second rollback undoes the first."""
    from emulator.images.store.tags import rollback
    from emulator.wiring import image_store

    print_image(rollback(image_store(), name), as_json=as_json)
