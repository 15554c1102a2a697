"""The Debian releases that guests can have, and what of the product depends on them.

Package lists and units that differ are in the recipes, under `releases`; everything else that does is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Release(StrEnum):
    """Code names of Debian releases, the oldest first."""

    BOOKWORM = "bookworm"
    TRIXIE = "trixie"
    FORKY = "forky"


class SlurmFeature(StrEnum):
    """What the product does with a release's Slurm and not with every one's.

    `MPI`: its images have Open MPI and mpi4py, and its Slurm the plugin for their PMIx. `REST`: slurmrestd.
    `SCRONTAB`: jobs by the clock, which end with a user's access (earlier ones were not tried).
    `CONFIGLESS`: nodes take their configuration from slurmctld (slurmd --conf-server; sackd on login nodes), which
    hands out a new one to all of them and restarts nothing (`scontrol reconfigure`, as it is from Slurm 23.11 on).
    """

    MPI = "mpi"
    REST = "rest"
    SCRONTAB = "scrontab"
    CONFIGLESS = "configless"


@dataclass(frozen=True, slots=True)
class DebianRelease:
    """One release.

    `number` is its version. `testing` says that it is not released yet, so that its packages change from day to day.
    `keys` is the release whose archive keys sign it; a release in testing is signed with its predecessor's.
    `pockets` are the suites with updates that belong to it, as suffixes of its name. `slurm` is the Slurm release that
    it has (major and minor), or had when this was written, and `slurm_features` what is done with it.
    """

    number: int
    slurm: str
    keys: Release
    testing: bool = False
    pockets: tuple[str, ...] = ("-updates", "-security")
    slurm_features: frozenset[SlurmFeature] = frozenset(SlurmFeature)

    @property
    def title(self) -> str:
        """`Debian 13`; `Debian 14 (testing)`."""
        return f"Debian {self.number}{' (testing)' if self.testing else ''}"


RELEASES: Mapping[Release, DebianRelease] = {
    Release.BOOKWORM: DebianRelease(12, slurm="22.05", keys=Release.BOOKWORM, slurm_features=frozenset()),
    Release.TRIXIE: DebianRelease(13, slurm="24.11", keys=Release.TRIXIE),
    Release.FORKY: DebianRelease(14, slurm="26.05", keys=Release.TRIXIE, testing=True, pockets=()),
}

DEFAULT_RELEASE = Release.BOOKWORM
"""What new labs get whose file names no release."""

FIRST_RELEASE = Release.BOOKWORM
"""The release of images whose name has none: labs of earlier versions have such images under their disks."""

RELEASED_IMAGES = ("cloud-base", "debian-base", "hpc-base")
"""Images that there are of every release. Any other name of an image is the name of one image."""


def image_of(name: str, release: Release | None) -> str:
    """The name in the store of the image that a lab file calls `name`.

    Args:
        name: `hpc-base`, of which there is one for each release; `hpc-base-trixie`, which says itself which one; or
            any other name, a certain build (`hpc-base:TAG`) included, which is taken as it is.
        release: that the lab file asks for; None for the default.
    """
    base, own = split_release(name)
    if own is None and name in RELEASED_IMAGES:
        own = release or DEFAULT_RELEASE
    if own is None or base not in RELEASED_IMAGES:
        return name
    return base if own is FIRST_RELEASE else f"{base}-{own}"


def release_of(name: str) -> Release | None:
    """The release of an image by its name in the store, also of a certain build; None where the name does not say."""
    base, own = split_release(name.partition(":")[0].partition("@")[0])
    if base not in RELEASED_IMAGES:
        return None
    return own or FIRST_RELEASE


def slurm_features(image: str) -> frozenset[SlurmFeature]:
    """What is done with the Slurm of an image, by its name in the store; nothing where the name does not say which
    release it is of, since that works with all of them."""
    release = release_of(image)
    return RELEASES[release].slurm_features if release is not None else frozenset()


def split_release(name: str) -> tuple[str, Release | None]:
    """`hpc-base-trixie` -> `hpc-base` and trixie; a name without a release is returned with None."""
    base, _, last = name.rpartition("-")
    return (base, Release(last)) if base and last in frozenset(Release) else (name, None)
