"""The state of a lab: a fold over its journal."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulator.apply.journal import Damage, Journal
from emulator.core.trust.identity import read_boot_id
from emulator.plan.model import Recorded
from emulator.plan.resources import DamagedRecordError, Resource, resource_from_json


@dataclass(frozen=True, slots=True)
class State:
    """The state that the journal describes.

    `facts` are by name: outcomes of phases (`phase/configure`) and decisions that later runs must keep
    (`hypervisor`: the libvirt URI, or `embedded`).
    """

    resources: Mapping[str, Recorded] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    damage: tuple[Damage, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.resources


def fold(entries: Iterable[Mapping[str, Any]], damage: tuple[Damage, ...] = (), lines: Sequence[int] = ()) -> State:
    """Replay entries in order; an entry with a missing or impossible value counts as damage.

    Entry types: `run` (a command started), `begin` / `end` / `fail` of an effect, `fact` (an
    outcome or a decision). Unknown types of the known version are skipped: they carry no resource.

    Args:
        entries: of the journal.
        damage: the damage found so far.
        lines: line numbers of the entries in the journal.

    Raises:
        StateError: a record of a resource kind that this version does not know.
    """
    resources: dict[str, Recorded] = {}
    facts: dict[str, str] = {}
    found = list(damage)
    for number, entry in enumerate(entries):
        try:
            replay(entry, resources, facts)
        except DamagedRecordError as error:
            found.append(Damage(lines[number] if lines else number + 1, error.what, torn=False))
    return State(resources, facts, tuple(sorted(found, key=lambda item: item.line)))


def replay(entry: Mapping[str, Any], resources: dict[str, Recorded], facts: dict[str, str]) -> None:
    """Bring `resources` and `facts` up to date with one more entry.

    Raises:
        DamagedRecordError: a value is missing or of the wrong type; nothing was changed.
        StateError: a record of a resource kind that this version does not know.
    """
    match entry.get("type"):
        case "begin":
            resource = resource_from_json(_object(entry, "resource"))
            action, handle, boot = _text(entry, "action"), _object(entry, "handle", {}), _text(entry, "boot", "")
            old = resources.get(resource.id)
            # While a delete is open, the old record still describes the object; the handle always does.
            kept = old.resource if old and action == "delete" else resource
            resources[resource.id] = Recorded(kept, old.handle if old else handle, action, boot)
        case "end" if entry.get("action") == "delete":
            resources.pop(_text(entry, "id"), None)
        case "end":
            resource = resource_from_json(_object(entry, "resource"))
            handle, boot = _object(entry, "handle", {}), _text(entry, "boot", "")
            resources[resource.id] = Recorded(resource, handle, None, boot)
        case "fact":
            facts[_text(entry, "name")] = _text(entry, "value")
        case _:
            return


def _text(entry: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise DamagedRecordError(f"its {key} is {value!r:.40}")
    return value


def _object(entry: Mapping[str, Any], key: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    value = entry.get(key, default)
    if not isinstance(value, Mapping):
        raise DamagedRecordError(f"its {key} is {value!r:.40}")
    return value


class StateStore:
    """The journal with its fold kept up to date. The executor writes through it."""

    def __init__(self, journal: Journal, *, boot_id: str | None = None) -> None:
        self.journal = journal
        self._boot = boot_id if boot_id is not None else read_boot_id()
        self._run = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._done: list[tuple[str, str]] = []
        contents = journal.read()
        state = fold(contents.entries, contents.damage, contents.lines)
        self._resources = dict(state.resources)
        self._facts = dict(state.facts)
        self.damage = state.damage

    @property
    def run_id(self) -> str:
        """Identifies this run of a command in the journal."""
        return self._run

    @property
    def done(self) -> tuple[tuple[str, str], ...]:
        """Effects that this run has finished, as action and resource id, oldest first."""
        with self._lock:
            return tuple(self._done)

    @property
    def state(self) -> State:
        with self._lock:
            return State(dict(self._resources), dict(self._facts), self.damage)

    def handle(self, resource_id: str) -> Mapping[str, Any]:
        """The handle of an existing resource; empty if it is not on record."""
        with self._lock:
            record = self._resources.get(resource_id)
            return dict(record.handle) if record else {}

    def open_action(self, resource_id: str) -> str | None:
        """The action on a resource that was begun and has no recorded end."""
        with self._lock:
            record = self._resources.get(resource_id)
            return record.open_action if record else None

    def start_run(self, command: str, **facts: str) -> None:
        self.journal.append({"type": "run", "run": self._run, "boot": self._boot, "command": command, **facts})

    def begin(self, action: str, resource: Resource) -> None:
        """Announce an effect; the entry is on the disk before the effect starts."""
        entry = {
            "type": "begin",
            "run": self._run,
            "boot": self._boot,
            "action": action,
            "id": resource.id,
            "resource": resource.to_json(),
        }
        self.journal.append(entry)
        self._fold(entry)

    def end(self, action: str, resource: Resource, handle: Mapping[str, Any]) -> None:
        """Record a finished effect with its handle; the entry is on the disk before any dependent effect starts."""
        entry: dict[str, Any] = {
            "type": "end",
            "run": self._run,
            "boot": self._boot,
            "action": action,
            "id": resource.id,
        }
        if action != "delete":
            entry |= {"resource": resource.to_json(), "handle": dict(handle)}
        self.journal.append(entry)
        self._fold(entry)
        with self._lock:
            self._done.append((action, resource.id))

    def fail(self, action: str, resource: Resource, error: str) -> None:
        """Record that an effect failed. Its `begin` stays open, so that the next run looks at the host."""
        self.journal.append(
            {"type": "fail", "run": self._run, "action": action, "id": resource.id, "error": error[:2000]}
        )

    def fact(self, name: str, value: str) -> None:
        """Record a decision or an outcome under a name; a later value replaces an earlier one."""
        entry = {"type": "fact", "run": self._run, "name": name, "value": value}
        self.journal.append(entry)
        self._fold(entry)

    def rewrite_damaged(self) -> Path | None:
        """Start a clean journal from the valid entries; the damaged file is kept next to it."""
        if not self.damage:
            return None
        state = self.state
        entries: list[Mapping[str, Any]] = [
            {"type": "fact", "run": self._run, "name": name, "value": value} for name, value in state.facts.items()
        ]
        for record in state.resources.values():
            entries.append(
                {
                    "type": "begin" if record.open_action else "end",
                    "run": self._run,
                    "action": record.open_action or "record",
                    "boot": record.boot_id,
                    "id": record.resource.id,
                    "resource": record.resource.to_json(),
                    "handle": dict(record.handle),
                }
            )
        kept = self.journal.rewrite(entries)
        self.damage = ()
        return kept

    def _fold(self, entry: Mapping[str, Any]) -> None:
        with self._lock:
            replay(entry, self._resources, self._facts)
