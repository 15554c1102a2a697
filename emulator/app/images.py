"""Golden images, for the `image` verb."""

from __future__ import annotations

from emulator.app.world import World
from emulator.images.for_labs import LabImages, used_base_images
from emulator.images.store import GoldenImage, ImageStore
from emulator.progress import Event, Reporter, Status


def build_image(images: LabImages, name: str, reporter: Reporter, *, force: bool) -> GoldenImage:
    """Build unless the store has the current recipe already."""
    reason = "asked for" if force else images.needs_build(name)
    image = images.current(name)
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
    return store.remove(ref, used_base_images(world.home.labs, world.disks.overlay_base))


def collect_images(world: World, store: ImageStore, *, keep: int) -> tuple[GoldenImage, ...]:
    """Remove all but the newest `keep` of each name and those in use; returns what went."""
    return store.gc(used_base_images(world.home.labs, world.disks.overlay_base), keep)
