"""Who may import whom. The table is the structure; a change that does not fit is a change of structure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "emulator"

BASE = {"errors", "units", "ids", "share", "flock", "directories"}
PURE = BASE | {"spec", "gpu", "paths", "progress", "host"}
PORTS = {"ports", "file_ports", "filter_ports", "gpu_ports", "gpu_errors"}

# unit of `emulator/` -> other units that it may import
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "flock": {"errors", "units"},
    "directories": set(),
    "ids": set(),
    "share": {"errors"},
    "paths": set(),
    "progress": set(),
    "gpu": BASE | {"spec"},
    "spec": BASE | {"gpu", "host"},
    "gpu_errors": {"errors"},
    "gpu_ports": BASE | {"gpu", "gpu_errors"},
    "ports": BASE,
    "file_ports": set(),
    "filter_ports": {"ports"},
    "host": BASE | PORTS | {"gpu", "spec"},
    "plan": BASE | {"spec", "gpu", "paths"},
    "access": BASE,
    "rotation": BASE,
    "inventory": BASE | {"spec", "gpu", "kubernetes", "access"},
    "images": PURE | PORTS,
    "kubernetes": PURE | PORTS,
    "kubernetes_build": PURE | PORTS | {"kubernetes"},
    "configure": PURE | PORTS | {"inventory"},
    "verify": PURE | PORTS | {"inventory", "kubernetes"},
    "apply": PURE | PORTS | {"plan", "rotation"},
    "adapters": PURE | PORTS,
    "app": PURE | PORTS | {"plan", "apply", "images", "inventory", "access", "rotation", "kubernetes"},
    "wiring": {"*"},
    "cli": PURE | PORTS | {"app", "plan", "wiring", "apply", "access", "rotation", "kubernetes_build"},
}

# Libraries that a laptop without libvirt, driver or Ansible does not have: imported inside functions only.
LAZY = {"libvirt", "pynvml", "ansible_runner", "rich"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def unit_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            if node.module == "emulator":
                names |= {f"emulator.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    unit = unit_of(path)
    if unit == "__init__":
        return
    assert unit in ALLOWED, f"{unit} has no place in the structure yet"
    allowed = ALLOWED[unit] | {unit}
    for name in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "emulator" and len(parts) > 1 and "*" not in allowed and parts[1] != "__version__":
            assert parts[1] in allowed, f"emulator/{path.relative_to(ROOT)} must not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_lazily(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""}
            heavy = {name.split(".")[0] for name in names} & LAZY
            assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} at the top"


def test_simulation_is_chosen_in_one_place() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in modules()
        if any(name.startswith("emulator.adapters.simulated") for name in imported(ast.parse(path.read_text())))
        and "adapters/simulated" not in str(path)
    }
    assert users <= {"wiring/gpus.py"}


def test_modules_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): count for path in modules() if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long, f"split these by topic: {long}"
