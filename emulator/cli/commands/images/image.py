"""hyperscaler image build|list|show|verify|tag|untag|rollback|sign|vulnerabilities|packer-files|import|rm|gc"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from emulator.cli.output import json_option, print_json
from emulator.cli.render.progress import reporting
from emulator.core.units import printable


@click.group("image")
def command() -> None:
    """Build, list and remove golden images. Labs share them; an image that a disk stands on is never removed."""


@command.command("build")
@click.argument("name")
@click.option("--force", is_flag=True, help="Build even if the store has the current recipe.")
@click.option("--tag", help="Give the image this tag.")
@json_option
def build(name: str, *, force: bool, tag: str | None, as_json: bool) -> None:
    """Build the image NAME (hpc-base) from Debian packages, unless it is up to date."""
    from emulator.images.store.pointers import require_tag
    from emulator.images.store.tags import tag_image
    from emulator.operations.images.golden import build_image
    from emulator.wiring import images_of_host

    if tag is not None:
        require_tag(tag)
    images = images_of_host()
    with reporting(live=True) as reporter:
        image = build_image(images, name, reporter, force=force)
    if tag is not None:
        tag_image(images.store, f"{image.name}@{image.digest}", tag)
    _print_image(image, as_json=as_json)


@command.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the images of the store, the newest of each name first."""
    from emulator.core.units import human_bytes
    from emulator.wiring import image_store

    store = image_store()
    images = store.list()
    if as_json:
        print_json([_fields(image) | _names(store, image) for image in images])
        return
    if not images:
        click.echo("no images yet; `hyperscaler image build hpc-base` makes one, and so does provision")
    for image in images:
        names = _names(store, image)
        mark = "*" if names["current"] else " "
        size = human_bytes(sum(artefact.size for artefact in image.manifest.artefacts.values()))
        line = f"{mark} {image.name:<12} {image.digest[:12]}  {image.manifest.built_at:<26} {size:<10}"
        click.echo(" ".join((line, *names["tags"], *(["(previous)"] if names["previous"] else []))).rstrip())


@command.command("show")
@click.argument("ref")
@click.option("--packages", is_flag=True, help="Also list the packages with their versions.")
@click.option("--verify", is_flag=True, help="Compare the files with the manifest's checksums; exit 1 if they differ.")
@json_option
def show(ref: str, *, packages: bool, verify: bool, as_json: bool) -> None:
    """Show the image REF, a name or the beginning of a digest: kernel, sizes, the checksums of its files."""
    import sys

    from emulator.wiring import image_store

    store = image_store()
    image = store.show(ref)
    faults = store.verify(image) if verify else []
    checked = {**image.manifest.artefacts, **image.manifest.records}
    fields = _fields(image) | _names(store, image) | {"sha256": {name: file.sha256 for name, file in checked.items()}}
    if packages or as_json:
        fields["packages"] = dict(image.manifest.packages)
    if verify:
        fields["faults"] = faults
    if as_json:
        print_json(fields)
    else:
        for key, value in fields.items():
            click.echo(printable(f"{key}: {_shown(value)}"))
    sys.exit(1 if faults else 0)


@command.command("rm")
@click.argument("ref")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def rm(ref: str, *, yes: bool, as_json: bool) -> None:
    """Remove the image REF. Refused while a lab's disk stands on it."""
    from emulator.cli.options import confirmed
    from emulator.operations.images.golden import remove_image
    from emulator.wiring import image_store, real_environment

    store = image_store()
    image = store.show(ref)
    current = store.current(image.name)
    what = "the present" if current is not None and current.digest == image.digest else "an old"
    if not confirmed(f"Remove {what} image {image.name} {image.digest[:12]}?", yes=yes):
        click.echo("nothing was removed")
        return
    _print_removed([remove_image(real_environment(), image_store(), ref)], as_json=as_json)


@command.command("gc")
@click.option("--keep", type=click.IntRange(min=1), default=1, show_default=True, help="How many of each name stay.")
@click.option("--all", "chosen", is_flag=True, help="Also those with a tag, and the one that a rollback returns to.")
@json_option
def gc(*, keep: int, chosen: bool, as_json: bool) -> None:
    """Remove old images that no lab uses, and what interrupted builds left behind."""
    from emulator.operations.images.golden import collect_images
    from emulator.wiring import image_store, real_environment

    _print_removed(collect_images(real_environment(), image_store(), keep=keep, chosen=chosen), as_json=as_json)


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


def _names(store: Any, image: Any) -> dict[str, Any]:
    """What points to the image."""
    pointers = store.pointers(image.name)
    build = image.directory.name
    return {
        "current": pointers.read("current") == build,
        "previous": pointers.read("previous") == build,
        "tags": [tag for tag, tagged in pointers.tags().items() if tagged == build],
    }


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
        "versions": dict(manifest.versions),
    }


@command.command("packer-files")
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--base", default="debian-base", show_default=True, help="Image that Packer's machine starts from.")
@click.option(
    "--with-passwords",
    "passwords",
    is_flag=True,
    help="Also write package sources and a proxy that hold a password. For qemu.base only: during qemu.installer"
    " every account of this host could read them.",
)
@json_option
def packer_files(name: str, directory: Path, *, base: str, passwords: bool, as_json: bool) -> None:
    """Write what packer/image.pkr.hcl needs into the new DIRECTORY, from the recipe NAME. See packer/README.md."""
    from emulator.operations.images.packer import build_command, write_files
    from emulator.wiring import images_of_host, real_environment

    with reporting(live=True) as reporter:
        variables = write_files(
            real_environment(), images_of_host(), name, directory, reporter, base=base, passwords=passwords
        )
    if as_json:
        print_json({"version": 1, "name": name, "directory": str(variables.parent), "variables": str(variables)})
    else:
        click.echo(build_command(variables))


@command.command("import")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--disk", type=click.Path(path_type=Path), help="The disk, if it is not in DIRECTORY/output-*.")
@click.option("--tag", help="Give the image this tag.")
@json_option
def import_(directory: Path, *, disk: Path | None, tag: str | None, as_json: bool) -> None:
    """Take the disk of a Packer build into the store; DIRECTORY is what packer-files wrote."""
    from emulator.images.store.pointers import require_tag
    from emulator.images.store.tags import tag_image
    from emulator.operations.images.packer import import_disk
    from emulator.wiring import images_of_host, real_environment

    if tag is not None:
        require_tag(tag)
    images = images_of_host()
    with reporting(live=True) as reporter:
        image = import_disk(real_environment(), images, directory, disk, reporter)
    if tag is not None:
        tag_image(images.store, f"{image.name}@{image.digest}", tag)
    _print_image(image, as_json=as_json)


@command.command("rollback")
@click.argument("name")
@json_option
def rollback(name: str, *, as_json: bool) -> None:
    """Make the build of NAME that was current before the current one again. A second rollback takes it back."""
    from emulator.images.store.tags import rollback as rollback_build
    from emulator.wiring import image_store

    _print_image(rollback_build(image_store(), name), as_json=as_json)


@command.command("tag")
@click.argument("ref")
@click.argument("tag")
@json_option
def tag(ref: str, tag: str, *, as_json: bool) -> None:
    """Give the image REF the tag TAG; NAME:TAG then names it, in a lab file too."""
    from emulator.images.store.tags import tag_image
    from emulator.wiring import image_store

    _print_image(tag_image(image_store(), ref, tag), as_json=as_json)


@command.command("untag")
@click.argument("ref")
def untag(ref: str) -> None:
    """Take a tag away, given as NAME:TAG. The image stays."""
    from emulator.images.store.tags import untag_image
    from emulator.wiring import image_store

    untag_image(image_store(), ref)


@command.command("sign")
@click.argument("ref")
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="ssh private key, or an agent's public key."
)
@json_option
def sign(ref: str, *, key: Path, as_json: bool) -> None:
    """Sign the image REF with an ssh key."""
    from emulator.wiring import image_signatures, image_store

    store = image_store()
    image = store.show(ref)
    image_signatures().sign(store, image, key)
    _print_image(image, as_json=as_json)


@command.command("verify")
@click.argument("ref")
@json_option
def verify(ref: str, *, as_json: bool) -> None:
    """Compare the image REF with its checksums, and check that a trusted signer signed it if there are any."""
    from emulator.operations.images.golden import verify_image
    from emulator.wiring import image_signatures, image_store

    image, signer = verify_image(image_store(), image_signatures(), ref)
    if as_json:
        print_json({**_fields(image), "signed_by": signer})
    else:
        by = f"signed by {signer}" if signer else "no signature asked for"
        click.echo(f"{image.name} {image.digest[:12]} is as it was built; {by}")


@command.command("vulnerabilities")
@click.argument("ref")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The security tracker's data as a file; else fetched.",
)
@click.option("--only-fixed", is_flag=True, help="Only those that an update of Debian mends.")
@json_option
def vulnerabilities(ref: str, *, data: Path | None, only_fixed: bool, as_json: bool) -> None:
    """List known vulnerabilities of the packages of the image REF, as Debian's debsecan sees them."""
    from dataclasses import asdict

    from emulator.wiring import image_store, vulnerability_listing

    image = image_store().show(ref)
    found = vulnerability_listing().of(image, data=data, only_fixed=only_fixed)
    if as_json:
        rows = [asdict(item) for item in found]
        print_json({"version": 1, "name": image.name, "digest": image.digest, "vulnerabilities": rows})
        return
    for item in found:
        notes = ", ".join(
            word for word in (item.urgency, "remote" if item.remote else "", "fixed" if item.fixed else "") if word
        )
        click.echo(printable(f"{item.id:<18} {item.package:<24} {item.version}  {notes}"))
    click.echo(f"{len(found)} known vulnerabilities in {image.name} {image.digest[:12]}", err=True)


def _print_image(image: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(_fields(image))
    else:
        click.echo(f"{image.name} {image.digest[:12]} {image.directory}")
