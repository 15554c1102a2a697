"""Documents say what is true: links lead somewhere, verbs exist, and nothing foreign to the product is named."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from emulator.cli.main import VERBS
from emulator.images.recipe import load_recipe
from tests.architecture.test_imports import FLOORS

ROOT = Path(__file__).resolve().parents[2]
TOP = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "packer/README.md",
    ".github/pull_request_template.md",
)
DOCS = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_readme_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines[3].startswith("make demo")
    assert lines[4].startswith("make test")


def test_readme_names_every_verb_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^\| `([a-z]+)", readme, re.MULTILINE))
    assert named == set(VERBS)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_exist(path: Path) -> None:
    for verb in re.findall(r"^\s*(?:\S*/)?hyperscaler ([a-z][a-z-]*)", path.read_text(), re.MULTILINE):
        assert verb in VERBS, f"{path.name} names a verb {verb}"


@pytest.mark.parametrize("image", ["hpc-base", "cloud-base"])
def test_protection_that_images_switch_off_is_told(image: str) -> None:
    told = (ROOT / "docs" / "user" / "security.md").read_text()
    kept_out = ("apparmor=", "selinux=", "security=", "lsm=", "mitigations=", "audit=", "nokaslr", "lockdown=")
    for word in load_recipe(image).cmdline:
        assert not word.startswith(kept_out) or word in told, f"{image} is started with {word}"


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCS:
        for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", path.read_text(), re.MULTILINE):
            assert target in targets, f"{path.name} names make {target}"


def test_no_file_names_a_package_mirror() -> None:
    """Mirrors are the host's business: builds use the host's own configuration."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    pattern = re.compile(r"\b(deb|ftp|security|snapshot)\.debian\.org|\bpypi\.org|files\.pythonhosted|registry\.npmjs")
    guilty = [
        name
        for name in tracked
        if (ROOT / name).is_file()
        and (ROOT / name) != Path(__file__)
        and pattern.search((ROOT / name).read_bytes().decode("utf-8", "replace"))
    ]
    assert not guilty


CAMEL = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z0-9]+)+\b")
OVERVIEW = (ROOT / "docs" / "design" / "0000-overview.md").read_text()


def definitions() -> tuple[frozenset[str], frozenset[str]]:
    """Names of all classes, and of all functions and methods, in the package."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "emulator").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef))
    return frozenset(node.name for node in nodes if isinstance(node, ast.ClassDef)), frozenset(functions)


def test_the_overview_names_only_types_that_exist() -> None:
    named = set(re.findall(r"`([A-Z][a-z][A-Za-z0-9]*)`", OVERVIEW))
    drawn = {name for line in re.findall(r"^ {4}.*$", OVERVIEW, re.MULTILINE) for name in re.findall(CAMEL, line)}
    assert {"ClusterSpec", "Plan", "LabRun"} <= named
    assert {"LockedRun", "Observation"} <= named | drawn
    assert not (named | drawn) - definitions()[0]


def test_the_overview_names_only_functions_that_exist() -> None:
    named = set(re.findall(r"\b([a-z_]+)\(\)", OVERVIEW))
    assert {"provision", "clusters_at_work", "open_record"} <= named
    assert not named - definitions()[1]


def test_the_overview_names_only_modules_that_exist() -> None:
    """Those of the package, whether they are named from the repository's root or from the package."""
    paths = set(re.findall(r"\b(emulator/[\w/]*(?:\.py)?)", OVERVIEW))
    packages = sorted(path.name for path in (ROOT / "emulator").iterdir() if (path / "__init__.py").is_file())
    inner = set(re.findall(rf"(?<![\w/])((?:{'|'.join(packages)})/[\w/]*\.py)", OVERVIEW))
    assert len(inner) > 5
    for path in paths | {f"emulator/{path}" for path in inner}:
        assert (ROOT / path).exists(), f"the overview names {path}"
    assert {f"emulator/{package}/" for package in packages} <= paths, "every package has its question"


def test_the_overview_gives_each_package_the_place_and_question_that_it_has() -> None:
    """From the lowest to the highest, as the floors are."""
    rows = re.findall(r"^\| `emulator/(\w+)(?:/|\.py)` \| ([^|]+\?) \|", OVERVIEW, re.MULTILINE)
    assert [package for package, _ in rows] == list(FLOORS)
