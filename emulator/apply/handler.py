"""What a handler of a resource kind must do, and what it gets to do it with."""

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
    """`handle(resource_id)` gives the handle of something that was made before; `report` takes a live line. `resumed`
    says that an earlier run had begun to delete it: what is there now may be somebody else's, made since.
    """

    lab: str
    handle: Callable[[str], Handle]
    report: Callable[[str], None] = field(default=lambda _line: None)
    resumed: bool = False


class Handler(Protocol[R_contra]):
    """Everything the program knows about making one kind of resource.

    `ensure` is idempotent and serves create, adopt, update and repair alike: whatever half of it a crashed run
    left behind, calling it again leads to the same end. It never touches anything that is not the lab's.
    """

    def observe(self, resource: R_contra, record: Recorded | None) -> Observation:
        """Look at the host; changes nothing."""
        ...

    def ensure(self, resource: R_contra, previous: Resource | None, context: ApplyContext) -> Handle:
        """Make it so and return the handle."""
        ...

    def delete(self, resource: R_contra, handle: Handle, context: ApplyContext) -> None:
        """Take it away; absent is fine, foreign is left alone."""
        ...

    def find(self, lab: str) -> Sequence[Resource]:
        """Resources of this kind on the host that are this lab's by their own marks, without any record."""
        ...
