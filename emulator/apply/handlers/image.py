"""Golden images: built when the store has none of the current recipe. Shared by all labs, so never deleted here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from emulator.apply.handler import ApplyContext, Handle
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import GoldenImage, Resource


class BuiltImage(Protocol):
    """What a handler needs of a golden image: its files and its digest."""

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
        """Of what went into it beside its recipe, by name, as far as it is known."""
        ...


class Images(Protocol):
    """The image store, as one lab sees it."""

    def current(self, name: str) -> BuiltImage | None:
        """The image that the lab's disks are made from: what `needs_build` or `build` settled on."""
        ...

    def kept(self, name: str) -> AbstractContextManager[None]:
        """While the block runs, no image of this name is removed: a disk can be made on it."""
        ...

    def needs_build(self, name: str) -> str | None:
        """Why the image must be built, or None."""
        ...

    def follow(self, name: str, disk: Path | None) -> None:
        """New disks get what went into the image with this disk, from now on; with None what the file asks for."""
        ...

    def contents(self, name: str) -> str:
        """The image that was settled on and what went into it, in words; empty where there is nothing to tell."""
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
