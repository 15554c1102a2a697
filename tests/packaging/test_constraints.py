"""The pinned versions: all that pyproject.toml asks for, each with checksums, and no word of where they come from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
LAPTOP = PYPROJECT["project"]["dependencies"]
FILES = ("build", "laptop", "host", "dev")
_HASHES = r"(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
PIN = re.compile(rf"^([a-z0-9.-]+)==([^ ;\\]+)(?: ; [^\\]+)? \\\n({_HASHES})", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / "constraints" / f"{name}.txt").read_text()


def pins(name: str) -> dict[str, tuple[Version, int]]:
    """Package -> its version and the number of its checksums."""
    return {found[1]: (Version(found[2]), found[3].count("--hash")) for found in PIN.finditer(text_of(name))}


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_checksums_and_none_an_address(name: str) -> None:
    text = text_of(name)
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert {line.split("==")[0] for line in lines if not line.startswith("    --hash=")} == pins(name).keys()
    assert "://" not in text
    assert not re.search(r"^-|--(index|extra-index|find-links|trusted)", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("laptop", LAPTOP),
        ("host", LAPTOP + EXTRAS["host"]),
        ("dev", LAPTOP + EXTRAS["host"] + EXTRAS["dev"]),
        ("build", PYPROJECT["build-system"]["requires"]),
    ],
)
def test_what_the_project_asks_for_is_pinned(name: str, asked: list[str]) -> None:
    pinned = pins(name)
    for requirement in map(Requirement, asked):
        if requirement.name == "hyperscaler":  # the extra of another list
            continue
        package = canonicalize_name(requirement.name)
        assert package in pinned, f"run `make lock`: constraints/{name}.txt lacks {requirement}"
        assert pinned[package][0] in requirement.specifier, f"run `make lock`: {requirement} in constraints/{name}.txt"


def test_wider_lists_contain_the_narrower_ones_in_the_same_versions() -> None:
    """Or `make setup` after `make setup-dev` would change what tests have seen."""
    laptop, host, dev = (pins(name) for name in ("laptop", "host", "dev"))
    assert laptop.items() <= host.items() <= dev.items()
    build = pins("build")
    assert {name: build[name] for name in build.keys() & dev.keys()} == {
        name: dev[name] for name in build.keys() & dev.keys()
    }


def test_a_laptop_compiles_nothing_and_has_no_libvirt_and_no_ansible() -> None:
    assert not {"libvirt-python", "ansible-core", "ansible-runner"} & pins("laptop").keys()


def test_the_source_build_is_pinned_by_its_source() -> None:
    """libvirt-python has no wheels: one file, one checksum."""
    assert pins("host")["libvirt-python"][1] == 1
