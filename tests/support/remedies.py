"""Remedies of findings, applied to the file as a reader would apply them."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Iterator
from typing import Any

from emulator.labfile.findings import Finding

_VALUE = r"`?'?([^\s`',;?]+?)'?`?"
# What a remedy says before a value, and whether the value is for the place of the finding or a key named with it.
_FORMS = (
    re.compile(rf"(?:^|, |write )for example {_VALUE}(?:$|[,;]| or )"),
    re.compile(rf"^write {_VALUE}(?: without quotes| or more)?(?:$|[,;]| or )"),
    re.compile(rf"^give it {_VALUE} (?:GB )?(?:or more|at least)"),
    re.compile(r"^set it to (\d+)$"),
)
_MEANT = re.compile(r"did you mean ([^?]+)\?")
_KEYS = re.compile(r"(?:set|write|add|or|example) `?([a-z0-9][a-z_.0-9+]*): (\[\d+\]|[a-z0-9_.-]+|\"[^\"]*\")`?(?:$|,)")
# A form of a duration, which stands in the place of a value.
_KINDS = {"minutes"}
_FULL_PATH = re.compile(r"^set (global\.[a-z_.]+) to (\d+)")


def changes(finding: Finding) -> Iterator[tuple[str, object]]:
    """What a remedy says to write where, as `(path, value)`; nothing when it names no value."""
    if match := _FULL_PATH.search(finding.fix):
        yield match[1], _scalar(match[2])
        return
    for name, text in _KEYS.findall(finding.fix):
        yield _beside(finding.path, name), _scalar(text)
    if match := _MEANT.search(finding.fix):
        yield from ((finding.path, text.strip("'")) for text in match[1].split(" or "))
    for form in _FORMS:
        for text in form.findall(finding.fix):
            if not text.endswith(":") and text not in _KINDS:
                yield finding.path, _scalar(text)


def _beside(path: str, name: str) -> str:
    """The path of a key that a remedy names: the finding's own, a key of its mapping or one next to it."""
    if path.rpartition(".")[2] == name:
        return path
    if name == "strategy":
        return "global.gpu_allocation.strategy"
    above = path.rpartition(".")[0]
    return f"{above}.{name}" if name in ("cni", "network_policy", "backend") else f"{path}.{name}"


def _scalar(text: str) -> object:
    if re.fullmatch(r"\[\d+\]", text):
        return [int(text[1:-1])]
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d+\.\d+", text):
        return float(text)
    return {"true": True, "false": False}.get(text, text.strip('"'))


def with_change(tree: dict[str, Any], path: str, value: object) -> dict[str, Any] | None:
    """The file with a value at a path such as `devices[0].model`; None where that path leads through no mapping."""
    changed = copy.deepcopy(tree)
    place: Any = changed
    keys: list[Any] = [int(part[1:-1]) if part[0] == "[" else part for part in _parts(path)]
    for key in keys[:-1]:
        if isinstance(key, str) and isinstance(place, dict):
            place = place.setdefault(key, {})
        elif isinstance(key, int) and isinstance(place, list) and key < len(place):
            place = place[key]
        else:
            return None
    last: Any = keys[-1]
    if not isinstance(place, dict if isinstance(last, str) else list):
        return None
    operator.setitem(place, last, value)
    return changed


def _parts(path: str) -> list[str]:
    """Keys and indices; a profile name as key has a point of its own."""
    return re.findall(r"\[\d+\]|\d+g\.\d+gb[a-z+.-]*|[^.\[\]]+", path)
