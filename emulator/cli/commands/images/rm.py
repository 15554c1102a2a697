"""hyperscaler image rm REF"""

from __future__ import annotations

import click

from emulator.cli.options import confirmed
from emulator.cli.output import json_option, say
from emulator.cli.render.images import print_removed


@click.command("rm")
@click.argument("ref")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def command(ref: str, *, yes: bool, as_json: bool) -> None:
    """Remove the image REF. Refused while a lab's disk is based on it."""
    from emulator.operations.images.golden import remove_image
    from emulator.wiring import image_store, real_environment

    store = image_store()
    image = store.show(ref)
    current = store.current(image.name)
    what = "the present" if current is not None and current.digest == image.digest else "an old"
    if not confirmed(f"Remove {what} image {image.name} {image.digest[:12]}?", yes=yes):
        say("nothing was removed")
        return
    print_removed([remove_image(real_environment(), image_store(), ref)], as_json=as_json)
