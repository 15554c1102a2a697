"""What is kept of a snapshot besides its files, and what a command was about to do with one. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from emulator.core.errors import StateError, UsageError

FORMAT = 1
PRISTINE = "pristine"
"""The snapshot that `reset` goes back to."""

SUSPENDED = "suspended"
"""Where the saved states of a suspended lab lie; no snapshot has this name."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")


def check_name(name: str) -> None:
    """Check a name before anything else, since it becomes part of paths.

    Raises:
        UsageError: it is not a snapshot's name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a snapshot's name: lower-case letters, digits and dashes, at most 30")
    if name == SUSPENDED:
        raise UsageError(f"no snapshot can be called {name}: it is what `hyperscaler suspend` makes")


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class SavedNode:
    """A node in a snapshot.

    Attributes:
        name: of the node.
        boot: digest of what it is booted with: kernel, initrd and command line.
        host_keys: digest of the ssh host keys that it had printed.
        public_key: the lab's key that it was started with.
        base: the file that its frozen disk stands on.
        disk_bytes, ram_bytes: what the frozen disk and the saved state take up.
        disk_sha256, ram_sha256: of their content; of no state it is empty.
    """

    name: str
    boot: str
    host_keys: str
    public_key: str
    base: str
    disk_bytes: int = 0
    ram_bytes: int = 0
    disk_sha256: str = ""
    ram_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot of a lab.

    Attributes:
        name, lab: whose it is.
        taken: when the guests were paused, seconds since the epoch.
        ram: whether it has the guests' memory, not their disks alone.
        machine: what the saved states are bound to (`SavedStates.machine`).
        file_sha256: of the lab file.
        resources: digests of what the guests are made of, and of the GPU layout, by id.
        secrets: digests of the lab's secrets, by name.
        access_sha256: of the record of who may log in.
        paused_seconds: how long the guests stood still for it.
        nodes: its parts.
    """

    name: str
    lab: str
    taken: int
    ram: bool
    machine: str
    file_sha256: str
    resources: Mapping[str, str]
    secrets: Mapping[str, str]
    access_sha256: str
    paused_seconds: float = 0.0
    nodes: tuple[SavedNode, ...] = field(default=())

    @property
    def space_bytes(self) -> int:
        return sum(node.disk_bytes + node.ram_bytes for node in self.nodes)


def render_manifest(manifest: Manifest) -> bytes:
    return _render(asdict(manifest))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """The inverse of `render_manifest`.

    Raises:
        StateError: it is damaged, or of a newer version.
    """
    data = _parse(text, where)
    try:
        nodes = tuple(SavedNode(**_typed(SavedNode, node)) for node in data.pop("nodes"))
        manifest = Manifest(**_typed(Manifest, {**data, "nodes": nodes}))
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(where) from error
    if not all(is_name(name) for name in (manifest.name, *(node.name for node in nodes))):
        raise _damaged(where)  # they become parts of paths
    return manifest


class Verb(StrEnum):
    CREATE = "create"
    RESTORE = "restore"
    SUSPEND = "suspend"
    STOP = "stop"


class Phase(StrEnum):
    """Where an operation is; each phase can be carried out again from its beginning.

    create: saving, freezing, resuming, sealing. restore: rewinding, resuming, healing. suspend: saving, parked, and on
    the way back rewinding, resuming, healing. stop: saving, parked.
    """

    SAVING = "saving"
    FREEZING = "freezing"
    RESUMING = "resuming"
    SEALING = "sealing"
    REWINDING = "rewinding"
    HEALING = "healing"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a command does with a snapshot, on the disk from before its first effect until after its last one.

    `boot` is the boot of the host in which the phase began: after another one no guest is on, and what was not synced
    may be lost.
    """

    verb: Verb
    snapshot: str
    phase: Phase
    ram: bool
    boot: str


def render_operation(operation: Operation) -> bytes:
    return _render(asdict(operation))


def parse_operation(text: bytes, where: str) -> Operation:
    """The inverse of `render_operation`.

    Raises:
        StateError: it is damaged, or of a newer version.
    """
    data = _parse(text, where)
    try:
        found = Operation(**_typed(Operation, {**data, "verb": Verb(data["verb"]), "phase": Phase(data["phase"])}))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(where) from error
    if not is_name(found.snapshot):
        raise _damaged(where)
    return found


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "Verb": (Verb,),
    "Phase": (Phase,),
}


def _typed(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `data` for the class, each of the kind that it declares.

    Raises:
        TypeError: one is of another kind.
        KeyError: the class has no such attribute.
    """
    declared = {each.name: str(each.type) for each in fields(cls)}
    for name, value in data.items():
        wanted = declared[name]
        kinds = _KINDS.get(wanted)
        if kinds is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (wanted == "bool")):
            raise TypeError(name)
        if wanted.startswith("Mapping") and not _is_text_by_name(value):
            raise TypeError(name)
    return dict(data)


def _is_text_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _render(data: Mapping[str, Any]) -> bytes:
    whole = {"format": FORMAT, **data}
    return json.dumps({**whole, "sum": _checksum(whole)}, indent=1, sort_keys=True).encode() + b"\n"


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise _damaged(where)
    said, form = data.pop("sum", None), data.get("format")
    if said != _checksum(data):
        raise _damaged(where)
    if form != FORMAT:
        raise StateError(
            f"its format is {form}, this version knows {FORMAT}",
            where=where,
            fix="use the version of hyperscaler that wrote it, or a newer one",
        )
    del data["format"]
    return data


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _damaged(where: str) -> StateError:
    return StateError("the record of a snapshot is damaged", where=where, fix="delete that snapshot")
