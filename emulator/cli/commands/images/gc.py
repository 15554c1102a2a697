"""hyperscaler image gc"""

from __future__ import annotations

import click

from emulator.cli.output import json_option
from emulator.cli.render.images import print_removed


@click.command("gc")
@click.option(
    "--keep", type=click.IntRange(min=1), default=1, show_default=True, help="How many builds of each name to keep."
)
@click.option("--all", "chosen", is_flag=True, help="Also those with a tag, and the one that a rollback returns to.")
@json_option
def command(*, keep: int, chosen: bool, as_json: bool) -> None:
    """Remove old images that no lab uses, and what interrupted builds left behind."""
    from emulator.operations.images.golden import collect_images
    from emulator.wiring import image_store, real_environment

    print_removed(collect_images(real_environment(), image_store(), keep=keep, chosen=chosen), as_json=as_json)
