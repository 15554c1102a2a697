"""A built image: the files that labs boot from, and the manifest that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emulator.images.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """A built image. The files are never written to: labs put qcow2 overlays on `disk`."""

    name: str
    digest: str
    directory: Path
    disk: Path
    kernel: Path
    initrd: Path
    manifest: Manifest

    @property
    def cmdline(self) -> tuple[str, ...]:
        """Kernel arguments that the image needs to boot; the host adds the guest's identity."""
        return self.manifest.cmdline

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of its inputs by name; empty for an image of an earlier version of this program."""
        return self.manifest.versions
