"""From the checked tree to typed values: one reader for all sections of the file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from emulator.labfile.key import Form, UnusableError, attributes
from emulator.labfile.model import ClusterKind
from emulator.labfile.read.view import View
from emulator.labfile.schema import default_of

T = TypeVar("T")

_REFUSED = object()


def read_section(kind: type[T], view: View, base: T | None = None) -> T:
    """A section as the file gives it.

    Args:
        base: the values of keys that the file leaves out, or that were refused; by default those of `kind()`.
    """
    section: Any = kind() if base is None else base
    definition: Any = kind
    given = {}
    for each in attributes(definition):
        child = view.child(each.name)
        if child.node is not None:
            value = _read(child, each, default_of(each, section))
            if value is not _REFUSED:
                given[each.attribute] = value
    changed: T = replace(section, **given)
    return changed


def _read(view: View, about: Form, base: Any = None) -> Any:
    """A value that the schema has let through, or `_REFUSED`, which has left its finding."""
    section = attributes(about.kind)
    if about.key.read and not (section and view.is_map):
        try:
            return about.key.read(view.plain()) if view.complete else _REFUSED
        except UnusableError as fault:
            view.refuse(fault.code, fault.what, fault.fix)
            return _REFUSED
    if section:
        return read_section(about.kind, view, base)
    if about.item is None:
        return about.kind(view.plain())
    if about.is_list:
        items = (_read(item, about.item) for item in view.items())
        return tuple(item for item in items if item is not _REFUSED)
    given = ((each, view.child(each.value)) for each in ClusterKind)
    values = ((each, _read(child, about.item)) for each, child in given if child.node is not None)
    return {each: value for each, value in values if value is not _REFUSED}
