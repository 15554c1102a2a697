"""Parses the name of an image: `hpc-base`, `hpc-base:TAG` or `hpc-base@DIGEST`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_REFERENCE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]{0,62})(?::(?P<tag>[a-z0-9_][a-z0-9._-]{0,62})|@(?P<digest>[0-9a-f]{8,64}))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """`tag` and `digest` (8 or more first digits) are empty for the current image of the name; never both given."""

    name: str
    tag: str = ""
    digest: str = ""

    @property
    def fixed(self) -> bool:
        """Whether one build is meant, whatever the recipe says meanwhile."""
        return bool(self.tag or self.digest)


def parse_reference(text: str) -> Reference | None:
    """None when the text is no reference that begins with a name."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    return Reference(found["name"], found["tag"] or "", found["digest"] or "")
