"""Whatever the file holds: findings or a spec, never an exception."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.data_files import share_dir
from emulator.labfile.findings import Report
from emulator.labfile.load import load_spec, parse_spec
from emulator.labfile.model import ClusterSpec
from emulator.labfile.read.document import parse_document
from emulator.labfile.read.tree import Map, Node, Seq
from emulator.labfile.schema import FieldPath, properties, render_path
from tests.support.random_examples import examples

BASES = tuple(
    (share_dir() / "config" / f"{name}.yaml").read_text(encoding="utf-8") for name in ("minimal", "demo", "production")
)
_SUBNET = "      subnet: 192.168.100.0/24\n"
BASES += (BASES[-1].replace(_SUBNET, f"{_SUBNET}      subnet_v6: fd12:3456:789a:100::/64\n"),)
assert BASES[-1] != BASES[-2]
BOUNDED = examples(100)
KEYS = sorted({path.replace("[]", "").rsplit(".", 1)[-1] for path, _ in properties()})

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from(
            ["192.168.100.0/24", "0.0.0.0/0", "255.255.255.255/32", "10.0.0.9-5", "1.2.3.4-255", "1g.10gb"]
        ),
        st.sampled_from(["auto", "whole", "A100", "0-0", "24:00:00", "hpc-compute-1", "bundle:x", "\x1b[31m\n"]),
        st.text(max_size=12),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner),
    max_leaves=12,
)


def sound(spec: ClusterSpec | None, report: Report) -> None:
    """What holds for every answer."""
    assert (spec is None) == report.has_errors()
    for finding in report.findings:
        assert finding.what
        assert finding.code
        text = finding.render()
        assert text.replace("\n    fix: ", "").isprintable(), text
    if spec is not None:
        addresses = [node.ip for node in spec.nodes]
        assert len(set(addresses)) == len(addresses)
        assert all(node.ip in spec.networks[node.role.cluster].subnet for node in spec.nodes)
        for node in spec.nodes:
            network = spec.networks[node.role.cluster]
            address = network.address_v6(node.ip)
            assert address is None if network.subnet_v6 is None else address in network.subnet_v6


@BOUNDED
@given(st.text(max_size=400))
def test_any_text(text: str) -> None:
    sound(*parse_spec(text, file="lab.yaml"))


@BOUNDED
@given(st.binary(max_size=400))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(data)
    sound(*load_spec(path))


@BOUNDED
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#?,%@` \n\t<1", max_size=200))
def test_text_of_yaml_s_own_characters(text: str) -> None:
    sound(*parse_spec(text, file="lab.yaml"))


@BOUNDED
@given(st.data())
def test_valid_files_with_letters_changed(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(BASES))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + data.draw(st.text(alphabet="019.:/-{}[] \nxg&*", max_size=6)) + text[end:]
    sound(*parse_spec(text, file="lab.yaml"))


@BOUNDED
@given(st.data())
def test_valid_files_with_lines_moved(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(BASES)).splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        line = lines.pop(data.draw(st.integers(0, len(lines) - 1)))
        lines.insert(data.draw(st.integers(0, len(lines))), "  " * data.draw(st.integers(0, 3)) + line)
    sound(*parse_spec("\n".join(lines), file="lab.yaml"))


def as_flow(value: object) -> str:
    """A value as YAML flow text, written by hand so that nothing tidies it up."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quote(str(key))}: {as_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_flow(item) for item in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return quote(value) if isinstance(value, str) else str(value)


def quote(text: str) -> str:
    return (
        '"' + "".join(f"\\U{ord(char):08X}" if not "0" <= char <= "z" or char == "\\" else char for char in text) + '"'
    )


PATHS = sorted(path for path, _ in properties() if "[]" not in path)


def lab_with(chosen: dict[str, object]) -> str:
    """A dual-stack lab with these values put at these paths."""
    tree: dict[str, object] = {"version": "1.0", "metadata": {"name": "x"}, "clusters": {"hpc": {}, "cloud": {}}}
    for path, value in chosen.items():
        place = tree
        *above, last = path.split(".")
        for key in above:
            below = place.get(key)
            if not isinstance(below, dict):
                below = place[key] = {}
            place = below
        place[last] = value
    return as_flow(tree)


def scalars(node: Node | None, path: FieldPath = ()) -> Iterator[str]:
    """The paths of all single values of a file, each as often as it is given."""
    if isinstance(node, Map):
        for name, entry in node.entries.items():
            yield from scalars(entry.node, (*path, name))
    elif isinstance(node, Seq):
        for index, item in enumerate(node.items):
            yield from scalars(item, (*path, index))
    elif node is not None:
        yield render_path(path)


@BOUNDED
@given(st.dictionaries(st.sampled_from(PATHS), values, min_size=1, max_size=6))
def test_any_value_at_any_key(chosen: dict[str, object]) -> None:
    text = lab_with(chosen)
    spec, report = parse_spec(text, file="lab.yaml")
    sound(spec, report)
    at = Counter(finding.path for finding in report.errors if finding.code != "key.unknown")
    for path in scalars(parse_document(text, file="lab.yaml").root):
        assert at[path] <= 1, "one value gives one finding"


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 1, -1, 10**40, 1e300, "", "x", "0.0.0.0/0", "1.2.3.4", [], {}, [None], [{}], {"a": 1}, [[1]]],
    ids=str,
)
def test_every_key_with_an_odd_value(value: object) -> None:
    for path in PATHS:
        sound(*parse_spec(lab_with({path: value}), file="lab.yaml"))
