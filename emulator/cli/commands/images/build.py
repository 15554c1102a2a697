"""hyperscaler image build NAME"""

from __future__ import annotations

import click

from emulator.cli.output import json_option
from emulator.cli.render.images import print_image
from emulator.cli.render.progress import reporting
from emulator.cli.signals import ended_by_signals


@click.command("build")
@click.argument("name")
@click.option("--force", is_flag=True, help="Build even if the store has the current recipe.")
@click.option("--tag", help="Give the image this tag.")
@json_option
def command(name: str, *, force: bool, tag: str | None, as_json: bool) -> None:
    """Build the image NAME (hpc-base) from Debian packages, unless it is up to date."""
    from emulator.images.store.pointers import require_tag
    from emulator.images.store.tags import tag_image
    from emulator.operations.images.golden import build_image
    from emulator.wiring import images_of_host

    if tag is not None:
        require_tag(tag)
    images = images_of_host()
    with ended_by_signals(lambda: "the image store is as it was"), reporting(live=True) as reporter:
        image = build_image(images, name, reporter, force=force)
    if tag is not None:
        tag_image(images.store, f"{image.name}@{image.digest}", tag)
    print_image(image, as_json=as_json)
