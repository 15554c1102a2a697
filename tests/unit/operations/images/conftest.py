"""A store of images, as the tests of emulator/images have it."""

from __future__ import annotations

from tests.support.image_fixtures import recipes, store, tools

__all__ = ["recipes", "store", "tools"]
