"""The golden images of a night: built anew, compared by their packages, and given back when the night fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from emulator.core.errors import HyperscalerError, UsageError
from emulator.images.lab_images import LabImages
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.refs import parse_reference
from emulator.images.store.tags import rollback, tag_image
from emulator.operations.nightly.model import ImageFacts


class Builds(Protocol):
    """The golden images that a lab's nodes start from, by the names in its file."""

    def facts(self, name: str) -> ImageFacts | None:
        """The present image; None when there is none."""
        ...

    def rebuild(self, name: str, progress: Callable[[str], None]) -> ImageFacts:
        """Build it from the packages of today, whatever is there. One with a tag or digest stays what it is."""
        ...

    def give_back(self, name: str, before: ImageFacts) -> None:
        """Make the image that was there before the present one again, for all labs of this host."""
        ...

    def keep(self, name: str, tag: str) -> None:
        """Give the present image a tag, so that it is not collected."""
        ...


class StoreBuilds:
    """`Builds` of the host's image store."""

    def __init__(self, images: LabImages) -> None:
        self._images = images

    def facts(self, name: str) -> ImageFacts | None:
        image = self._images.store.current(name)
        return _facts(name, image) if image is not None else None

    def rebuild(self, name: str, progress: Callable[[str], None]) -> ImageFacts:
        reference = parse_reference(name)
        if reference is not None and reference.fixed:
            found = self.facts(name)
            if found is None:
                raise UsageError(f"there is no image {name}", fix="hyperscaler image list")
            return found
        return _facts(name, self._images.build(name, progress=progress, force=True))

    def give_back(self, name: str, before: ImageFacts) -> None:
        current = self._images.store.current(name)
        if current is None or current.digest == before.digest:
            return
        back = rollback(self._images.store, name)
        if back.digest != before.digest:
            raise HyperscalerError(
                f"image {name} is now {back.digest[:12]}, and not {before.digest[:12]} as before this night",
                fix="choose one: hyperscaler image list, hyperscaler image rollback",
            )

    def keep(self, name: str, tag: str) -> None:
        image = self._images.store.current(name)
        if image is not None:
            tag_image(self._images.store, f"{image.name}@{image.digest}", tag)


def _facts(name: str, image: GoldenImage) -> ImageFacts:
    return ImageFacts(name, image.digest, dict(image.manifest.packages))
