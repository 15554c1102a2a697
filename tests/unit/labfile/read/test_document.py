"""YAML to a tree with positions: what is accepted, and one clear finding for each thing that is not."""

from __future__ import annotations

import pytest

from emulator.labfile.findings import Position
from emulator.labfile.read.document import parse_document
from emulator.labfile.read.tree import Map, Scalar, positions, resolve_plain


def rendered(text: str) -> list[str]:
    return [each.render().replace("\n    fix: ", " | ") for each in parse_document(text, file="f").findings]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24:00:00", "24:00:00"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1e999", "1e999"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("9" * 5000, "9" * 5000),
        ("2024-01-01", "2024-01-01"),
        ("192.168.1.1", "192.168.1.1"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    resolved = resolve_plain(text)
    assert resolved == value
    assert type(resolved) is type(value)


def test_quoted_scalars_stay_text() -> None:
    root = parse_document("a: '12'\nb: \"true\"\nc: |\n  7\n", file="f").root
    assert isinstance(root, Map)
    values = [entry.node.value for entry in root.entries.values() if isinstance(entry.node, Scalar)]
    assert values == ["12", "true", "7\n"]


def test_positions_count_characters_from_one() -> None:
    root = parse_document("ä: {ö: 1,\n  ü: 2}\nlist:\n  - x\n", file="f").root
    assert root is not None
    assert positions(root) == {
        "ä": Position(1, 1),
        "list": Position(3, 1),
        "ä.ö": Position(1, 8),
        "ä.ü": Position(2, 6),
    }


def test_merge_keys_and_aliases_are_written_out() -> None:
    text = "base: &b {x: 1, y: 2}\none:\n  <<: *b\n  y: 3\ntwo: {<<: [*b, {z: 4}]}\n"
    document = parse_document(text, file="f")
    assert document.findings == ()
    assert isinstance(document.root, Map)
    found = {}
    for key in ("one", "two"):
        node = document.root.entries[key].node
        assert isinstance(node, Map)
        found[key] = {name: entry.node.value for name, entry in node.entries.items() if isinstance(entry.node, Scalar)}
    assert found == {"one": {"y": 3, "x": 1}, "two": {"x": 1, "y": 2, "z": 4}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "f:2:1: error: the key 'a' was already given in line 1 | keep one of the two"),
        (
            "a: [1\n",
            "f:2:1: error: not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence)"
            " | close the bracket or add the missing comma",
        ),
        (
            "a:\n\tb: 1\n",
            "f:2:1: error: not valid YAML: found character that cannot start any token"
            " (while scanning for the next token) | indent with spaces, not tabs",
        ),
        (
            "a: b: c\n",
            "f:1:5: error: not valid YAML: mapping values are not allowed in this context"
            " | check the indentation, and quote text that holds a colon and a space",
        ),
        (
            "a: 'x\nb: 2\n",
            "f:1:4: error: not valid YAML: found unexpected end of stream (while scanning a quoted scalar)"
            " | close the quote that was opened",
        ),
        ("a: *b\n", "f:1:4: error: the alias *b has no anchor &b above it"),
        ("a: &x {b: *x}\n", "f:1:11: error: the alias *x refers to what it stands in | write it out"),
        (
            "a: 1\n---\nb: 2\n",
            "f:2:1: error: a lab file holds one document, and a second one starts here"
            " | put each lab into a file of its own",
        ),
        (
            "a: !!python/object/apply:os.system [id]\n",
            "f:1:4: error: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed in a lab file"
            " | remove the tag; quote the value if it must stay text",
        ),
        (
            "? [a]\n: 1\n",
            "f:1:3: error: a key must be text, not a list or a mapping"
            " | write `key: value`; quote text that holds braces or brackets",
        ),
        (
            "? \n: 1\n",
            "f:1:2: error: a key is empty | write `key: value`; quote text that holds braces or brackets",
        ),
        ("<<: 1\n", "f:1:1: error: '<<' merges mappings, and this is none | name an anchor of a mapping"),
        (
            "é: \x07\n",
            "f:1:4: error: the character U+0007 is not allowed in a YAML file | remove it; the file must be plain text",
        ),
        (
            "a: \ud800",
            "f:1:4: error: the character U+D800 is not allowed in a YAML file | remove it; the file must be plain text",
        ),
        ("[" * 900, "f:1:33: error: values are nested more than 32 deep | a lab file nests about 7 deep"),
    ],
)
def test_faults_are_one_clear_finding(text: str, expected: str) -> None:
    assert rendered(text) == [expected]


def test_a_bomb_of_aliases_is_refused_before_it_is_expanded() -> None:
    lines = ["k0: &k0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 25)]
    assert rendered("\n".join(lines)) == [
        "f:6:15: error: the file expands to more than 100000 values"
        " | write fewer values; anchors and aliases count as often as they are used"
    ]


def test_depth_counts_through_aliases() -> None:
    lines = ["k0: &k0 [x]", *(f"k{n}: &k{n} [*k{n - 1}]" for n in range(1, 60))]
    assert rendered("\n".join(lines)) == [
        "f:32:12: error: values are nested more than 32 deep | a lab file nests about 7 deep"
    ]


def test_terminal_escapes_never_reach_a_message() -> None:
    (finding,) = rendered('"\\e[31m": 1\n"\\e[31m": 2\n')
    assert "\x1b" not in finding
    assert "\\x1b[31m" in finding
