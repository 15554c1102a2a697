"""Publishing the definition of the lab file: the JSON schema for editors, and the tables of the reference.

`python -m emulator.labfile.publish` renews both files after a key has changed; a test says when they are out of date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from emulator.core.data_files import share_dir
from emulator.labfile.schema import Schema, cluster_schema, expectation, mapping, subschema, types_of

BEGIN, END = "<!-- keys -->\n", "<!-- end of keys -->\n"

_HEADER = "| key | value | default | meaning | example |\n|---|---|---|---|---|\n"


def schema_path() -> Path:
    return share_dir() / "schemas" / "cluster.schema.json"


def reference_path() -> Path:
    return share_dir() / "docs" / "user" / "cluster-yaml.md"


def schema_text() -> str:
    """`schemas/cluster.schema.json` as it should be."""
    return json.dumps(cluster_schema(), indent=2) + "\n"


def reference_text(document: str) -> str:
    """The reference with the tables of all keys between its two marks renewed."""
    return renewed_tables(document, cluster_schema())


def renewed_tables(document: str, schema: Schema, level: str = "##") -> str:
    """A document with the tables of all keys of a schema between its two marks; `level` is that of their headings."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    renewed = "\n".join(tables(schema, level=level))
    return f"{before}{BEGIN}\n{renewed}\n{END}{after}"


def tables(schema: Schema, path: str = "", level: str = "##") -> Iterator[str]:
    """A section of the reference for a mapping and for each one below it, in the order of the schema."""
    known = mapping(schema, "properties")
    if known:
        listed = schema.get("required")
        required = listed if isinstance(listed, list) else []
        rows = (_row(key, subschema(schema, key), path, required=key in required) for key in known)
        yield f"{level} {f'`{path}`' if path else 'Top level'}\n\n{_about(schema)}\n\n{_HEADER}{''.join(rows)}"
    for key in known:
        yield from tables(subschema(schema, key), f"{path}.{key}" if path else key, level)
    if "items" in schema:
        yield from tables(subschema(schema, 0), f"{path}[]", level)


def _about(schema: Schema) -> str:
    see = schema.get("x-see")
    return f"{schema['description']} See [{see}]({see})." if see else str(schema["description"])


def _row(key: str, schema: Schema, path: str, *, required: bool) -> str:
    place = f"{path}.{key}" if path else key
    value = f"a mapping, see `{place}` below" if types_of(schema) == ("object",) else expectation(schema)
    default = "required" if required else _default(schema)
    examples = schema.get("examples")
    example = f"`{_flow(examples[-1])}`" if isinstance(examples, list) else ""
    cells = (f"`{key}`", value, default, str(schema["description"]), example)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if default is None:
        return ""
    if default in ("", []):
        return "empty" if default == "" else "none"
    return f"`{_flow(default)}`"


def _flow(value: object) -> str:
    """A value as YAML writes it in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(_flow(each) for each in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    schema_path().write_text(schema_text(), encoding="utf-8")
    reference_path().write_text(reference_text(reference_path().read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
