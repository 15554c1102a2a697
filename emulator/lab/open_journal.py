"""Open the record of a lab, and refuse one that is another lab's.

A journal holds absolute paths and the name of a network namespace. In a directory that was copied or renamed they lead
to another lab: following them would remove that lab's disks, keys and guests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emulator.apply.journal import Journal
from emulator.apply.state import State, StateStore
from emulator.core.errors import ConflictError
from emulator.core.ids import table_name
from emulator.core.paths import Home, LabPaths
from emulator.lab.names import namespace_name
from emulator.plan.model import Recorded
from emulator.plan.resources import Domain, Firewall, Hypervisor, Secret, SshKeyPair, Volume


@dataclass(frozen=True, slots=True)
class LabRecord:
    """The record of a lab: its journal, and the home that the lab is in.

    Attributes:
        home: by the name under which the lab was made. That name is in the lab's disks, domains and namespace: by
            another one, through a symbolic link for example, every path of the lab would look changed. Whatever is
            made for the lab is made from this home, never from the home of the environment.
        name: of the lab.
        store: the journal.
    """

    home: Home
    name: str
    store: StateStore

    @property
    def state(self) -> State:
        return self.store.state

    @property
    def paths(self) -> LabPaths:
        return self.home.lab(self.name)


def open_record(home: Home, name: str) -> LabRecord:
    """Open the journal of a lab, and find the name that its home had when the lab was made.

    Raises:
        ConflictError: the journal is another lab's.
        StateError: it cannot be read.
    """
    store = StateStore(Journal(home.lab(name).journal))
    return LabRecord(own_home(home, name, store.state), name, store)


def own_home(home: Home, lab: str, state: State) -> Home:
    """`home` by the name under which the lab was made.

    Raises:
        ConflictError: the record is not that of `lab` in `home`; says what shows it and how to fix it.
    """
    root = home.lab(lab).root
    homes: Counter[Home] = Counter()
    spelling = cache(lambda directory: _spelling(home, lab, directory))  # a lab has many paths in few directories
    for record in state.resources.values():
        for path in _paths(record):
            named = spelling(path.parent)
            if named is None:
                raise _foreign(root, record, str(path), _root_in(path))
            homes[named] += 1
    made = homes.most_common(1)[0][0] if homes else home
    for record in state.resources.values():
        match record.resource:
            case Hypervisor(namespace=namespace):
                fitting = [known for known in (made, *homes, home) if namespace_name(known, lab) == namespace]
                if not fitting:
                    raise _foreign(root, record, f"network namespace {namespace}", None)
                made = fitting[0]  # ending it ends all guests, so its name counts most
            case Firewall(table=table) if table != table_name(lab):
                raise _foreign(root, record, f"table {table}", None)
            case _:
                pass
    return made


def _paths(record: Recorded) -> Iterator[Path]:
    match record.resource:
        case Hypervisor(directory=path) | SshKeyPair(path=path) | Secret(path=path) | Volume(path=path):
            yield Path(path)
        case Domain(console_log=path) if path:  # unknown for a domain that was found without a record
            yield Path(path)
        case _:
            return
    there = record.handle.get("path")
    if isinstance(there, str):
        yield Path(there)


def _spelling(home: Home, lab: str, directory: Path) -> Home | None:
    """The home as the path of the lab's directory, or of one below it, names it; None for any other directory."""
    if ".." in directory.parts:
        return None
    mine = home.lab(lab).root
    if directory.is_relative_to(mine):
        return home
    real = mine.resolve()
    for root in (directory, *directory.parents):
        if root.parts[-2:] == (home.labs.name, lab) and root.resolve() == real:
            return Home(root.parent.parent)
    return None


def _root_in(path: Path) -> Path | None:
    """The directory of the lab that a path of the program's layout is in."""
    return next((parent for parent in path.parents if parent.parent.name == Home(Path("/")).labs.name), None)


def _foreign(root: Path, record: Recorded, what: str, origin: Path | None) -> ConflictError:
    refusal = f"nothing was changed: the journal is another lab's, since {record.resource.id} is on record as {what}"
    if origin is None:
        fix = f"if the directory was renamed, give it its old name back; if it is a copy, remove it: rm -r {root}"
    elif origin.exists():
        fix = f"the lab is {origin}; if {root} is a copy of it, move it elsewhere, or remove it: rm -r {root}"
    else:
        fix = f"if the directory was moved or renamed, move it back: mv {root} {origin}; remove a copy: rm -r {root}"
    return ConflictError(refusal, where=str(root / "journal.jsonl"), fix=fix)
