"""Golden images of a night, in a real store: built anew, kept by a tag, and given back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.core.errors import HyperscalerError
from emulator.images import lab_images
from emulator.images.lab_images import LabImages
from emulator.images.recipe import load_recipe
from emulator.images.store.store import ImageStore
from emulator.operations.nightly.builds import StoreBuilds
from tests.support.build_tools import BuildTools
from tests.support.image_fixtures import recipes, store, tools

__all__ = ["recipes", "store", "tools"]

Rebuild = Callable[[bytes], str]


def quiet(_line: str) -> None:
    """Progress of nobody."""


@pytest.fixture
def builds(store: ImageStore, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> StoreBuilds:
    monkeypatch.setattr(lab_images, "load_recipe", lambda name: load_recipe(name, recipes))
    return StoreBuilds(LabImages(store))


@pytest.fixture
def rebuild(builds: StoreBuilds, tools: BuildTools) -> Rebuild:
    def build(payload: bytes) -> str:
        tools.payload = payload
        return builds.rebuild("demo", quiet).digest

    return build


def now(builds: StoreBuilds) -> str:
    found = builds.facts("demo")
    assert found is not None
    return found.digest


def test_a_night_that_failed_gives_the_image_back_every_time(builds: StoreBuilds, rebuild: Rebuild) -> None:
    assert builds.facts("demo") is None
    good = rebuild(b"1")
    before = builds.facts("demo")
    assert before is not None
    assert before.packages
    for payload in (b"2", b"3"):
        assert rebuild(payload) != good
        builds.give_back("demo", before)
        builds.give_back("demo", before)
        assert now(builds) == good
    assert rebuild(b"4") == now(builds) != good


def test_another_build_in_between_is_no_silent_success(builds: StoreBuilds, rebuild: Rebuild) -> None:
    rebuild(b"1")
    before = builds.facts("demo")
    assert before is not None
    rebuild(b"2")
    rebuild(b"3")
    with pytest.raises(HyperscalerError, match=r"and not .* as before this night"):
        builds.give_back("demo", before)


def test_a_tag_keeps_the_good_one(builds: StoreBuilds, rebuild: Rebuild, store: ImageStore) -> None:
    good = rebuild(b"1")
    builds.keep("demo", "nightly-lab")
    rebuild(b"2")
    kept = store.current("demo:nightly-lab")
    assert kept is not None
    assert kept.digest == good


def test_a_certain_build_is_not_built_again(builds: StoreBuilds, rebuild: Rebuild) -> None:
    good = rebuild(b"1")
    builds.keep("demo", "chosen")
    rebuild(b"2")
    assert builds.rebuild("demo:chosen", quiet).digest == good
    with pytest.raises(HyperscalerError, match="there is no image demo:none"):
        builds.rebuild("demo:none", quiet)
