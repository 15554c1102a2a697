"""Owners of objects on a shared hypervisor, where labs of the same name may come from several home directories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.ids import resource_uuid
from emulator.core.ports import DomainInfo, NetworkInfo, Ownership


@dataclass(frozen=True, slots=True)
class LabIdentity:
    """A lab of a home directory (`Home.id`).

    A domain or network is the lab's by its mark *and* its UUID, which is derived from the lab and the resource: a copy
    keeps the mark but gets a new UUID, and names prove nothing.

    `inherits` means that the lab is certainly in this home: objects with its name and without a home, made by a version
    that did not record the home, count as its own. `disks` is the directory of its domains' disks, which is the better
    evidence for a domain.
    """

    lab: str
    home: str
    disks: Path
    inherits: bool = False

    def mark(self, resource_id: str, digest: str) -> Ownership:
        return Ownership(self.lab, resource_id, digest, self.home)

    def owns(self, owner: Ownership | None) -> bool:
        """Whether the mark is the lab's. For a domain or network the mark alone is not enough."""
        if owner is None or owner.lab != self.lab:
            return False
        return owner.home == self.home or (not owner.home and self.inherits)

    def owns_domain(self, info: DomainInfo) -> bool:
        unmarked = info.owner is not None and not info.owner.home
        if unmarked and not self.has_disks_of(info):
            return False
        return self.owns(info.owner) and self._is_original(info)

    def owns_network(self, info: NetworkInfo) -> bool:
        return self.owns(info.owner) and self._is_original(info)

    def owns_thing(self, info: DomainInfo | NetworkInfo) -> bool:
        return self.owns_domain(info) if isinstance(info, DomainInfo) else self.owns_network(info)

    def is_copy(self, info: DomainInfo | NetworkInfo) -> bool:
        """Whether the object is a copy, made by hand, of a domain or network of the lab; the copy is foreign."""
        return self.owns(info.owner) and not self._is_original(info)

    def has_disks_of(self, info: DomainInfo) -> bool:
        """Whether all disks of a domain are in this lab's directory."""
        return _below(info.disks, self.disks)

    def _is_original(self, info: DomainInfo | NetworkInfo) -> bool:
        return info.owner is not None and info.uuid == resource_uuid(self.lab, info.owner.resource_id)

    def whose(self, owner: Ownership | None) -> str:
        """The owner of a foreign object, for a message."""
        if owner is None:
            return "not made by hyperscaler"
        return f"of lab {owner.lab}" + (f" in {owner.home}" if owner.home not in ("", self.home) else "")

    def whose_is(self, info: DomainInfo | NetworkInfo) -> str:
        """Like `whose`, for a domain or network."""
        if info.owner is not None and self.is_copy(info):
            return f"a copy of this lab's {info.owner.resource_id}"
        return self.whose(info.owner)


def _below(disks: Sequence[Path], directory: Path) -> bool:
    return all(disk.parent == directory for disk in disks)
