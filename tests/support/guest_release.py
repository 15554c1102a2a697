"""Which Debian the tests on real guests are about: RELEASE=trixie in the environment, or the product's default."""

from __future__ import annotations

import os

from emulator.core.debian.releases import Release, image_of

RELEASE = Release(os.environ["RELEASE"]) if os.environ.get("RELEASE") else None
IMAGE = image_of("hpc-base", RELEASE)
"""For tests that need some guest: no second image is built for them than the one that the labs have."""


def images_section() -> str:
    """The line of a lab file that asks for it; empty for the default."""
    return f"images: {{release: {RELEASE}}}\n" if RELEASE else ""
