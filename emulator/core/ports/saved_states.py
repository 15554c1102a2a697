"""What a hypervisor does with the whole state of a guest: write it to a file, go on from there, put layers together."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class SavedStates(Protocol):
    """The part of `Hypervisor` with which a lab is rewound.

    A saved state has the guest's memory and processor, not its disk. Who restores one gives the guest a disk with the
    content of that moment: on any other one its file systems would break.
    """

    def machine(self, *, accelerated: bool) -> str:
        """What a saved state is bound to, as text to compare: QEMU's version, this host and, with KVM, its CPU."""
        ...

    def power_off_domain(self, name: str) -> None:
        """Off at once, as by pulling the plug, and still defined; nothing happens if it is absent or off."""
        ...

    def save_domain(self, name: str, file: Path) -> None:
        """Write the state of a domain that runs or is paused to `file`, and leave the domain off.

        Afterwards the file is whole; after an error it is absent, and the domain is on as before.

        Raises:
            HypervisorError: it is off, or has a device of the host, whose state nobody can read; or the disk is full.
        """
        ...

    def restore_domain(self, name: str, file: Path) -> None:
        """Start a domain that is off from a saved state of its own. It is paused until `start_domain`.

        Raises:
            HypervisorError: it is on, or the file is missing, not whole, or another guest's.
        """
        ...

    def flatten_disk(self, name: str, base: Path) -> None:
        """Copy into the disk of a running domain what lies in the layers between it and `base`, which it stands on from
        then on. It takes as long as they are large; the guest goes on meanwhile. Nothing happens if it stands there.

        Raises:
            HypervisorError: the domain is off, or `base` is not under its disk.
        """
        ...
