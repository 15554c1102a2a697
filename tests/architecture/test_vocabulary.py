"""Words that are not used any more, in code, messages and documents; `docs/design/glossary.md` has the right ones."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AREAS = ("emulator", "docs", "playbooks", "config", "schemas", "README.md")
GLOSSARY = "docs/design/glossary.md"

# rule -> the words that it retires, in all their forms. Identifiers count: `lost_boards` contains `boards`.
RULES: Mapping[str, frozenset[str]] = {
    "board": frozenset({"board", "boards"}),
    "likeness": frozenset({"likeness", "likenesses"}),
    "stranger": frozenset({"stranger", "strangers"}),
    "mend": frozenset({"mend", "mends", "mended", "mending"}),
    "tell": frozenset({"tell", "tells", "telling", "told"}),
    "beside": frozenset({"beside"}),
    "whoever": frozenset({"whoever"}),
    "somebody": frozenset({"somebody", "anybody"}),
}

# Interfaces that keep their name: keys of `--json` and of files on the disk, ids of findings, aliases of options.
INTERFACES = (
    '"boards"',
    '"gpu.boards"',
    '"--board"',
    '"lost-boards"',
    "`boards`",
    "`gpu.boards`",
    "`--board`",
)

# path -> rules that do not hold there yet. Every other path keeps all of them: clean one up and drop its rules here.
NOT_YET: Mapping[str, frozenset[str]] = {}


def documents() -> Iterator[str]:
    """Tracked text files in `AREAS`, as paths from the root; the glossary itself has to name the words."""
    listed = subprocess.run(["git", "ls-files", *AREAS], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if name != GLOSSARY and (ROOT / name).is_file():
            yield name


def words_of(text: str) -> frozenset[str]:
    """Words in lower case; those in identifiers count by themselves: `lost_boards`, `LostBoards`."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text))


def without_interfaces(text: str) -> str:
    for name in INTERFACES:
        text = text.replace(name, "")
    return text


def excused(name: str) -> frozenset[str]:
    return frozenset().union(*(rules for path, rules in NOT_YET.items() if name == path or name.startswith(f"{path}/")))


@cache
def lines_of(name: str) -> tuple[str, ...]:
    try:
        return tuple(without_interfaces((ROOT / name).read_text()).splitlines())
    except UnicodeDecodeError:
        return ()


@pytest.mark.parametrize("rule", RULES)
def test_retired_words_are_not_used(rule: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in documents()
        if rule not in excused(name)
        for number, line in enumerate(lines_of(name), 1)
        if words_of(line) & RULES[rule]
    ]
    assert not found, f"see {GLOSSARY} for the word to use instead of {rule!r}:\n" + "\n".join(found)


@pytest.mark.parametrize("rule", RULES)
def test_the_glossary_names_the_retired_word(rule: str) -> None:
    rows = [line.split("|") for line in (ROOT / GLOSSARY).read_text().splitlines() if line.startswith("|")]
    assert any(rule in words_of(row[3]) for row in rows if len(row) > 3)


def test_words_in_identifiers_are_seen() -> None:
    assert words_of("LostBoards lost_boards GPUBoard `_told` boardroom") >= {"boards", "board", "told", "boardroom"}
    assert words_of(without_interfaces('print({"boards": 1})')) == {"print"}


def test_excuses_are_for_paths_that_exist() -> None:
    for path, rules in NOT_YET.items():
        assert (ROOT / path).exists(), f"{path} is gone: drop its entry"
        assert rules <= RULES.keys()
