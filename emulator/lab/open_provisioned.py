"""A lab that is there already, opened on what it runs on."""

from __future__ import annotations

from emulator.apply.state import StateStore
from emulator.core.errors import UsageError
from emulator.lab.environment import Environment
from emulator.lab.lab import Lab, open_lab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import recorded_backends


def opened_lab(env: Environment, name: str) -> tuple[Lab, StateStore]:
    """The lab and its journal.

    Raises:
        UsageError: nothing was ever made of it.
        ConflictError: the journal in its directory is another lab's.
    """
    env, store = open_record(env, name)
    backends = recorded_backends(store.state)
    if not backends.hypervisor:
        raise UsageError(f"lab {name} is not provisioned", fix="hyperscaler provision FILE")
    return open_lab(env, name, backends), store
