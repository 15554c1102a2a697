"""From the checked tree to typed values: one reader for all sections of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args, get_origin

from emulator.labfile.key import Key, UnusableError, attributes, unwrapped
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
            value = _read(child, each.key, each.kind, default_of(kind, each, base))
            if value is not _REFUSED:
                given[each.attribute] = value
    changed: T = replace(section, **given)
    return changed


def _read(view: View, key: Key, kind: Any, base: Any = None) -> Any:
    """A value that the schema has let through, or `_REFUSED`, which has left its finding."""
    if key.read and not (attributes(kind) and view.is_map):
        try:
            return key.read(view.plain()) if view.complete else _REFUSED
        except UnusableError as fault:
            view.refuse(fault.code, fault.what, fault.fix)
            return _REFUSED
    if attributes(kind):
        return read_section(kind, view, base)
    if get_origin(kind) is tuple:
        item_key, item_kind = unwrapped(get_args(kind)[0])
        items = (_read(item, item_key, item_kind) for item in view.items())
        return tuple(item for item in items if item is not _REFUSED)
    if get_origin(kind) is Mapping:
        return _by_cluster(view, *unwrapped(get_args(kind)[1]))
    return kind(view.plain())


def _by_cluster(view: View, key: Key, kind: Any) -> Mapping[ClusterKind, Any]:
    given = ((each, view.child(each.value)) for each in ClusterKind)
    values = ((each, _read(child, key, kind)) for each, child in given if child.node is not None)
    return {each: value for each, value in values if value is not _REFUSED}
