"""The data of planning: records, observations, and the changes that follow from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from emulator.plan.resources import JsonValue, Resource


class Presence(StrEnum):
    """Whether a resource exists on the host, and whose it is."""

    ABSENT = "absent"
    OURS = "ours"
    #: Ours, but unusable: left incomplete by an interrupted run.
    PARTIAL = "partial"
    #: Something foreign has its name, address or place.
    FOREIGN = "foreign"
    #: Cannot be observed before something that it needs is back (a stopped hypervisor).
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Observation:
    """A resource as seen on the host.

    `drift` lists differences from the record in words ("is shut off", "memory is 512 MiB instead of 1024 MiB").
    `digest` is the digest of the request that it was made from, if the host keeps it. `detail` names the owner of
    something foreign.
    """

    presence: Presence
    digest: str | None = None
    drift: tuple[str, ...] = ()
    detail: str = ""
    handle: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A resource according to the journal. `open_action` is an effect that was begun and has no recorded end."""

    resource: Resource
    handle: Mapping[str, JsonValue]
    open_action: str | None = None
    boot_id: str = ""


class Action(StrEnum):
    CREATE = "create"
    ADOPT = "adopt"
    UPDATE = "update"
    REPAIR = "repair"
    REPLACE = "replace"
    DELETE = "delete"

    @property
    def sign(self) -> str:
        return _SIGNS[self]


_SIGNS = {
    Action.CREATE: "+",
    Action.ADOPT: "=",
    Action.UPDATE: "~",
    Action.REPAIR: "!",
    Action.REPLACE: "±",
    Action.DELETE: "-",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One change. For UPDATE and REPLACE `previous` is the present resource."""

    action: Action
    resource: Resource
    reason: str
    previous: Resource | None = None

    def to_json(self) -> dict[str, str]:
        return {
            "action": self.action.value,
            "kind": self.resource.kind,
            "id": self.resource.id,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why the plan cannot be carried out: something foreign is in the way, or data would be lost."""

    resource_id: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered changes. An empty plan means that the host matches the file."""

    lab: str
    changes: tuple[Change, ...]
    blockers: tuple[Blocker, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.changes

    @property
    def digest(self) -> str:
        """Identifies these changes of these requests exactly, so that a stale plan can be refused."""
        data = [(change.to_json(), change.resource.digest) for change in self.changes]
        return hashlib.sha256(json.dumps([self.lab, data], sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "version": 1,
            "lab": self.lab,
            "digest": self.digest,
            "changes": [change.to_json() for change in self.changes],
            "blockers": [
                {"id": blocker.resource_id, "what": blocker.what, "fix": blocker.fix} for blocker in self.blockers
            ],
            "notes": list(self.notes),
        }
