"""Chooses the build of an image that is used: rollback and tags."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.errors import UsageError
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.pointers import CURRENT, HELD, PREVIOUS
from emulator.images.store.refs import parse_reference
from emulator.images.store.store import ImageStore


def rollback(store: ImageStore, name: str) -> GoldenImage:
    """Make the build that was current before the current one again; doing it twice changes nothing.

    The image is held: labs take it though the recipe would give another one, until the next `build`, or until the
    rollback is taken back by a second one.

    Raises:
        UsageError: there is no other build of this name.
        StateError: the build to go back to is damaged; nothing has changed.
    """
    image = _current(store, name)
    with store.locked(image.name):
        image = _current(store, name)
        pointers = store.pointers(name)
        back = pointers.read(PREVIOUS)
        if back is None or back == image.directory.name:
            back = _older(store, image).directory.name
        target = store.open(pointers.home / back)
        # A step that is not reached leaves the current image as it is, and the way back as it was or unnecessary.
        returning = pointers.read(HELD) == image.directory.name
        if not returning:
            pointers.set(HELD, back)
        pointers.set(PREVIOUS, image.directory.name)
        pointers.set(CURRENT, back)
        if returning:
            pointers.drop(HELD)
        return target


def _current(store: ImageStore, name: str) -> GoldenImage:
    image = store.current(name)
    if image is None or image.name != name:
        raise UsageError(f"there is no image {name!r}", where=str(store.root), fix="list them: hyperscaler image list")
    return image


def _older(store: ImageStore, image: GoldenImage) -> GoldenImage:
    """The newest build before this one, without a pointer: a store of an older version, or a step cut short."""
    others = [other for other in store.list() if other.name == image.name and other.digest != image.digest]
    if not others:
        raise UsageError(
            f"there is only one build of {image.name} in the store: nothing to go back to",
            where=str(store.root / image.name),
            fix="list the images: hyperscaler image list",
        )
    older = [other for other in others if other.manifest.built_at <= image.manifest.built_at]
    return (older or others)[0]


def tag_image(store: ImageStore, ref: str, tag: str) -> GoldenImage:
    """Give an image a tag; the tag of another build of the name moves to it.

    Raises:
        UsageError: there is no such image, or this cannot be a tag.
    """
    image = store.show(ref)
    with store.locked(image.name):
        store.pointers(image.name).set_tag(tag, store.open(image.directory).directory.name)
    return image


def untag_image(store: ImageStore, ref: str) -> None:
    """Remove the tag of `NAME:TAG`; the image stays.

    Raises:
        UsageError: there is no such tag.
    """
    reference = parse_reference(ref)
    if reference is None or not reference.tag:
        raise UsageError(f"{ref!r} names no tag", fix="name it as NAME:TAG")
    if reference.tag not in store.pointers(reference.name).tags():
        raise UsageError(f"{reference.name} has no tag {reference.tag!r}", where=str(store.root / reference.name))
    with store.locked(reference.name):
        store.pointers(reference.name).drop_tag(reference.tag)


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
        current=found.read(CURRENT) == build,
        previous=found.read(PREVIOUS) == build,
        tags=tuple(tag for tag, tagged in found.tags().items() if tagged == build),
    )
