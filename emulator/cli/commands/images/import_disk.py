"""hyperscaler image import DIRECTORY"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.output import json_option
from emulator.cli.render.images import print_image
from emulator.cli.render.progress import reporting
from emulator.cli.signals import ended_by_signals


@click.command("import")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--disk", type=click.Path(path_type=Path), help="The disk, if it is not in DIRECTORY/output-*.")
@click.option("--tag", help="Give the image this tag.")
@json_option
def command(directory: Path, *, disk: Path | None, tag: str | None, as_json: bool) -> None:
    """Take the disk of a Packer build into the store; DIRECTORY is what packer-files wrote."""
    from emulator.images.store.pointers import require_tag
    from emulator.images.store.tags import tag_image
    from emulator.operations.images.packer import import_disk
    from emulator.wiring import images_of_host, real_environment

    if tag is not None:
        require_tag(tag)
    images = images_of_host()
    with ended_by_signals(lambda: "the image store is as it was"), reporting(live=True) as reporter:
        image = import_disk(real_environment(), images, directory, disk, reporter)
    if tag is not None:
        tag_image(images.store, f"{image.name}@{image.digest}", tag)
    print_image(image, as_json=as_json)
