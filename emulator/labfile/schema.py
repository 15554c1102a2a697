"""The JSON schema of the lab file, made from `emulator.labfile.layout`, and words for what it expects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, StrEnum
from functools import cache
from typing import Any

from emulator.labfile.findings import printable
from emulator.labfile.key import Attribute, Form, Key, attributes
from emulator.labfile.layout import LabFile
from emulator.labfile.model import ClusterKind

Schema = Mapping[str, object]
FieldPath = tuple[str | int, ...]

_SCALARS = {bool: "boolean", int: "integer", float: "number"}


@cache
def cluster_schema() -> Schema:
    """The schema of the lab file, draft 2020-12; `schemas/cluster.schema.json` is this, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://hyperscaler.invalid/schemas/cluster/1.0/cluster.schema.json",
        "title": "hyperscaler lab file, version 1.0",
        "description": "A lab: a Slurm cluster, a Kubernetes cluster or both, on virtual machines of one host.",
        **section_schema(LabFile),
    }


def section_schema(kind: type, base: object = None) -> dict[str, object]:
    """An object with the keys of a class; the attributes of `base` are its defaults, or else those of the class."""
    known, start = attributes(kind), kind() if base is None else base
    schema: dict[str, object] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {each.name: _value(each, default_of(each, start)) for each in known},
    }
    required = [each.name for each in known if each.key.required]
    return {**schema, "required": required} if required else schema


def default_of(attribute: Attribute, section: object) -> Any:
    """The value that holds when the file leaves a key out; for a section that may be absent what it starts from."""
    value = getattr(section, attribute.attribute)
    return attribute.key.start if value is None else value


def _value(about: Form, default: object = None) -> dict[str, object]:
    key = about.key
    schema = {**_keywords(about, default), **key.keywords}
    if key.description:
        schema["description"] = key.description
    shown = default is not None and not key.required and not key.computed
    if shown and "default" not in schema and schema["type"] != "object":
        schema["default"] = _plain(default, key)
    return schema


def _keywords(about: Form, default: object) -> dict[str, object]:
    """What follows from the type alone."""
    kind = about.kind
    if attributes(kind):
        return section_schema(kind, default if isinstance(default, kind) else None)
    if about.item is not None:
        item = _value(about.item)
        shares = {each.value: item for each in ClusterKind}
        return (
            {"type": "array", "items": item}
            if about.is_list
            else {"type": "object", "additionalProperties": False, "properties": shares}
        )
    if issubclass(kind, StrEnum):
        return {"type": "string", "enum": [each.value for each in kind]}
    return {"type": _SCALARS.get(kind, "string")}


def _plain(value: object, key: Key) -> object:
    """A value as the file writes it."""
    if key.write:
        return key.write(value)
    if isinstance(value, tuple):
        return [_plain(each, Key()) for each in value]
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, bool | int | float) else str(value)


def mapping(schema: Schema, key: str) -> Schema:
    """A keyword's value that is itself a mapping; empty when absent."""
    value = schema.get(key)
    return value if isinstance(value, Mapping) else {}


def subschema(schema: Schema, key: str | int) -> Schema:
    """The schema of a property or of a list's items; empty for what the schema does not know."""
    if isinstance(key, int):
        return mapping(schema, "items")
    properties = mapping(schema, "properties")
    return mapping(properties, key) if key in properties else mapping(schema, "additionalProperties")


def schema_at(path: FieldPath, schema: Schema | None = None) -> Schema:
    """What a schema, by default the lab file's, says of a place."""
    schema = cluster_schema() if schema is None else schema
    for key in path:
        schema = subschema(schema, key)
    return schema


def types_of(schema: Schema) -> tuple[str, ...]:
    value = schema.get("type", ())
    if isinstance(value, str):
        return (value,)
    return tuple(str(each) for each in value) if isinstance(value, list) else ()


def properties(schema: Schema | None = None, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every property that the schema names, as `("clusters.hpc.controller.cpu_cores", its schema)`."""
    schema = cluster_schema() if schema is None else schema
    for key in mapping(schema, "properties"):
        below = subschema(schema, key)
        name = f"{path}.{key}" if path else key
        yield name, below
        yield from properties(below, name)
    if "items" in schema:
        yield from properties(subschema(schema, 0), f"{path}[]")


def render_path(path: FieldPath) -> str:
    """`("devices", 0, "id")` -> `devices[0].id`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            name = printable(key, limit=60)  # some keys are the file's own, and the file may be hostile
            text += f".{name}" if text else name
    return text


def expectation(schema: Schema) -> str:
    """What the schema wants, in words: `a whole number from 1 to 512`."""
    words = schema.get("x-expects")
    if isinstance(words, str):
        return words
    values = schema.get("enum")
    if isinstance(values, list):
        names = [str(each) for each in values]
        return f'"{names[0]}"' if len(names) == 1 else f"one of {', '.join(names)}"
    return " or ".join(_kind(each, schema) for each in types_of(schema))


def _kind(name: str, schema: Schema) -> str:
    if name in ("integer", "number"):
        text = ("a whole number" if name == "integer" else "a number") + _bounds(schema)
        step = schema.get("multipleOf")
        return f"{text} in steps of {step}" if step else text
    if name == "array":
        return "a list"
    if name == "object":
        return "a mapping (indented `key: value` lines)"
    return {"boolean": "true or false", "string": "text"}.get(name, name)


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of at least {low}" if low is not None else ""
