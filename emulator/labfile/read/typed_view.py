"""Reading a checked tree: typed values with the schema's defaults, and findings at the right place.

A value that the structural check refused reads as None, so that checks of other fields go on without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.labfile.findings import Finding, Position, Severity
from emulator.labfile.read.structure import reads_as_text
from emulator.labfile.read.tree import Map, Node, Scalar, ScalarValue, Seq
from emulator.labfile.schema import FieldPath, Schema, render_path, subschema


@dataclass(slots=True)
class Context:
    """What all views of one file share. `read` collects the paths asked for: a test compares it with the schema."""

    file: str
    bad: frozenset[FieldPath] = frozenset()
    findings: list[Finding] = field(default_factory=list)
    read: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class View:
    """One value of the file, present or not.

    Attributes:
        node: None when the value is absent or refused.
        broken: it was refused; its default does not apply.
        at: where a finding about the value points to; for an absent value, where its parent's key stands.
    """

    context: Context
    schema: Schema
    path: FieldPath
    node: Node | None
    at: Position
    broken: bool = False

    @property
    def present(self) -> bool:
        """Whether the file gives the value, usable or not."""
        return self.node is not None or self.broken

    @property
    def name(self) -> str:
        return render_path(self.path)

    def child(self, key: str) -> View:
        path = (*self.path, key)
        self.context.read.add(render_path(tuple(each for each in path)))
        schema = subschema(self.schema, key)
        if not isinstance(self.node, Map) or key not in self.node.entries:
            return View(self.context, schema, path, None, self.at, broken=self.broken)
        entry = self.node.entries[key]
        if path in self.context.bad:
            return View(self.context, schema, path, None, entry.node.at, broken=True)
        at = entry.node.at if isinstance(entry.node, Scalar) and entry.node.raw else entry.at
        return View(self.context, schema, path, entry.node, at)

    def items(self) -> tuple[View, ...]:
        """The items of a list; none when it is absent or refused."""
        if not isinstance(self.node, Seq):
            return ()
        schema = subschema(self.schema, 0)
        return tuple(
            View(self.context, schema, (*self.path, index), None, node.at, broken=True)
            if (*self.path, index) in self.context.bad
            else View(self.context, schema, (*self.path, index), node, node.at)
            for index, node in enumerate(self.node.items)
        )

    def names(self) -> tuple[str, ...]:
        """The keys of a mapping, in the order of the file."""
        return tuple(self.node.entries) if isinstance(self.node, Map) else ()

    def is_map(self) -> bool:
        return isinstance(self.node, Map)

    def text(self) -> str | None:
        value = self._value()
        return value if isinstance(value, str) else None

    def integer(self) -> int | None:
        value = self._value()
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def number(self) -> float | None:
        value = self._value()
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def boolean(self) -> bool | None:
        value = self._value()
        return value if isinstance(value, bool) else None

    def _value(self) -> ScalarValue:
        if self.broken:
            return None
        if self.node is None:
            default = self.schema.get("default")
            return default if isinstance(default, str | int | float | bool) else None
        if not isinstance(self.node, Scalar):
            return None
        return self.node.raw if reads_as_text(self.node, self.schema) else self.node.value

    def error(self, code: str, what: str, fix: str = "") -> None:
        self._add(Severity.ERROR, code, what, fix)

    def warning(self, code: str, what: str, fix: str = "") -> None:
        self._add(Severity.WARNING, code, what, fix)

    def _add(self, severity: Severity, code: str, what: str, fix: str) -> None:
        at = self.at
        self.context.findings.append(
            Finding(severity, code, self.context.file, at.line, at.column, self.name, what, fix)
        )
