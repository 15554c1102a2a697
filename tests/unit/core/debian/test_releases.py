"""Debian releases: which image a name means, and what each release says of itself."""

from __future__ import annotations

import pytest

from emulator.core.debian.releases import (
    DEFAULT_RELEASE,
    RELEASED_IMAGES,
    RELEASES,
    Release,
    SlurmFeature,
    image_of,
    release_of,
    slurm_features,
)


@pytest.mark.parametrize(
    ("name", "release", "image"),
    [
        ("hpc-base", Release.BOOKWORM, "hpc-base"),
        ("hpc-base", Release.TRIXIE, "hpc-base-trixie"),
        ("cloud-base", Release.FORKY, "cloud-base-forky"),
        # The name says more than the setting for both clusters.
        ("hpc-base-trixie", Release.BOOKWORM, "hpc-base-trixie"),
        ("hpc-base-bookworm", Release.TRIXIE, "hpc-base"),
        ("hpc-base-trixie", None, "hpc-base-trixie"),
        # Certain builds and images of other names are what they are.
        ("hpc-base:v1", Release.TRIXIE, "hpc-base:v1"),
        ("hpc-base@868aaf34007f", Release.TRIXIE, "hpc-base@868aaf34007f"),
        ("mine", Release.TRIXIE, "mine"),
        ("mine-trixie", None, "mine-trixie"),
        ("trixie", None, "trixie"),
    ],
)
def test_a_name_and_a_release_mean_one_image(name: str, release: Release | None, image: str) -> None:
    assert image_of(name, release) == image


@pytest.mark.parametrize("name", RELEASED_IMAGES)
@pytest.mark.parametrize("release", Release)
def test_an_image_says_its_release(name: str, release: Release) -> None:
    assert release_of(image_of(name, release)) is release
    assert release_of(f"{image_of(name, release)}:v1") is release
    assert release_of(f"{image_of(name, release)}@868aaf34007f") is release
    assert image_of(name, None) == image_of(name, DEFAULT_RELEASE)


@pytest.mark.parametrize("name", ["mine", "mine-trixie", "hpc-base-buster", "", "-trixie"])
def test_other_names_say_none(name: str) -> None:
    assert release_of(name) is None


def test_releases_are_in_order_and_the_default_is_a_finished_one() -> None:
    assert list(RELEASES) == list(Release)
    numbers = [release.number for release in RELEASES.values()]
    assert numbers == sorted(set(numbers))
    assert not RELEASES[DEFAULT_RELEASE].testing
    assert [release.title for release in RELEASES.values()] == ["Debian 12", "Debian 13", "Debian 14 (testing)"]
    for name, release in RELEASES.items():
        # What is in testing is signed with the keys of a release that is not.
        assert release.testing == (release.keys is not name)


@pytest.mark.parametrize(
    ("image", "features"),
    [
        ("hpc-base", frozenset()),
        ("hpc-base-trixie", frozenset(SlurmFeature)),
        ("hpc-base-trixie:v1", frozenset(SlurmFeature)),
        ("hpc-base-forky", frozenset(SlurmFeature)),
        # Who knows what is in it.
        ("mine", frozenset()),
    ],
)
def test_what_is_done_with_the_slurm_of_an_image(image: str, features: frozenset[SlurmFeature]) -> None:
    assert slurm_features(image) == features
