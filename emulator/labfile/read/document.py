"""YAML text to a tree that knows where everything stands in the file.

PyYAML's parser (libyaml) delivers events; the tree is built from them here, iteratively, because the file is hostile
until proven otherwise: nesting and alias expansion are bounded while parsing, tags are refused, and no
Python object is ever constructed. Plain scalars follow YAML 1.2: `yes`, `on` and `24:00:00` are text, not
a boolean or a number in base 60.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from emulator.labfile.findings import Finding, Position, Severity, printable, quoted
from emulator.labfile.read.tree import Entry, Map, Node, Scalar, Seq, resolve_plain

# A real lab file nests about 7 deep and a 500-node one has some thousands of nodes.
MAX_DEPTH = 32
MAX_NODES = 100_000
# Everything outside YAML 1.2's printable set, lone surrogates among it.
_NOT_YAML = re.compile("[^\\t\\n\\r\\x20-\\x7e\\x85\\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. `root` is None when there is nothing that could be used."""

    file: str
    root: Node | None
    findings: tuple[Finding, ...] = ()


class _Stop(Exception):  # noqa: N818 - control flow inside this module, never seen outside
    """Parsing cannot go on; carries the finding."""

    def __init__(self, code: str, at: Position, what: str, fix: str) -> None:
        super().__init__(what)
        self.code, self.at, self.what, self.fix = code, at, what, fix


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been seen; `key` is the pending key of a mapping."""

    at: Position
    is_map: bool
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    merges: list[tuple[Position, Node]] = field(default_factory=list)
    key: tuple[Position, str | None] | None = None
    size: int = 1
    depth: int = 0


def parse_document(text: str, *, file: str) -> Document:
    """Parse YAML text; never raises, every fault is a finding of the document."""
    builder = _Builder(file)
    try:
        root = builder.build(text)
    except _Stop as stop:
        builder.add(stop.code, stop.at, stop.what, stop.fix)
        root = None
    return Document(file, root, tuple(builder.findings))


class _Builder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._root: Node | None = None
        self._documents = 0

    def add(self, code: str, at: Position, what: str, fix: str = "", *, path: str = "") -> None:
        self.findings.append(Finding(Severity.ERROR, code, self.file, at.line, at.column, path, what, fix))

    def build(self, text: str) -> Node | None:
        # Checked here because libyaml reports such characters by byte, and our columns count characters.
        if odd := _NOT_YAML.search(text):
            raise _Stop(
                "yaml.character",
                _position_of(text, odd.start()),
                f"the character U+{ord(odd[0]):04X} is not allowed in a YAML file",
                "remove it; the file must be plain text",
            )
        try:
            for event in _events(text):
                self._take(event)
        except yaml.MarkedYAMLError as error:
            raise _syntax_stop(error, text) from None
        except yaml.YAMLError as error:
            raise _Stop("yaml.syntax", Position(1, 1), f"not YAML: {printable(str(error))}", "") from None
        return self._root

    def _take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        at = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _Stop(
                        "yaml.documents",
                        at,
                        "a lab file holds one document, and a second one starts here",
                        "put each lab into a file of its own",
                    )
            case yaml.ScalarEvent():
                self._refuse_tag(event.tag, at)
                plain = bool(event.implicit[0])
                value = resolve_plain(event.value) if plain else event.value
                self._place(Scalar(at, value, event.value), at, event.anchor)
            case yaml.AliasEvent():
                self._place(self._aliased(str(event.anchor), at), at, None)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._refuse_tag(event.tag, at)
                self._push(at, event.anchor, is_map=isinstance(event, yaml.MappingStartEvent))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                opened = self._stack.pop()
                self._place(_closed(self, opened), opened.at, opened.anchor)
            case _:
                pass

    def _push(self, at: Position, anchor: str | None, *, is_map: bool) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise _too_deep(at)
        if anchor is not None:
            self._anchors[anchor] = None
        self._stack.append(_Open(at, is_map, anchor))

    def _place(self, node: Node, at: Position, anchor: str | None) -> None:
        """Put a complete node where it belongs: the root, a list, a key or a value."""
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.size += node.size
        parent.depth = max(parent.depth, node.depth)
        if len(self._stack) + node.depth > MAX_DEPTH + 1:
            raise _too_deep(at)
        if parent.size > MAX_NODES:
            raise _Stop(
                "yaml.bomb",
                at,
                f"the file expands to more than {MAX_NODES} values",
                "write fewer values; anchors and aliases count as often as they are used",
            )
        if not parent.is_map:
            parent.items.append(node)
        elif parent.key is None:
            parent.key = (at, self._key_text(node, at))
        else:
            self._put(parent, node)
            parent.key = None

    def _key_text(self, node: Node, at: Position) -> str | None:
        if isinstance(node, Scalar) and (isinstance(node.value, str) or node.raw):
            return node.raw
        what = "a key must be text, not a list or a mapping" if not isinstance(node, Scalar) else "a key is empty"
        self.add("yaml.key", at, what, "write `key: value`; quote text that holds braces or brackets")
        return None

    def _put(self, parent: _Open, node: Node) -> None:
        assert parent.key is not None  # noqa: S101 - _place calls only with a pending key
        at, key = parent.key
        if key is None:
            return
        if key == "<<":
            parent.merges.append((at, node))
        elif key in parent.entries:
            first = parent.entries[key].at
            self.add(
                "yaml.duplicate-key",
                at,
                f"the key {quoted(key)} was already given in line {first.line}",
                "keep one of the two",
            )
        else:
            parent.entries[key] = Entry(at, node)

    def _aliased(self, name: str, at: Position) -> Node:
        if name not in self._anchors:
            raise _Stop("yaml.alias", at, f"the alias *{printable(name)} has no anchor &{printable(name)} above it", "")
        node = self._anchors[name]
        if node is None:
            raise _Stop("yaml.alias", at, f"the alias *{printable(name)} refers to what it stands in", "write it out")
        return node

    def _refuse_tag(self, tag: str | None, at: Position) -> None:
        if tag is not None:
            self.add(
                "yaml.tag",
                at,
                f"the tag {quoted(tag)} is not allowed in a lab file",
                "remove the tag; quote the value if it must stay text",
            )


def _closed(builder: _Builder, opened: _Open) -> Node:
    if not opened.is_map:
        return Seq(opened.at, tuple(opened.items), opened.size, opened.depth + 1)
    entries = dict(opened.entries)
    for at, node in opened.merges:
        sources = node.items if isinstance(node, Seq) else (node,)
        for source in sources:
            if isinstance(source, Map):
                for key, entry in source.entries.items():
                    entries.setdefault(key, entry)
            else:
                builder.add("yaml.merge", at, "'<<' merges mappings, and this is none", "name an anchor of a mapping")
    return Map(opened.at, entries, opened.size, opened.depth + 1)


def _events(text: str) -> Iterator[yaml.Event]:
    """Events of the C parser, or of the Python one where PyYAML was built without libyaml."""
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    yield from yaml.parse(text, Loader=loader)


def _too_deep(at: Position) -> _Stop:
    return _Stop("yaml.depth", at, f"values are nested more than {MAX_DEPTH} deep", "a lab file nests about 7 deep")


_HINTS = (
    ("cannot start any token", "indent with spaces, not tabs; quote text that begins with a special character"),
    ("mapping values are not allowed", "check the indentation, and quote text that holds a colon and a space"),
    ("could not find expected ':'", "write `key: value` with a space after the colon"),
    ("did not find expected key", "check the indentation: keys of one group start in the same column"),
    ("did not find expected '-' indicator", "check the indentation: items of one list start in the same column"),
    ("did not find expected ',' or", "close the bracket or add the missing comma"),
    ("unexpected end of stream", "close the quote that was opened"),
    ("unexpected document indicator", "close the quote that was opened"),
    ("undefined alias", "define the anchor above its alias"),
)


def _syntax_stop(error: yaml.MarkedYAMLError, text: str) -> _Stop:
    mark = error.problem_mark or error.context_mark
    if error.context_mark and "end of stream" in str(error.problem):
        mark = error.context_mark  # where the quote was opened says more than where the file ended
    at = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
    problem = printable(error.problem or "cannot be parsed")
    if "nesting depth" in problem:  # libyaml since PyYAML 6.0.4 reads ahead and stops at a limit of its own
        return _too_deep(at)
    context = f" ({printable(error.context)})" if error.context else ""
    hint = next((fix for part, fix in _HINTS if part in problem), "")
    lines = text.splitlines()
    line = lines[at.line - 1] if at.line <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        hint = "indent with spaces, not tabs"
    return _Stop("yaml.syntax", at, f"not valid YAML: {problem}{context}", hint)


def _position_of(text: str, index: int) -> Position:
    before = text[:index]
    return Position(before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)
