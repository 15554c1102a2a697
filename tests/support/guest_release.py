"""Which Debian the tests on real guests are about: RELEASE=trixie in the environment, or the product's default."""

from __future__ import annotations

import os

from emulator.core.debian.releases import DEFAULT_RELEASE, RELEASES, Release, image_of

RELEASE = Release(os.environ["RELEASE"]) if os.environ.get("RELEASE") else None
IMAGE = image_of("hpc-base", RELEASE)
"""For tests that need some guest: no second image is built for them than the one that the labs have."""


def images_section() -> str:
    """The line of a lab file that asks for it; empty for the default."""
    return f"images: {{release: {RELEASE}}}\n" if RELEASE else ""


SLURM_FEATURES = RELEASES[RELEASE or DEFAULT_RELEASE].slurm_features


def slurm_wishes() -> str:
    """Settings of `slurm_config`, in a mapping in one line, for all that this release's Slurm does and that is off by
    default; empty where there is none."""
    return "mpi: pmix, rest_api: true, scrontab: true, priority: fairshare" if SLURM_FEATURES else ""
