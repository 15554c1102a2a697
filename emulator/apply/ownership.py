"""Whose a thing on a shared hypervisor is: labs of the same name can be in several home directories of one host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.ids import resource_uuid
from emulator.core.ports import DomainInfo, NetworkInfo, Ownership


@dataclass(frozen=True, slots=True)
class LabIdentity:
    """A lab of a home directory (`Home.id`).

    A domain or network is the lab's by its mark *and* its UUID, which follows from the lab and the resource: whoever
    copies one copies the mark, too, but not the UUID, and may call either as he likes.

    `inherits`: the lab is in this home for certain, so that what bears its name and, being made by a version that
    did not write the home down, no home, is taken for its own. `disks` is where the disks of its domains are, which
    tells of a domain better than that.
    """

    lab: str
    home: str
    disks: Path
    inherits: bool = False

    def mark(self, resource_id: str, digest: str) -> Ownership:
        return Ownership(self.lab, resource_id, digest, self.home)

    def owns(self, owner: Ownership | None) -> bool:
        """Whether the mark is the lab's; of a domain or network that alone does not tell."""
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
        """Whether somebody copied a domain or network of the lab's with its mark; the copy is his."""
        return self.owns(info.owner) and not self._is_original(info)

    def has_disks_of(self, info: DomainInfo) -> bool:
        """Whether all the disks of a domain are where this lab's are."""
        return _below(info.disks, self.disks)

    def _is_original(self, info: DomainInfo | NetworkInfo) -> bool:
        return info.owner is not None and info.uuid == resource_uuid(self.lab, info.owner.resource_id)

    def whose(self, owner: Ownership | None) -> str:
        """The owner of something that is not this lab's, for a message."""
        if owner is None:
            return "not made by hyperscaler"
        return f"of lab {owner.lab}" + (f" in {owner.home}" if owner.home not in ("", self.home) else "")

    def whose_is(self, info: DomainInfo | NetworkInfo) -> str:
        """Like `whose`, of a domain or network."""
        if info.owner is not None and self.is_copy(info):
            return f"a copy of this lab's {info.owner.resource_id}"
        return self.whose(info.owner)


def _below(disks: Sequence[Path], directory: Path) -> bool:
    return all(disk.parent == directory for disk in disks)
