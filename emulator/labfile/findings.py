"""Findings of the validation, each with a place, a cause and a remedy, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# A file made of nothing but mistakes must not print a book.
MAX_FINDINGS = 200


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the file; line and column count from 1, and 0 means that the place is the file as a whole."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a lab file.

    Args:
        severity: errors make the file unusable, warnings do not.
        code: stable identifier for programs, such as ``network.overlap``.
        file: the file as the user named it.
        line: from 1; 0 when the fault is not at a line.
        column: from 1, in characters; 0 when the fault is not at a line.
        path: field path such as ``clusters.hpc.compute_nodes.count``; empty for the whole file.
        what: the fault, without a trailing full stop.
        fix: how to fix it; empty when there is nothing to add.
    """

    severity: Severity
    code: str
    file: str
    line: int
    column: int
    path: str
    what: str
    fix: str = ""

    @property
    def where(self) -> str:
        """``file:line:column``, or the file alone."""
        name = printable(self.file)
        return f"{name}:{self.line}:{self.column}" if self.line else name

    def render(self) -> str:
        """The finding as plain text: one line, and a second one with the remedy."""
        subject = f"{self.path}: " if self.path else ""
        text = f"{self.where}: {self.severity.value}: {subject}{self.what}"
        return f"{text}\n    fix: {self.fix}" if self.fix else text

    def to_json(self) -> dict[str, str | int]:
        return {
            "severity": self.severity.value,
            "code": self.code,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "what": self.what,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one file, in the order of the file.

    `positions` says where each field of the file stands, for checks that come later.
    """

    file: str
    findings: tuple[Finding, ...] = ()
    positions: Mapping[str, Position] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, file: str, findings: Iterable[Finding], *, positions: Mapping[str, Position] | None = None) -> Report:
        """A sorted report without repetitions; past `MAX_FINDINGS` the rest is counted, not listed.

        Errors are never dropped in favour of warnings.
        """
        unique = list(dict.fromkeys(findings))
        kept = sorted(unique, key=lambda each: each.severity is Severity.WARNING)[:MAX_FINDINGS]
        kept.sort(key=lambda each: (each.line, each.column, each.severity is Severity.WARNING, each.path, each.code))
        dropped = len(unique) - len(kept)
        if dropped:
            what = f"{dropped} further findings are not listed"
            kept.append(
                Finding(Severity.WARNING, "report.truncated", file, 0, 0, "", what, "fix these first and run again")
            )
        return cls(file, tuple(kept), positions or {})

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.severity is Severity.WARNING)

    def has_errors(self, *, strict: bool = False) -> bool:
        """Whether the file is refused; `strict` counts warnings as errors."""
        return bool(self.findings) if strict else bool(self.errors)

    def extended(self, more: Iterable[Finding]) -> Report:
        """The report with further findings sorted in."""
        return Report.of(self.file, (*self.findings, *more), positions=self.positions)

    def position_of(self, path: str) -> Position:
        """Where a field stands; for one that the file leaves out, where the nearest one above it does."""
        while path and path not in self.positions:
            path = path.rpartition(".")[0]
        return self.positions.get(path, Position())

    def finding(self, severity: Severity, code: str, path: str, what: str, fix: str) -> Finding:
        """A finding about a field of the file, at the field's place."""
        at = self.position_of(path)
        return Finding(severity, code, self.file, at.line, at.column, path, what, fix)

    def to_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "valid": not self.has_errors(),
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "findings": [each.to_json() for each in self.findings],
        }


def printable(text: str, *, limit: int = 200) -> str:
    """Text from outside, made safe for a terminal: control and invisible characters escaped, length capped."""
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "replace").decode() for char in cut)


def quoted(text: str) -> str:
    """Text from the file as it appears inside a message: ``'two'``."""
    return f"'{printable(text, limit=60)}'"


def counted(count: int, noun: str) -> str:
    """`1 slice`, `2 slices`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
