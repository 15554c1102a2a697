"""Golden images: built if the store has none of the current recipe. All labs share them, so none is deleted here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from emulator.apply.handler import ApplyContext, Handle
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import GoldenImage, Resource


class BuiltImage(Protocol):
    """The files and the digest of a golden image."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def disk(self) -> Path: ...
    @property
    def kernel(self) -> Path: ...
    @property
    def initrd(self) -> Path: ...
    @property
    def cmdline(self) -> tuple[str, ...]:
        """Kernel arguments that the image needs to boot."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Known versions of its contents other than the recipe, by name."""
        ...


class Images(Protocol):
    """The image store, as one lab sees it."""

    def current(self, name: str) -> BuiltImage | None:
        """The image that the lab's disks are made from, as chosen by `needs_build` or `build`."""
        ...

    def kept(self, name: str) -> AbstractContextManager[None]:
        """Keeps images of this name from being removed while the block runs, so that a disk can be made on one."""
        ...

    def needs_build(self, name: str) -> str | None:
        """Why the image must be built, or None."""
        ...

    def follow(self, name: str, disk: Path | None) -> None:
        """From now on make new disks from the image that `disk` belongs to; None: from the one that the file asks
        for."""
        ...

    def contents(self, name: str) -> str:
        """The chosen image and its contents in words; empty if there is nothing to report."""
        ...

    def build(self, name: str, *, progress: Callable[[str], None]) -> BuiltImage: ...

    def owning(self, disk: Path) -> BuiltImage | None:
        """The image of the store that `disk` belongs to."""
        ...


class GoldenImageHandler:
    def __init__(self, images: Images) -> None:
        self._images = images

    def observe(self, resource: GoldenImage, record: Recorded | None) -> Observation:
        del record
        reason = self._images.needs_build(resource.name)
        if reason is None:
            return Observation(Presence.OURS)
        return Observation(Presence.ABSENT, detail=reason)

    def ensure(self, resource: GoldenImage, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        image = self._images.current(resource.name)
        if image is None or self._images.needs_build(resource.name) is not None:
            image = self._images.build(resource.name, progress=context.report)
        return {"digest": image.digest}

    def delete(self, resource: GoldenImage, handle: Handle, context: ApplyContext) -> None:
        del resource, handle, context

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        return ()
