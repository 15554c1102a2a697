"""hyperscaler image untag NAME:TAG"""

from __future__ import annotations

import click


@click.command("untag")
@click.argument("ref")
def command(ref: str) -> None:
    """Remove a tag, given as NAME:TAG. The image stays."""
    from emulator.images.store.tags import untag_image
    from emulator.wiring import image_store

    untag_image(image_store(), ref)
