"""The image store as labs see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from emulator.errors import HyperscalerError
from emulator.images.builder import BuildPhase
from emulator.images.recipe import load_recipe
from emulator.images.store import GoldenImage, ImageStore


class ImageInput(Protocol):
    """A tree of files that goes into an image beside its recipe: programs built on this host, say."""

    def ready(self) -> Path | None:
        """The tree, if nothing has to be built or fetched for it; reads only."""
        ...

    def make(self, progress: Callable[[str], None]) -> Path:
        """The tree, built or fetched when it is not here yet."""
        ...


class LabImages:
    """Translates between the store and the handlers: progress as one line, and the way back from a disk.

    `inputs` are what recipes name under `inputs`.
    """

    def __init__(self, store: ImageStore, inputs: Mapping[str, ImageInput] | None = None) -> None:
        self.store = store
        self._inputs = inputs or {}

    def current(self, name: str) -> GoldenImage | None:
        return self.store.current(name)

    def needs_build(self, name: str) -> str | None:
        trees = {}
        for wanted in load_recipe(name).inputs:
            tree = self._inputs[wanted].ready() if wanted in self._inputs else None
            if tree is None:
                return f"its input {wanted} has to be made first"
            trees[wanted] = tree
        return self.store.needs_build(name, inputs=trees)

    def build(self, name: str, *, progress: Callable[[str], None], force: bool = False) -> GoldenImage:
        def show(phase: BuildPhase, line: str) -> None:
            progress(f"{phase.value}: {line}" if line else phase.value)

        names = load_recipe(name).inputs
        trees = {wanted: self._inputs[wanted].make(progress) for wanted in names if wanted in self._inputs}
        return self.store.build(name, progress=show, inputs=trees, force=force)

    def owning(self, disk: Path) -> GoldenImage | None:
        """The image that `disk` is the disk of; None for any other file, also for an image that is gone."""
        if disk.parent.parent.parent != self.store.root:
            return None
        try:
            image = self.store.show(disk.parent.name)
        except HyperscalerError:
            return None  # gone or unreadable: the caller says what that means for its disk
        return image if image.disk == disk else None


def used_base_images(labs: Path, overlay_base: Callable[[Path], Path | None]) -> dict[Path, Path]:
    """Golden images under the disks of all labs in the directory `labs`, each with a disk that stands on it."""
    found = {}
    for disk in sorted(labs.glob("*/disks/*.qcow2")):
        base = overlay_base(disk)
        if base is not None:
            found[base] = disk
    return found
