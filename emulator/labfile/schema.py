"""The published JSON schema as the loader uses it: merged subschemas, defaults, and words for what is expected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import cast

from emulator.core.data_files import share_dir
from emulator.labfile.findings import printable

Schema = Mapping[str, object]
FieldPath = tuple[str | int, ...]


def schema_path() -> Path:
    return share_dir() / "schemas" / "cluster.schema.json"


@cache
def cluster_schema() -> Schema:
    """The schema of the lab file, read once."""
    return cast(Schema, json.loads(schema_path().read_text(encoding="utf-8")))


def merged(schema: Schema) -> Schema:
    """The schema with a `$ref` into `$defs` resolved; keywords beside the reference win."""
    target = schema.get("$ref")
    if not isinstance(target, str):
        return schema
    definitions = mapping(cluster_schema(), "$defs")
    base = merged(mapping(definitions, target.removeprefix("#/$defs/")))
    return {**base, **{key: value for key, value in schema.items() if key != "$ref"}}


def mapping(schema: Schema, key: str) -> Schema:
    """A keyword's value that is itself a mapping; empty when absent."""
    value = schema.get(key)
    return value if isinstance(value, Mapping) else {}


def subschema(schema: Schema, key: str | int) -> Schema:
    """The merged schema of a property or of a list's items; empty for what the schema does not know."""
    if isinstance(key, int):
        return merged(mapping(schema, "items"))
    properties = mapping(schema, "properties")
    return merged(mapping(properties, key) if key in properties else mapping(schema, "additionalProperties"))


def schema_at(path: FieldPath) -> Schema:
    schema = merged(cluster_schema())
    for key in path:
        schema = subschema(schema, key)
    return schema


def types_of(schema: Schema) -> tuple[str, ...]:
    value = schema.get("type", ())
    if isinstance(value, str):
        return (value,)
    return tuple(str(each) for each in value) if isinstance(value, list) else ()


def properties(schema: Schema | None = None, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every property that the schema names, as `("clusters.hpc.controller.cpu_cores", merged schema)`."""
    schema = merged(cluster_schema() if schema is None else schema)
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
