"""hyperscaler image build|list|show|rm|gc"""

from __future__ import annotations

from typing import Any

import click

from emulator.cli.console import reporting
from emulator.cli.output import json_option, print_json


@click.group("image")
def command() -> None:
    """Build, list and remove golden images. Labs share them; an image that a disk stands on is never removed."""


@command.command("build")
@click.argument("name")
@click.option("--force", is_flag=True, help="Build even if the store has the current recipe.")
@json_option
def build(name: str, *, force: bool, as_json: bool) -> None:
    """Build the image NAME (hpc-base) from Debian packages, unless it is up to date."""
    from emulator.app.images import build_image
    from emulator.wiring import images_of_host

    with reporting(live=True) as reporter:
        image = build_image(images_of_host(), name, reporter, force=force)
    if as_json:
        print_json(_fields(image))
    else:
        click.echo(f"{image.name} {image.digest[:12]} {image.directory}")


@command.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the images of the store, the newest of each name first."""
    from emulator.units import human_bytes
    from emulator.wiring import image_store

    store = image_store()
    images = store.list()
    if as_json:
        print_json([_fields(image) for image in images])
        return
    if not images:
        click.echo("no images yet; `hyperscaler image build hpc-base` makes one, and so does provision")
    for image in images:
        current = store.current(image.name)
        mark = "*" if current is not None and current.digest == image.digest else " "
        size = human_bytes(sum(artefact.size for artefact in image.manifest.artefacts.values()))
        click.echo(f"{mark} {image.name:<12} {image.digest[:12]}  {image.manifest.built_at:<26} {size}")


@command.command("show")
@click.argument("ref")
@click.option("--packages", is_flag=True, help="Also list the packages with their versions.")
@click.option("--verify", is_flag=True, help="Compare the files with the manifest's checksums; exit 1 if they differ.")
@json_option
def show(ref: str, *, packages: bool, verify: bool, as_json: bool) -> None:
    """Show the image REF: a name, or the beginning of a digest."""
    import sys

    from emulator.wiring import image_store

    store = image_store()
    image = store.show(ref)
    faults = store.verify(image) if verify else []
    fields = _fields(image)
    if packages or as_json:
        fields["packages"] = dict(image.manifest.packages)
    if verify:
        fields["faults"] = faults
    if as_json:
        print_json(fields)
    else:
        for key, value in fields.items():
            click.echo(f"{key}: {_shown(value)}")
    sys.exit(1 if faults else 0)


@command.command("rm")
@click.argument("ref")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def rm(ref: str, *, yes: bool, as_json: bool) -> None:
    """Remove the image REF. Refused while a lab's disk stands on it."""
    from emulator.app.images import remove_image
    from emulator.cli.lab_file import confirmed
    from emulator.wiring import image_store, real_world

    store = image_store()
    image = store.show(ref)
    current = store.current(image.name)
    what = "the present" if current is not None and current.digest == image.digest else "an old"
    if not confirmed(f"Remove {what} image {image.name} {image.digest[:12]}?", yes=yes):
        click.echo("nothing was removed")
        return
    _print_removed([remove_image(real_world(), image_store(), ref)], as_json=as_json)


@command.command("gc")
@click.option("--keep", type=click.IntRange(min=1), default=1, show_default=True, help="How many of each name stay.")
@json_option
def gc(*, keep: int, as_json: bool) -> None:
    """Remove old images that no lab uses, and what interrupted builds left behind."""
    from emulator.app.images import collect_images
    from emulator.wiring import image_store, real_world

    _print_removed(collect_images(real_world(), image_store(), keep=keep), as_json=as_json)


def _print_removed(images: Any, *, as_json: bool) -> None:
    if as_json:
        print_json({"version": 1, "removed": [_fields(image) for image in images]})
    elif not images:
        click.echo("nothing to remove")
    for image in images if not as_json else ():
        click.echo(f"removed {image.name} {image.digest[:12]}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "\n" + "\n".join(f"  {name} {detail}" for name, detail in sorted(value.items()))
    if isinstance(value, list):
        return "; ".join(value) or "none"
    return str(value)


def _fields(image: Any) -> dict[str, Any]:
    manifest = image.manifest
    return {
        "name": image.name,
        "digest": image.digest,
        "directory": str(image.directory),
        "kernel": manifest.kernel_version,
        "built_at": manifest.built_at,
        "build_seconds": manifest.build_seconds,
        "bytes": sum(artefact.size for artefact in manifest.artefacts.values()),
        "recipe_digest": manifest.recipe_digest,
    }
