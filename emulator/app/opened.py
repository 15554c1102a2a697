"""A lab that is there already, opened on what it runs on."""

from __future__ import annotations

from emulator.app.lab import Lab, open_lab
from emulator.app.planning import recorded_backends
from emulator.app.world import World
from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.errors import UsageError


def opened_lab(world: World, name: str) -> tuple[Lab, StateStore]:
    """The lab and its journal.

    Raises:
        UsageError: nothing was ever made of it.
    """
    store = StateStore(Journal(world.home.lab(name).journal))
    backends = recorded_backends(store.state)
    if not backends.hypervisor:
        raise UsageError(f"lab {name} is not provisioned", fix="hyperscaler provision FILE")
    return open_lab(world, name, backends), store
