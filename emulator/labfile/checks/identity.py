"""Checks of what the nodes' identities on the host follow from."""

from __future__ import annotations

from emulator.core.ids import mac_address
from emulator.labfile.draft import Draft

# Of the lab's name, so that a number can follow it.
_LONGEST_STEM = 26


def check_mac_addresses(draft: Draft) -> None:
    """MAC addresses follow from the names of the lab and its nodes, and have 24 bits of their own: in a lab of 1000
    nodes two are the same with a probability of 3%."""
    view = draft.root.child("metadata").child("name")
    lab, names = draft.file.metadata.name, tuple(name for group in draft.groups for name in group.names)
    if not view.refused and (pair := _same_address(lab, names)):
        numbered = (f"{lab[:_LONGEST_STEM].rstrip('-')}-{number}" for number in range(2, 1000))
        other = next(name for name in numbered if not _same_address(name, names))
        view.error(
            "metadata.name",
            f"{pair[0]} and {pair[1]} of a lab of this name get the same MAC address, {mac_address(lab, pair[0])}",
            f"choose another name, for example {other}",
        )


def _same_address(lab: str, names: tuple[str, ...]) -> tuple[str, str] | None:
    """The first two nodes with one MAC address."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(mac_address(lab, name), name)
        if first != name:
            return first, name
    return None
