"""A store of images on a host whose build tools are data."""

from __future__ import annotations

from tests.support.image_fixtures import recipes, store, tools

__all__ = ["recipes", "store", "tools"]
