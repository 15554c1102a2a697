"""The list of a lab's users, as it lies in the lab's directory."""

from __future__ import annotations

from emulator.credentials.users import AccessBook, parse_book
from emulator.lab.lab import Lab


def read_book(lab: Lab) -> AccessBook:
    """The lab's users; an empty book for a lab that never had any.

    Raises:
        StateError: the file is damaged.
    """
    try:
        return parse_book(lab.paths.access.read_bytes())
    except FileNotFoundError:
        return AccessBook()
