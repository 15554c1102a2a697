"""Build, remove and verify golden images."""

from __future__ import annotations

from emulator.core.debian.releases import FIRST_RELEASE, RELEASED_IMAGES, RELEASES, image_of
from emulator.core.errors import HyperscalerError
from emulator.core.progress import Event, Reporter, Status
from emulator.images.lab_images import LabImages, used_base_images
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore
from emulator.images.supply_chain.signing import ImageSignatures
from emulator.lab.environment import Environment


def build_image(images: LabImages, name: str, reporter: Reporter, *, force: bool) -> GoldenImage:
    """Build unless the store has the current recipe already. Says so where new labs would not start from `name`."""
    if name in RELEASED_IMAGES and (given := image_of(name, None)) != name:
        reporter.note(f"{name} is the image of {RELEASES[FIRST_RELEASE].title}; new labs get {given}")
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


def remove_image(env: Environment, store: ImageStore, ref: str) -> GoldenImage:
    """Remove one image; one that a lab's disk stands on is refused by name."""
    return store.remove(ref, lambda: used_base_images(env.home.labs, env.disks.overlay_base))


def collect_images(env: Environment, store: ImageStore, *, keep: int, chosen: bool = False) -> tuple[GoldenImage, ...]:
    """Remove old images and return them: see `ImageStore.gc`. Those under the disks of labs stay."""
    return store.gc(lambda: used_base_images(env.home.labs, env.disks.overlay_base), keep, chosen=chosen)


def verify_image(store: ImageStore, signatures: ImageSignatures, ref: str) -> tuple[GoldenImage, str | None]:
    """The image and its signer; None for the signer when this host requires no signature.

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
