"""The image store as labs see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emulator.errors import HyperscalerError
from emulator.images.builder import BuildPhase
from emulator.images.store import GoldenImage, ImageStore


class LabImages:
    """Translates between the store and the handlers: progress as one line, and the way back from a disk."""

    def __init__(self, store: ImageStore) -> None:
        self.store = store

    def current(self, name: str) -> GoldenImage | None:
        return self.store.current(name)

    def needs_build(self, name: str) -> str | None:
        return self.store.needs_build(name)

    def build(self, name: str, *, progress: Callable[[str], None]) -> GoldenImage:
        def show(phase: BuildPhase, line: str) -> None:
            progress(f"{phase.value}: {line}" if line else phase.value)

        return self.store.build(name, progress=show)

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
