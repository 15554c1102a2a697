"""hyperscaler image verify REF"""

from __future__ import annotations

import click

from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.images import image_fields


@click.command("verify")
@click.argument("ref")
@json_option
def command(ref: str, *, as_json: bool) -> None:
    """Compare the image REF with its checksums, and check that a trusted signer signed it if there are any."""
    from emulator.operations.images.golden import verify_image
    from emulator.wiring import image_signatures, image_store

    image, signer = verify_image(image_store(), image_signatures(), ref)
    if as_json:
        print_json({**image_fields(image), "signed_by": signer})
    else:
        by = f"signed by {signer}" if signer else "no signature asked for"
        say(f"{image.name} {image.digest[:12]} is as it was built; {by}")
