"""The structural part of validation: jsonschema finds, this module says it in our words and at the exact place."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from emulator.labfile.findings import MAX_FINDINGS, Finding, Position, Severity, quoted
from emulator.labfile.read.tree import Map, Node, Scalar, Seq, resolve_plain
from emulator.labfile.schema import (
    FieldPath,
    Schema,
    cluster_schema,
    expectation,
    mapping,
    properties,
    render_path,
    schema_at,
    subschema,
    types_of,
)

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

Hint = Callable[[FieldPath, str], str]
Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]


@dataclass(slots=True)
class Structure:
    """Faults that the structural check found, and the paths of refused values, which must not be read."""

    root: Node
    schema: Schema
    errors: list[ValidationError] = field(default_factory=list)
    refused: set[FieldPath] = field(default_factory=set)

    def findings(self, *, file: str, hint: Hint) -> Iterator[Finding]:
        """The faults in our words; `hint` gives the remedy for a text at a path, or nothing."""
        for error in self.errors:
            yield from _translated(error, tuple(error.absolute_path), self, file, hint)


def check_structure(root: Node, schema: Schema | None = None) -> Structure:
    """Check a document's tree against a published schema, by default the lab file's; all faults at once."""
    result = Structure(root, cluster_schema() if schema is None else schema)
    for error in _validator()(result.schema).iter_errors(to_plain(root, result.schema)):
        path: FieldPath = tuple(error.absolute_path)
        about_keys = error.validator in ("additionalProperties", "required")
        bad_key = "propertyNames" in error.absolute_schema_path
        if about_keys or bad_key or path not in result.refused:  # a value that is wrong in several ways is wrong once
            result.errors.append(error)
        if error.validator == "required":
            result.refused.update((*path, name) for name in _absent(error))
        elif not about_keys:
            result.refused.add(path)
    return result


def to_plain(node: Node, schema: Schema) -> Plain:
    """The tree as plain values for jsonschema, read with the schema in hand.

    Where the schema wants text, an unquoted number is the text as written (`version: 1.30` is not 1.3), and
    where it wants a mapping, a key with nothing after it is an empty one.
    """
    if isinstance(node, Map):
        return {key: to_plain(entry.node, subschema(schema, key)) for key, entry in node.entries.items()}
    if isinstance(node, Seq):
        items = subschema(schema, 0)
        return [to_plain(item, items) for item in node.items]
    kinds = types_of(schema)
    if node.value is None and kinds == ("object",):
        return {}
    if reads_as_text(node, schema):
        return node.raw
    return node.value


def reads_as_text(node: Scalar, schema: Schema) -> bool:
    """Whether an unquoted number stands where the schema wants text."""
    kinds = types_of(schema)
    number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return number and "string" in kinds and "integer" not in kinds and "number" not in kinds


@cache
def _validator() -> Callable[[Schema], Validator]:
    """Validators whose patterns end where the text ends: Python's `$` would let a final line break through."""
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend

    def pattern(_: Validator, wanted: str, instance: object, __: Schema) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", wanted), instance):
            yield ValidationError("does not match")

    checker: Callable[[Schema], Validator] = extend(Draft202012Validator, {"pattern": pattern})  # type: ignore[no-untyped-call]
    return checker


def _translated(
    error: ValidationError, path: FieldPath, checked: Structure, file: str, hint: Hint
) -> Iterable[Finding]:
    keyword, root = str(error.validator), checked.root
    schema = schema_at(path, checked.schema)
    if "propertyNames" in error.absolute_schema_path:
        key = str(error.instance)
        yield _bad_key(key, path, schema, root, file, hint((*path, key), key))
    elif keyword == "required":
        yield from _missing(error, path, checked, file)
    elif keyword == "additionalProperties":
        yield from _unknown(path, schema, checked, file)
    else:
        at, node = locate(root, path), node_at(root, path)
        code, what = _value_fault(keyword, schema, node)
        text = node.value if isinstance(node, Scalar) and isinstance(node.value, str) else ""
        fix = hint(path, text) or _value_fix(schema, node)
        yield Finding(Severity.ERROR, code, file, at.line, at.column, render_path(path), what, fix)


def _value_fault(keyword: str, schema: Schema, node: Node | None) -> tuple[str, str]:
    """Code and message of a value that the schema refuses."""
    match keyword:
        case "minItems":
            return "value.length", f"expected at least {schema['minItems']} item, got an empty list"
        case "maxItems":
            got = len(node.items) if isinstance(node, Seq) else 0
            return "value.length", f"expected at most {schema['maxItems']} items, got {got}"
        case "maxProperties":
            return "value.length", f"expected at most {schema['maxProperties']} keys"
        case "maxLength":
            return "value.length", f"expected at most {schema['maxLength']} characters"
        case "minLength":
            return "value.length", "expected text, got nothing"
        case "minProperties":
            names = ", ".join(mapping(schema, "properties"))
            return "value.empty", f"expected at least one of {names}, got none of them"
        case "type":
            return "value.type", f"expected {expectation(schema)}, got {shown(node)}"
        case "enum":
            return "value.choice", f"expected {expectation(schema)}, got {shown(node)}"
        case "pattern":
            return "value.form", f"expected {expectation(schema)}, got {shown(node)}"
        case _:
            return "value.range", f"expected {expectation(schema)}, got {shown(node)}"


def _value_fix(schema: Schema, node: Node | None) -> str:
    """A remedy where there is one to name: the near choice, the boolean meant, an example."""
    choices = schema.get("enum")
    if isinstance(choices, list) and len(choices) == 1:
        return f'write "{choices[0]}"'
    if isinstance(node, Scalar) and isinstance(node.value, str):
        word = node.value.lower()
        if types_of(schema) == ("boolean",):
            meant = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}.get(word)
            return f"write {meant}" if meant else "write true or false without quotes"
        if isinstance(choices, list) and (near := nearest(word, [str(each) for each in choices])):
            return f"did you mean {quoted(near)}?"
        if set(types_of(schema)) <= {"integer", "number"} and _is_valid(resolve_plain(node.value), schema):
            return f"write {word} without quotes"
    if isinstance(node, Scalar) and isinstance(node.value, bool) and "string" in types_of(schema):
        return "put it in quotes if it is meant as text"
    if isinstance(node, Scalar) and types_of(schema) == ("array",) and _is_valid([node.value], schema):
        return f"write it as a list: [{json.dumps(node.value, ensure_ascii=False)}]"
    examples = schema.get("examples")
    if isinstance(examples, list) and examples and isinstance(examples[0], str | int | float):
        return f"for example {examples[0]}"
    if isinstance(choices, list) and choices:
        return f"write {', '.join(str(each) for each in choices[:-1])} or {choices[-1]}"
    return ""


def _is_valid(value: Plain, schema: Schema) -> bool:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema).is_valid(value)


def _missing(error: ValidationError, path: FieldPath, checked: Structure, file: str) -> Iterable[Finding]:
    at = locate(checked.root, path, key=True)
    for name in _absent(error):
        schema = schema_at((*path, name), checked.schema)
        examples = schema.get("examples")
        example = f"add `{name}: {examples[0]}`" if isinstance(examples, list) and examples else f"add `{name}:`"
        if name == "version":
            example = 'add `version: "1.0"`'
        field_path = render_path((*path, name))
        yield Finding(
            Severity.ERROR, "key.missing", file, at.line, at.column, field_path, "this key is missing", example
        )


def _absent(error: ValidationError) -> list[str]:
    """The required keys that are missing."""
    present = error.instance if isinstance(error.instance, dict) else {}
    wanted = error.validator_value if isinstance(error.validator_value, list) else []
    return [str(each) for each in wanted if each not in present]


def _unknown(path: FieldPath, schema: Schema, checked: Structure, file: str) -> Iterable[Finding]:
    node = node_at(checked.root, path)
    known = list(mapping(schema, "properties"))
    if not isinstance(node, Map):
        return
    free = [name for name in known if name not in node.entries]
    unknown = [key for key in node.entries if key not in known]
    for index, key in enumerate(unknown):
        at = node.entries[key].at
        # Looking for the key that was meant is slow, and past that number the finding is not listed.
        fix = _unknown_fix(key, free, known, checked.schema) if index < MAX_FINDINGS else ""
        what = f"unknown key {quoted(key)}"
        yield Finding(Severity.ERROR, "key.unknown", file, at.line, at.column, render_path(path), what, fix)


def _unknown_fix(key: str, free: list[str], known: list[str], schema: Schema) -> str:
    if near := nearest(key, free) or nearest(key, known):
        return f"did you mean {quoted(near)}?"
    homes = [path for path, _ in properties(schema) if path.rsplit(".", 1)[-1] == key and "[]" not in path]
    if homes:
        return f"{quoted(key)} belongs to {', '.join(home.rpartition('.')[0] or 'the top level' for home in homes[:3])}"
    return f"known here: {', '.join(known)}"


def _bad_key(key: str, path: FieldPath, schema: Schema, root: Node, file: str, fix: str) -> Finding:
    node = node_at(root, path)
    at = node.entries[key].at if isinstance(node, Map) and key in node.entries else locate(root, path)
    wanted = expectation(mapping(schema, "propertyNames"))
    what = f"expected {wanted} as key, got {quoted(key)}"
    return Finding(Severity.ERROR, "key.form", file, at.line, at.column, render_path(path), what, fix)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that was probably meant, if one is near enough."""
    found = difflib.get_close_matches(word[:100], list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def shown(node: Node | None) -> str:
    """A value as messages show it."""
    match node:
        case None:
            return "nothing"
        case Map():
            return "a mapping"
        case Seq():
            return "a list"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=str() as text):
            return quoted(text)
        case _:
            return quoted(node.raw).strip("'")


def node_at(root: Node, path: FieldPath) -> Node | None:
    node: Node | None = root
    for key in path:
        if isinstance(node, Map) and isinstance(key, str) and key in node.entries:
            node = node.entries[key].node
        elif isinstance(node, Seq) and isinstance(key, int) and key < len(node.items):
            node = node.items[key]
        else:
            return None
    return node


def locate(root: Node, path: FieldPath, *, key: bool = False) -> Position:
    """Where a value stands, or with `key` where its key does; collections are always shown at their key."""
    node = node_at(root, path)
    parent = node_at(root, path[:-1]) if path else None
    last = path[-1] if path else None
    if isinstance(parent, Map) and isinstance(last, str) and (key or not isinstance(node, Scalar) or not node.raw):
        return parent.entries[last].at
    return node.at if node is not None else root.at
