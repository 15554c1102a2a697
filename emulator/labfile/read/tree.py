"""The tree of a lab file: values with their places, and the rules by which plain scalars get their type."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from emulator.labfile.findings import Position

# Digits beyond this are no number that a lab file means, and huge ones are slow to convert.
MAX_NUMBER_LENGTH = 30

_INT = re.compile(r"[-+]?[0-9]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_OCT = re.compile(r"0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

ScalarValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value; `raw` is the text as written, so that an unquoted version 1.30 stays 1.30."""

    at: Position
    value: ScalarValue
    raw: str
    size: int = 1
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key: value` of a mapping; `at` is where the key stands."""

    at: Position
    node: Node


@dataclass(frozen=True, slots=True)
class Map:
    """A mapping. `size` counts the nodes below as if every alias were written out; `depth` likewise."""

    at: Position
    entries: Mapping[str, Entry]
    size: int = 1
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Seq:
    """A list."""

    at: Position
    items: tuple[Node, ...]
    size: int = 1
    depth: int = 1


Node = Scalar | Map | Seq


def resolve_plain(text: str) -> ScalarValue:
    """Value of an unquoted scalar by the rules of YAML 1.2's core schema; not-a-number and infinities stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > MAX_NUMBER_LENGTH:
        return text
    if _INT.match(text):
        return int(text)
    if _HEX.match(text):
        return int(text[2:], 16)
    if _OCT.match(text):
        return int(text[2:], 8)
    if _FLOAT.match(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def positions(root: Node) -> dict[str, Position]:
    """Where each field stands, by field path; list items are left out."""
    found: dict[str, Position] = {}
    waiting: list[tuple[str, Node]] = [("", root)]
    while waiting:
        path, node = waiting.pop()
        for key, entry in node.entries.items() if isinstance(node, Map) else ():
            below = f"{path}.{key}" if path else key
            found[below] = entry.node.at if isinstance(entry.node, Scalar) and entry.node.raw else entry.at
            waiting.append((below, entry.node))
    return found
