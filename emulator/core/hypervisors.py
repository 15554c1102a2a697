"""Names of the hypervisors that a lab can run on."""

from __future__ import annotations

from enum import StrEnum

EMBEDDED = "embedded"
"""A private libvirtd of the lab's own."""
SYSTEM_URI = "qemu:///system"
"""The host's own libvirt."""


class SystemHypervisor(StrEnum):
    """What the host's own libvirt shows about one lab.

    Attributes:
        ANSWERS: it can be asked.
        EMPTY: it does not answer, and its files show that it has nothing of the lab, or it is not installed.
        SILENT: it does not answer, and may have something.
    """

    ANSWERS = "answers"
    EMPTY = "empty"
    SILENT = "silent"
