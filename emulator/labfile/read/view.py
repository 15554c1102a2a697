"""Places of the checked tree: what stands there, whether it was refused, and findings about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from emulator.labfile.findings import Finding, Position, Severity
from emulator.labfile.read.structure import Plain, to_plain
from emulator.labfile.read.tree import Map, Node, Scalar, Seq
from emulator.labfile.schema import FieldPath, Schema, render_path, subschema

T = TypeVar("T")


@dataclass(slots=True)
class Context:
    """What all views of one file share.

    Attributes:
        refused: paths of values that must not be used; each has its finding.
        reported: paths about which there is an error.
    """

    file: str
    refused: set[FieldPath] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    reported: set[FieldPath] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class View:
    """One place of the file.

    Attributes:
        node: None when nothing stands there, or when it was refused.
        at: where a finding about the value points to; for an absent value, where its parent's key stands.
    """

    context: Context
    schema: Schema
    path: FieldPath
    node: Node | None
    at: Position

    @property
    def refused(self) -> bool:
        """Whether the value, or a section around it, has a finding already; its default does not apply."""
        refused = self.context.refused
        return bool(refused) and any(self.path[:depth] in refused for depth in range(len(self.path) + 1))

    @property
    def present(self) -> bool:
        """Whether the file gives the value, usable or not."""
        return self.node is not None or self.refused

    @property
    def is_map(self) -> bool:
        return isinstance(self.node, Map)

    @property
    def complete(self) -> bool:
        """Whether neither the value nor anything in it was refused."""
        depth = len(self.path)
        return not self.refused and not any(path[:depth] == self.path for path in self.context.refused)

    @property
    def name(self) -> str:
        return render_path(self.path)

    def child(self, key: str) -> View:
        path, schema = (*self.path, key), subschema(self.schema, key)
        entry = self.node.entries.get(key) if isinstance(self.node, Map) else None
        if entry is None:
            return View(self.context, schema, path, None, self.at)
        if path in self.context.refused:
            return View(self.context, schema, path, None, entry.node.at)
        at = entry.node.at if isinstance(entry.node, Scalar) and entry.node.raw else entry.at
        return View(self.context, schema, path, entry.node, at)

    def items(self) -> Iterator[View]:
        """The items of a list that were not refused; none when the list is absent."""
        schema, refused = subschema(self.schema, 0), self.context.refused
        for index, node in enumerate(self.node.items if isinstance(self.node, Seq) else ()):
            path = (*self.path, index)
            if path not in refused:
                yield View(self.context, schema, path, node, node.at)

    def each(self, key: str, values: Iterable[T]) -> Iterator[tuple[View, T]]:
        """The items of the list at `key`, with their values as they were read; none when the file has no such list."""
        place = self.child(key)
        return zip(place.items(), values, strict=True) if place.node is not None else iter(())

    def usable(self, key: str, value: T) -> T | None:
        """The value of `key` as it was read; None when the file's was refused."""
        return None if self.child(key).refused else value

    def plain(self) -> Plain:
        """What stands there, as plain values."""
        return None if self.node is None else to_plain(self.node, self.schema)

    def refuse(self, code: str, what: str, fix: str = "") -> None:
        """An error that makes the value unusable."""
        self.error(code, what, fix)
        self.context.refused.add(self.path)

    def error(self, code: str, what: str, fix: str = "") -> None:
        self._add(Severity.ERROR, code, what, fix)

    def warning(self, code: str, what: str, fix: str = "") -> None:
        self._add(Severity.WARNING, code, what, fix)

    @property
    def judged(self) -> bool:
        """Whether the value has its finding. A mapping or a list may get several, a value gets one."""
        return self.refused or (isinstance(self.node, Scalar) and self.path in self.context.reported)

    def _add(self, severity: Severity, code: str, what: str, fix: str) -> None:
        if self.judged:
            return
        at = self.at
        self.context.findings.append(
            Finding(severity, code, self.context.file, at.line, at.column, self.name, what, fix)
        )
        if severity is Severity.ERROR:
            self.context.reported.add(self.path)
