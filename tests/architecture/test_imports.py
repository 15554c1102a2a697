"""Who may import whom. The floors are the structure; a change that does not fit is a change of structure."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "emulator"

# package of `emulator/` -> the packages that it may import, lowest floor first: a package sees lower floors only.
FLOORS: Mapping[str, frozenset[str]] = {
    "core": frozenset(),
    "gpu": frozenset({"core"}),
    "supervisor": frozenset({"core"}),
    "labfile": frozenset({"core", "gpu"}),
    "host": frozenset({"core", "gpu", "labfile"}),
    "plan": frozenset({"core", "gpu", "labfile"}),
    "images": frozenset({"core"}),
    "kubernetes": frozenset({"core", "labfile", "images"}),
    "apply": frozenset({"core", "gpu", "host", "plan"}),
    "credentials": frozenset({"core", "labfile", "plan", "apply"}),
    "guests": frozenset({"core", "labfile", "kubernetes", "credentials"}),
    "exercises": frozenset({"core", "labfile", "kubernetes", "credentials", "guests"}),
    "adapters": frozenset({"core", "gpu", "supervisor", "labfile", "host"}),
    "lab": frozenset(
        {"core", "gpu", "labfile", "host", "plan", "images", "kubernetes", "apply", "credentials", "guests"}
    ),
    "operations": frozenset(
        {
            "core",
            "gpu",
            "labfile",
            "host",
            "plan",
            "images",
            "kubernetes",
            "apply",
            "credentials",
            "guests",
            "exercises",
            "lab",
        }
    ),
    "wiring": frozenset(
        {
            "core",
            "gpu",
            "labfile",
            "host",
            "plan",
            "images",
            "kubernetes",
            "apply",
            "credentials",
            "guests",
            "adapters",
            "lab",
            "operations",
        }
    ),
    "services": frozenset({"core", "supervisor", "adapters", "wiring"}),
    "cli": frozenset(
        {
            "core",
            "gpu",
            "labfile",
            "host",
            "plan",
            "images",
            "kubernetes",
            "credentials",
            "guests",
            "exercises",
            "lab",
            "operations",
            "wiring",
        }
    ),
}

# Libraries that a laptop without libvirt, driver or Ansible does not have: imported inside functions only.
LAZY = {"libvirt", "pynvml", "ansible_runner", "rich"}

MOST_LINES = 400
MOST_FILES = 15
# What has more files than that on one level, and why it may.
CROWDED: Mapping[str, str] = {}
# What has more lines, and why it may.
LONG: Mapping[str, str] = {
    "playbooks/module_utils/user_end.py": "one program in one file, which the role lab_access lays on every node",
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def dotted(path: Path) -> str:
    return ".".join(("emulator", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def package_of(name: str) -> str:
    """The package directly below `emulator` that a dotted module name is in; empty for `emulator` itself."""
    return name.split(".")[1] if "." in name else ""


@cache
def known() -> frozenset[str]:
    return frozenset(dotted(path) for path in modules())


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> frozenset[str]:
    """Modules of ours and of others that `path` imports, those for type checking and those in functions included."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in known() else node.module or "")
    return frozenset(names)


def test_every_package_has_a_floor() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    loose = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert packages | loose == FLOORS.keys()
    assert loose <= {"wiring"}, "no loose modules at the top but the composition root"


def test_a_floor_rests_on_lower_floors_only() -> None:
    below: set[str] = set()
    for package, allowed in FLOORS.items():
        assert allowed <= below, f"{package} rests on {sorted(allowed - below)}, which are not below it"
        below.add(package)


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_imports_go_down(path: Path) -> None:
    package = package_of(dotted(path))
    if not package:
        return
    for name in imported(path):
        if name.split(".")[0] == "emulator" and package_of(name):
            assert package_of(name) in FLOORS[package] | {package}, f"emulator/{shown(path)} must not import {name}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {dotted(path): imported(path) & known() - {dotted(path), "emulator"} for path in modules()}
    done: set[str] = set()

    def circle(name: str, way: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if name in way:
            yield way[way.index(name) :]
        elif name not in done:
            for other in sorted(graph[name]):
                yield from circle(other, (*way, name))
            done.add(name)

    circles = [found for name in sorted(graph) for found in circle(name, ())]
    assert not circles, circles


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_heavy_libraries_are_imported_lazily(path: Path) -> None:
    for node in tree_of(path).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""}
            heavy = {name.split(".")[0] for name in names} & LAZY
            assert not heavy, f"{shown(path)} imports {heavy} at the top"


def test_simulation_is_chosen_in_one_place() -> None:
    users = {
        shown(path)
        for path in modules()
        if any(name.startswith("emulator.adapters.simulated") for name in imported(path))
        and "adapters/simulated" not in str(path)
    }
    assert users == {"wiring.py"}


def test_modules_stay_readable() -> None:
    """Those that run on the nodes, too."""
    paths = [*modules(), *sorted((ROOT.parent / "playbooks").rglob("*.py"))]
    counts = {str(path.relative_to(ROOT.parent)): len(path.read_text().splitlines()) for path in paths}
    long = {name: count for name, count in counts.items() if count > MOST_LINES and name not in LONG}
    assert not long, f"split these by topic: {long}"
    assert all(counts.get(name, 0) > MOST_LINES for name in LONG), "what is no longer long needs no excuse"


def test_folders_stay_readable() -> None:
    files = Counter(shown(path.parent) for path in modules() if not path.name.startswith("_"))
    crowded = {folder: count for folder, count in files.items() if count > MOST_FILES and folder not in CROWDED}
    assert not crowded, f"split these by topic: {crowded}"
    assert all(files[folder] > MOST_FILES for folder in CROWDED), "what is no longer crowded needs no excuse"


@pytest.mark.parametrize("package", FLOORS)
def test_a_package_says_which_question_it_answers(package: str) -> None:
    init = ROOT / package / "__init__.py"
    text = ast.get_docstring(tree_of(init if init.is_file() else ROOT / f"{package}.py")) or ""
    assert "?" in text.splitlines()[0]
