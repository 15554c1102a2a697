"""hyperscaler image sign REF"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.output import json_option
from emulator.cli.render.images import print_image


@click.command("sign")
@click.argument("ref")
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="ssh private key, or an agent's public key."
)
@json_option
def command(ref: str, *, key: Path, as_json: bool) -> None:
    """Sign the image REF with an ssh key."""
    from emulator.wiring import image_signatures, image_store

    store = image_store()
    image = store.show(ref)
    image_signatures().sign(store, image, key)
    print_image(image, as_json=as_json)
