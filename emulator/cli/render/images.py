"""Golden images as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emulator.cli.output import print_json, say
from emulator.cli.render.tables import Table
from emulator.core.units import human_bytes

if TYPE_CHECKING:
    from emulator.images.store.golden_image import GoldenImage
    from emulator.images.store.tags import ImageNames
    from emulator.images.supply_chain.vulnerabilities import Vulnerability


def image_fields(image: GoldenImage) -> dict[str, Any]:
    """Keys are an interface: add, do not rename."""
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


def name_fields(names: ImageNames) -> dict[str, Any]:
    """Keys are an interface: add, do not rename."""
    return {"current": names.current, "previous": names.previous, "tags": list(names.tags)}


def images_table(images: Sequence[tuple[GoldenImage, ImageNames]]) -> Table:
    """A row for each build; `*` marks the one that new guests start from."""
    return Table(("", "NAME", "DIGEST", "BUILT", "SIZE", "TAGS"), [_row(image, names) for image, names in images])


def _row(image: GoldenImage, names: ImageNames) -> tuple[str, ...]:
    size = human_bytes(sum(artefact.size for artefact in image.manifest.artefacts.values()))
    words = " ".join((*names.tags, *(["(previous)"] if names.previous else [])))
    return ("*" if names.current else "", image.name, image.digest[:12], image.manifest.built_at, size, words)


def print_fields(fields: Mapping[str, Any]) -> None:
    """A line for each field; what a field holds by name goes below it."""
    for key, value in fields.items():
        say(f"{key}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "\n" + "\n".join(f"  {name} {detail}" for name, detail in sorted(value.items()))
    if isinstance(value, list):
        return "; ".join(value) or "none"
    return str(value)


def print_image(image: GoldenImage, *, as_json: bool) -> None:
    """The image that a verb made or changed."""
    if as_json:
        print_json(image_fields(image))
    else:
        say(f"{image.name} {image.digest[:12]} {image.directory}")


def print_removed(images: Sequence[GoldenImage], *, as_json: bool) -> None:
    """The images that a verb removed."""
    if as_json:
        print_json({"version": 1, "removed": [image_fields(image) for image in images]})
    elif not images:
        say("nothing to remove")
    for image in images if not as_json else ():
        say(f"removed {image.name} {image.digest[:12]}")


def vulnerabilities_table(found: Sequence[Vulnerability]) -> Table:
    """A row for each vulnerability of each package."""
    return Table(("ID", "PACKAGE", "VERSION", "NOTES"), [_vulnerability(item) for item in found])


def _vulnerability(item: Vulnerability) -> tuple[str, ...]:
    words = (item.urgency, "remote" if item.remote else "", "fixed" if item.fixed else "")
    return (item.id, item.package, item.version, ", ".join(word for word in words if word))
