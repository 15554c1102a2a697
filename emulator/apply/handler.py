"""The protocol of a handler for one kind of resource, and the context that it works in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from emulator.plan.model import Observation, Recorded
from emulator.plan.resources import Resource

R_contra = TypeVar("R_contra", bound=Resource, contravariant=True)
Handle = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApplyContext:
    """`handle(resource_id)` returns the handle of an earlier resource; `report` shows a line live.

    `resumed` means that an earlier run began to delete the resource: an object found now may be a later, foreign one.
    """

    lab: str
    handle: Callable[[str], Handle]
    report: Callable[[str], None] = field(default=lambda _line: None)
    resumed: bool = False


class Handler(Protocol[R_contra]):
    """Observes, makes and removes one kind of resource.

    `ensure` is idempotent and serves create, adopt, update and repair alike: it completes whatever a crashed run left
    behind. It never touches anything foreign.
    """

    def observe(self, resource: R_contra, record: Recorded | None) -> Observation:
        """Look at the host; changes nothing."""
        ...

    def ensure(self, resource: R_contra, previous: Resource | None, context: ApplyContext) -> Handle:
        """Bring the resource into its wanted state and return its handle."""
        ...

    def delete(self, resource: R_contra, handle: Handle, context: ApplyContext) -> None:
        """Remove it; nothing happens if it is absent, and foreign objects are left alone."""
        ...

    def find(self, lab: str) -> Sequence[Resource]:
        """Resources of this kind on the host that bear the lab's marks, whether on record or not."""
        ...
