"""hyperscaler gpu discover|plan|top|map|release"""

from __future__ import annotations

import click

from emulator.cli.lazy_group import LazyGroup

_VERBS = {name: f"gpu.{name}" for name in ("discover", "plan", "top", "map", "release")}


@click.group("gpu", cls=LazyGroup, verbs=_VERBS)
def command() -> None:
    """Look at the host's GPUs, try layouts, see who uses what, give GPUs back."""
