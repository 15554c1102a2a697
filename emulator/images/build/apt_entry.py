"""What an entry of the host's apt sources says of signatures: which keyring, and whether to do without one.

apt's own listing (`apt-get indextargets`) does not give the keyring, and calls every repository trusted whose signature
it has once verified. So the entry itself is read: sources.list(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# apt names an entry by its file, and by its line (one-line format) or its stanza (deb822), counted from 1.
_ENTRY = re.compile(r"(?P<path>/[^\s|]+\.(?P<format>list|sources)):(?P<number>[0-9]{1,6})")
_MAX_BYTES = 1024 * 1024
_PLAIN_PATH = re.compile(r"/[^\s\[\]|,]+")
_YES = frozenset({"yes", "true", "with", "on", "enable"})  # apt's own words for yes


@dataclass(frozen=True, slots=True)
class Signing:
    """`keyrings` are files of this host; none means apt's own trusted keys. `unchecked`: the host's administrator has
    said that there is nothing to verify."""

    keyrings: tuple[str, ...] = ()
    unchecked: bool = False

    @property
    def options(self) -> str:
        """As options of a one-line source, in brackets and with a space behind; empty for none."""
        words = [f"signed-by={','.join(self.keyrings)}"] if self.keyrings else []
        words += ["trusted=yes"] if self.unchecked else []
        return f"[{' '.join(words)}] " if words else ""


def signing_of(entry: str) -> Signing:
    """What the entry called `entry` (`/etc/apt/sources.list:3`) says; one that cannot be read says nothing, and then
    signatures are verified with apt's own keys."""
    found = _ENTRY.fullmatch(entry)
    if found is None:
        return Signing()
    try:
        with Path(found["path"]).open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(_MAX_BYTES)
    except OSError:
        return Signing()
    number = int(found["number"])
    options = _line_options(text, number) if found["format"] == "list" else _stanza_options(text, number)
    paths = re.split(r"[\s,]+", options.get("signed-by", ""))
    return Signing(
        keyrings=tuple(path for path in paths if _PLAIN_PATH.fullmatch(path) and Path(path).is_file()),
        unchecked=options.get("trusted", "").lower() in _YES,
    )


def _line_options(text: str, number: int) -> dict[str, str]:
    lines = text.splitlines()
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    bracket = re.match(r"\s*deb(?:-src)?\s+\[([^\]]*)\]", line)
    words = bracket[1].split() if bracket else []
    return {name.lower(): value for name, _, value in (word.partition("=") for word in words)}


def _stanza_options(text: str, number: int) -> dict[str, str]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    stanzas = [stanza for stanza in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)) if stanza.strip()]
    stanza = stanzas[number - 1] if 0 < number <= len(stanzas) else ""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1].isspace():  # goes on
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
            continue
        name, _, value = line.partition(":")
        name = name.strip().lower()
        fields[name] = value.strip()
    return fields
