"""Schema, defaults, reference and reader are one definition: what is published is what is read."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from emulator.core.data_files import share_dir
from emulator.labfile.findings import Position
from emulator.labfile.key import attributes, key
from emulator.labfile.layout import LabFile
from emulator.labfile.publish import reference_path, reference_text, schema_path, schema_text, tables
from emulator.labfile.read.document import parse_document
from emulator.labfile.read.sections import read_section
from emulator.labfile.read.structure import to_plain
from emulator.labfile.read.view import Context, View
from emulator.labfile.schema import Schema, cluster_schema, expectation, properties, section_schema, types_of

# Every section and every kind of list item is there, with no more keys than it takes.
FULL: Mapping[str, Any] = {
    "version": "1.0",
    "metadata": {"name": "x"},
    "global": {
        "networks": {"hpc_network": {"allow": [{}]}, "cloud_network": {"allow": [{}]}},
        "gpu_allocation": {"devices": [{"model": "x"}], "mig_slices": {}, "whole_gpus": {}},
    },
    "clusters": {
        "hpc": {
            "controller": {},
            "compute_nodes": {"gpu": {"profile": "1g.10gb"}},
            "login_nodes": {},
            "slurm_config": {"partitions": [{"name": "a"}]},
        },
        "cloud": {
            "control_plane": {},
            "worker_nodes": {"cpu_workers": {}, "gpu_workers": {"gpu": {"profile": "1g.10gb"}}},
            "kubernetes_config": {},
        },
    },
    "hypervisor": {},
    "images": {},
    "ssh": {},
    "security": {},
    "access": {},
    "timeouts": {},
}


def read(tree: Mapping[str, Any]) -> LabFile:
    """The typed values of a file; JSON is YAML."""
    root = parse_document(json.dumps(tree), file="f").root
    return read_section(LabFile, View(Context("f"), cluster_schema(), (), root, Position(1, 1)))


def with_value(path: str, value: object) -> dict[str, Any]:
    """`FULL` with a value at the path of a property; of lists the first item is meant."""
    tree: dict[str, Any] = copy.deepcopy(dict(FULL))
    place: Any = tree
    *above, last = path.split(".")
    for name in above:
        place = place[name.removesuffix("[]")]
        place = place[0] if name.endswith("[]") else place
    place[last] = value
    return tree


def values_of(path: str, schema: Schema) -> list[object]:
    """Right values of a property, of which one at least is not its default."""
    bounds = [schema[name] for name in ("minimum", "maximum") if name in schema]
    choices, examples = schema.get("enum", []), schema.get("examples", [])
    assert isinstance(choices, list)
    assert isinstance(examples, list)
    by_type: dict[str, list[object]] = {
        "boolean": [True, False],
        "array": [["deb http://a b c"], ["10.20.0.0/16"]],
        "string": ["10.3.0.0/16", "a"],
    }
    found = [*bounds, *choices, *examples, *(each for kind in types_of(schema) for each in by_type.get(kind, []))]
    return [each for each in found if Draft202012Validator(schema).is_valid(each)]


KEYS = [(path, schema) for path, schema in properties() if types_of(schema) != ("object",)]


@pytest.mark.parametrize(("path", "schema"), KEYS, ids=[path for path, _ in KEYS])
def test_every_key_is_read(path: str, schema: Schema) -> None:
    only_one = len(schema.get("enum", [1, 2])) == 1  # type: ignore[arg-type]
    is_there = path.endswith((".model", ".profile", ".name", ".devices", ".allow", ".partitions"))
    base = read(FULL)
    read_values = [read(with_value(path, value)) for value in ([] if is_there else values_of(path, schema))]
    assert is_there or only_one or any(each != base for each in read_values)


def test_keys_of_the_base_are_read() -> None:
    base = read(FULL)
    shared, clusters = base.shared, base.clusters
    assert clusters.hpc is not None
    assert clusters.hpc.compute_nodes.gpu is not None
    assert (base.metadata.name, shared.gpu_allocation.devices[0].model) == ("x", "x")
    assert (clusters.hpc.slurm_config.partitions[0].name, clusters.hpc.compute_nodes.gpu.profile) == ("a", "1g.10gb")
    assert len(shared.networks.hpc_network.allow) == len(shared.networks.cloud_network.allow) == 1


DEFAULTS = [(path, schema["default"]) for path, schema in KEYS if "default" in schema]


@pytest.mark.parametrize(("path", "default"), DEFAULTS, ids=[path for path, _ in DEFAULTS])
def test_writing_a_default_out_changes_nothing(path: str, default: object) -> None:
    """The published default is the one that holds, in the file's own spelling."""
    section, _, _ = path.rpartition(".")
    if section.endswith(("mig_slices", "whole_gpus")):
        assert default == 0  # left out, a share is what the nodes ask for
        return
    plain = with_value(path, default)
    without = copy.deepcopy(plain)
    place: Any = without
    for name in section.split("."):
        place = place[name.removesuffix("[]")]
        place = place[0] if name.endswith("[]") else place
    del place[path.rpartition(".")[2]]
    assert read(plain) == read(without)


def test_there_are_defaults_to_write_out() -> None:
    assert {"clusters.cloud.kubernetes_config.pod_subnet", "timeouts.boot", "security.apt_sources"} < {
        path for path, _ in DEFAULTS
    }


def test_every_default_satisfies_its_own_schema() -> None:
    for path, schema in properties():
        if "default" in schema:
            assert list(Draft202012Validator(schema).iter_errors(schema["default"])) == [], path


def test_every_example_satisfies_its_own_schema() -> None:
    for path, schema in properties():
        examples = schema.get("examples", [])
        assert isinstance(examples, list)
        for example in examples:
            assert list(Draft202012Validator(schema).iter_errors(example)) == [], path


def test_editors_find_a_description_for_every_key() -> None:
    assert [path for path, schema in properties() if not schema.get("description")] == []


def test_mappings_refuse_unknown_keys() -> None:
    open_ones = [
        path
        for path, schema in properties()
        if "object" in types_of(schema) and schema.get("additionalProperties") is not False
    ]
    # Slices by profile have profile names as keys.
    assert open_ones == ["global.gpu_allocation.mig_slices.hpc", "global.gpu_allocation.mig_slices.cloud"]


def test_the_schema_is_sound_and_versioned() -> None:
    schema = json.loads(schema_path().read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].endswith("/cluster/1.0/cluster.schema.json")
    assert schema["properties"]["version"]["enum"] == ["1.0"]


def test_the_published_schema_is_that_of_the_types() -> None:
    assert schema_path().read_text() == schema_text(), "python -m emulator.labfile.publish renews it"


def test_the_reference_has_the_tables_of_the_types() -> None:
    text = reference_path().read_text()
    assert text == reference_text(text), "python -m emulator.labfile.publish renews it"


LABS = [path for path in sorted((share_dir() / "config").rglob("*.yaml")) if "\nclusters:" in path.read_text()]


def test_the_examples_are_found() -> None:
    assert {"demo.yaml", "minimal.yaml", "production.yaml"} <= {path.name for path in LABS}


@pytest.mark.parametrize("path", LABS, ids=[path.name for path in LABS])
def test_the_published_schema_takes_the_examples(path: Path) -> None:
    root = parse_document(path.read_text(), file=path.name).root
    assert root is not None
    plain = to_plain(root, cluster_schema())
    assert isinstance(plain, dict)
    validator = Draft202012Validator(json.loads(schema_path().read_text()))
    validator.validate(plain)
    with pytest.raises(ValidationError, match="clusters"):
        validator.validate({name: value for name, value in plain.items() if name != "clusters"})


def test_the_reference_has_every_key_with_its_bounds_and_default() -> None:
    text = reference_path().read_text()
    sections = {part.split("\n")[0].strip("`"): part for part in text.split("\n## ")}
    for path, schema in properties():
        parent, _, name = path.rpartition(".")
        rows = [line for line in sections[parent or "Top level"].split("\n") if line.startswith(f"| `{name}` |")]
        assert len(rows) == 1, path
        if "object" not in types_of(schema):
            assert f"| {expectation(schema)} |" in rows[0], path
        default = schema.get("default")
        if isinstance(default, int | float | str) and default != "":
            assert f"| `{str(default).lower() if isinstance(default, bool) else default}` |" in rows[0], path


@dataclass(frozen=True, kw_only=True)
class Extended(LabFile):
    """The file with one more key, defined here and nowhere else."""

    snapshots: Annotated[int, key("How many snapshots are kept.", name="kept_snapshots", minimum=0, maximum=9)] = 3


def test_a_new_key_is_defined_in_one_place() -> None:
    schema = section_schema(Extended)
    about = {"type": "integer", "minimum": 0, "maximum": 9, "default": 3}
    assert isinstance(schema["properties"], dict)
    assert schema["properties"]["kept_snapshots"] == {**about, "description": "How many snapshots are kept."}
    (refused,) = Draft202012Validator(schema).iter_errors({**FULL, "kept_snapshots": 10})
    assert list(refused.absolute_path) == ["kept_snapshots"]
    top = next(tables({**schema, "description": "A lab."}))
    row = "| `kept_snapshots` | a whole number from 0 to 9 | `3` | How many snapshots are kept. |  |\n"
    assert row in top
    for tree, kept in ((FULL, 3), ({**FULL, "kept_snapshots": 5}, 5)):
        root = parse_document(json.dumps(tree), file="f").root
        assert read_section(Extended, View(Context("f"), schema, (), root, Position(1, 1))).snapshots == kept


def test_attributes_without_a_definition_are_not_in_the_file() -> None:
    known = {each.attribute for each in attributes(LabFile)}
    assert known == {each.name for each in fields(LabFile)}
    assert not any(path.endswith((".real_gpus", ".cluster", ".role")) for path, _ in properties())
