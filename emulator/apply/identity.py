"""Whose a thing on a shared hypervisor is: labs of the same name can be in several home directories of one host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.ports import DomainInfo, Ownership


@dataclass(frozen=True, slots=True)
class LabIdentity:
    """A lab of a home directory (`Home.id`).

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
        if owner is None or owner.lab != self.lab:
            return False
        return owner.home == self.home or (not owner.home and self.inherits)

    def owns_domain(self, info: DomainInfo) -> bool:
        unmarked = info.owner is not None and not info.owner.home
        if unmarked and not _below(info.disks, self.disks):
            return False
        return self.owns(info.owner)

    def whose(self, owner: Ownership | None) -> str:
        """The owner of something that is not this lab's, for a message."""
        if owner is None:
            return "not made by hyperscaler"
        return f"of lab {owner.lab}" + (f" in {owner.home}" if owner.home not in ("", self.home) else "")


def _below(disks: Sequence[Path], directory: Path) -> bool:
    return all(disk.parent == directory for disk in disks)
