"""Golden images, for the `image` verb."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.errors import HyperscalerError
from emulator.core.progress import Event, Reporter, Status
from emulator.images.lab_images import LabImages, used_base_images
from emulator.images.store import pointers, tags
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore
from emulator.images.supply_chain.signing import ImageSignatures
from emulator.images.supply_chain.vulnerabilities import Vulnerability
from emulator.lab.environment import World

__all__ = ["GoldenImage", "Vulnerability"]  # for the verbs, which do not reach below the use cases


@dataclass(frozen=True, slots=True)
class ImageNames:
    """What points to a build: whether new guests start from it, whether a rollback returns to it, and its tags."""

    current: bool
    previous: bool
    tags: tuple[str, ...]


def names_of(store: ImageStore, image: GoldenImage) -> ImageNames:
    """What points to the image."""
    found, build = store.pointers(image.name), image.directory.name
    return ImageNames(
        current=found.read(pointers.CURRENT) == build,
        previous=found.read(pointers.PREVIOUS) == build,
        tags=tuple(tag for tag, tagged in found.tags().items() if tagged == build),
    )


def build_image(images: LabImages, name: str, reporter: Reporter, *, force: bool) -> GoldenImage:
    """Build unless the store has the current recipe already."""
    reason = "asked for" if force else images.needs_build(name, held=False)
    image = images.store.current(name)
    if image is not None and reason is None:
        reporter.note(f"{name} {image.digest[:12]} is up to date; --force builds it again")
        return image
    reporter.event(Event("image", name, Status.STARTED, reason or ""))

    def show(line: str) -> None:
        reporter.event(Event("image", name, Status.RUNNING, line))

    built = images.build(name, progress=show, force=force)
    reporter.event(Event("image", name, Status.DONE, built.digest[:12], built.manifest.build_seconds))
    return built


def remove_image(world: World, store: ImageStore, ref: str) -> GoldenImage:
    """Remove one image; one that a lab's disk stands on is refused by name."""
    return store.remove(ref, lambda: used_base_images(world.home.labs, world.disks.overlay_base))


def collect_images(world: World, store: ImageStore, *, keep: int, chosen: bool = False) -> tuple[GoldenImage, ...]:
    """Remove old images and return them: see `ImageStore.gc`. Those under the disks of labs stay."""
    return store.gc(lambda: used_base_images(world.home.labs, world.disks.overlay_base), keep, chosen=chosen)


def rollback_image(store: ImageStore, name: str) -> GoldenImage:
    """See `emulator.images.store.tags.rollback`."""
    return tags.rollback(store, name)


def require_tag(tag: str) -> None:
    """Raises `UsageError` when this cannot be a tag: to be asked before an image is made that is to have it."""
    pointers.require_tag(tag)


def tag_image(store: ImageStore, ref: str, tag: str) -> GoldenImage:
    """See `emulator.images.store.tags.tag_image`."""
    return tags.tag_image(store, ref, tag)


def untag_image(store: ImageStore, ref: str) -> None:
    """See `emulator.images.store.tags.untag_image`."""
    tags.untag_image(store, ref)


def verify_image(store: ImageStore, signatures: ImageSignatures, ref: str) -> tuple[GoldenImage, str | None]:
    """The image and who signed it; None for the signer when this host asks for no signature.

    Raises:
        HyperscalerError: a file differs from its checksum, or no trusted signer signed the image.
    """
    image = store.show(ref)
    if signatures.required:
        return image, signatures.check(store, image)
    faults = store.verify(image)
    if faults:
        raise HyperscalerError(
            "the image is not what its manifest says: " + "; ".join(faults),
            where=str(image.directory),
            fix=f"hyperscaler image build {image.name} --force",
        )
    return image, None
