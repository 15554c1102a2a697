"""The image store as labs see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from emulator.core.errors import HyperscalerError, StateError, UsageError
from emulator.images.build.builder import BuildPhase
from emulator.images.recipe import load_recipe
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.refs import parse_reference
from emulator.images.store.store import ImageStore
from emulator.images.supply_chain.signing import ImageSignatures


class ImageInput(Protocol):
    """A tree of files that goes into an image in addition to its recipe, such as programs built on this host."""

    def ready(self) -> Path | None:
        """The tree, if nothing has to be built or fetched for it; reads only."""
        ...

    def describe(self) -> str:
        """The tree's version and source, in words. May raise what `ready` raises."""
        ...

    def make(self, progress: Callable[[str], None]) -> Path:
        """The tree; built or fetched if it is not here yet."""
        ...


class LabImages:
    """Translates between the store and the handlers: progress as one line, and the way back from a disk.

    `inputs` are what recipes name under `inputs`.

    The store has one `current` pointer for all labs, and two labs may want images of one name with other inputs. What
    was looked at and found right, or built, is therefore kept here: it is what the lab's disks are made from, wherever
    the pointer goes in the meantime.

    A cluster that is there takes new nodes only with the inputs that its others have (`follow`).
    """

    def __init__(
        self,
        store: ImageStore,
        inputs: Mapping[str, ImageInput] | None = None,
        signatures: ImageSignatures | None = None,
    ) -> None:
        self.store = store
        self._inputs = inputs or {}
        self._signatures = signatures
        self._trusted: set[str] = set()
        self._chosen: dict[str, str] = {}
        self._leaders: dict[str, GoldenImage] = {}

    def current(self, name: str) -> GoldenImage | None:
        """The image for a lab's disks, which is the one that `needs_build` or `build` settled on: signed by a
        signer that this host trusts, if it has a list of signers.

        Raises:
            HyperscalerError: it is not, or is not what was signed.
        """
        image = self.store.current(self._chosen.get(name, name))
        if image is not None and self._signatures is not None and image.digest not in self._trusted:
            if self._signatures.required:
                self._signatures.check(self.store, image)
            self._trusted.add(image.digest)
        return image

    def kept(self, name: str) -> AbstractContextManager[None]:
        """See `ImageStore.kept`."""
        return self.store.kept(name)

    def follow(self, name: str, disk: Path | None) -> None:
        """From now on `needs_build` settles on an image with the inputs of the one that `disk` is the disk of, whatever
        their sources would give now, and never asks for a build; with None no longer.

        An image without inputs is not followed, and a name with tag or digest says itself which build is meant.

        Raises:
            StateError: see `owning`.
        """
        self._leaders.pop(name, None)
        leader = self.owning(disk) if disk is not None else None
        if leader is not None and leader.name == name and leader.manifest.inputs:
            self._leaders[name] = leader

    def _like(self, leader: GoldenImage) -> GoldenImage:
        """The current image where it has the same inputs, since its packages may be newer; else `leader` itself.

        Raises:
            StateError: files of both are missing.
        """
        current = self._pointed_at(leader.name)
        fault: str | None = None
        for image in (current, leader):
            if image is not None and image.manifest.inputs == leader.manifest.inputs:
                fault = self.store.needs_build(f"{image.name}@{image.digest}")
                if fault is None:
                    return image
        raise StateError(
            f"the image that the nodes of the lab were made from cannot be used for new ones: {fault}",
            where=str(leader.directory),
            fix="put its files back, or destroy the lab and provision it again",
        )

    def contents(self, name: str) -> str:
        """The image that `needs_build` or `build` settled on and what went into it, in words; empty for none, and for
        one without inputs."""
        image = self.store.current(self._chosen[name]) if name in self._chosen else None
        if image is None or not image.manifest.inputs:
            return ""
        versions = "".join(f", {key} {version}" for key, version in sorted(image.versions.items()))
        return f"{image.name} {image.digest[:12]}{versions}"

    def needs_build(self, name: str, *, held: bool = True) -> str | None:
        """Why a lab's image must be built, in words; None when it is there, and then `current` gives this one from now
        on. See `ImageStore.needs_build`."""
        if name in self._leaders:
            self._choose(name, self._like(self._leaders[name]))
            return None
        while True:
            seen = self._pointed_at(name)
            reason = self._needs_build(name, held=held)
            if reason is not None:
                self._chosen.pop(name, None)
                return reason
            if seen is not None and self._pointed_at(name) == seen:  # else another image came while this looked
                self._choose(name, seen)
                return None

    def _pointed_at(self, name: str) -> GoldenImage | None:
        try:
            return self.store.current(name)
        except StateError:
            return None

    def _choose(self, name: str, image: GoldenImage) -> None:
        self._chosen[name] = f"{image.name}@{image.digest}"

    def _needs_build(self, name: str, *, held: bool) -> str | None:
        reference = parse_reference(name)
        if reference is not None and reference.fixed:
            return self.store.needs_build(name)
        names = load_recipe(name).inputs
        reason = self._reason(name, names, held=held)
        if reason is None:
            return None
        # A plan is known by its reasons: one for another release must be another plan.
        made_with = [self._inputs[wanted].describe() for wanted in names if wanted in self._inputs]
        return f"{reason}: {'; '.join(made_with)}" if made_with else reason

    def _reason(self, name: str, inputs: Sequence[str], *, held: bool) -> str | None:
        trees = {}
        for wanted in inputs:
            tree = self._inputs[wanted].ready() if wanted in self._inputs else None
            if tree is None:
                return f"its input {wanted} has to be made first"
            trees[wanted] = tree
        return self.store.needs_build(name, inputs=trees, held=held)

    def build(self, name: str, *, progress: Callable[[str], None], force: bool = False) -> GoldenImage:
        def show(phase: BuildPhase, line: str) -> None:
            progress(f"{phase.value}: {line}" if line else phase.value)

        reference = parse_reference(name)
        if reference is not None and reference.fixed:
            raise UsageError(
                f"there is no image {name!r} in the store, and a certain build cannot be built again",
                where="images",
                fix="see what there is with `hyperscaler image list`; name the image alone to build the recipe's",
            )
        image = self.store.build(name, progress=show, inputs=self.inputs(name, progress), force=force)
        self._choose(name, image)
        return image

    def inputs(self, name: str, progress: Callable[[str], None]) -> dict[str, Path]:
        """The trees that the recipe of this name takes in, built or fetched where they are not here yet."""
        names = load_recipe(name).inputs
        return {wanted: self._inputs[wanted].make(progress) for wanted in names if wanted in self._inputs}

    def owning(self, disk: Path) -> GoldenImage | None:
        """The image that `disk` is the disk of; None for any other file, also for an image that is gone.

        Raises:
            StateError: the image is there and cannot be read, which says nothing of the disks on it.
        """
        # Disks know their base by the path that the store had when they were made, which may lead through a link.
        store = disk.parent.parent.parent
        if store != self.store.root and store.resolve() != self.store.root.resolve():
            return None
        try:
            image = self.store.show(disk.parent.name)
        except HyperscalerError as error:
            if not disk.exists():
                return None  # gone: the caller says what that means for its disk
            raise StateError(
                f"the golden image cannot be read: {error.what}",
                where=str(disk.parent),
                fix="`hyperscaler image list` shows what the store has; repair the image or remove it, then try again",
            ) from error
        return image if image.disk.parts[-3:] == disk.parts[-3:] else None


def used_base_images(labs: Path, overlay_base: Callable[[Path], Path | None]) -> dict[Path, Path]:
    """Golden images under the disks of all labs in the directory `labs`, each with a disk that stands on it. Disks of
    snapshots count: one may stand on an image that no present disk has under it any more."""
    found = {}
    for disk in sorted((*labs.glob("*/disks/*.qcow2"), *labs.glob("*/disks/snapshots/*/*.qcow2"))):
        base = overlay_base(disk)
        if base is not None:
            found[base] = disk
    return found
