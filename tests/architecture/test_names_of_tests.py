"""A test file is found by the name of the module that it tests: tests/unit has the folders of the product."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit"
PLAYBOOKS = ROOT / "playbooks"

# Tests of more than one module, and what they test.
OTHERS: Mapping[str, str] = {
    "adapters/nvidia/test_vgpu_formats.py": "the spellings of sysfs that pci_sysfs, vgpu_mdev and vgpu_vfio share",
    "images/test_kubernetes_network.py": "a program of config/images that nodes run",
    "playbooks/test_playbook_conditions.py": "the conditions of all playbooks and roles",
    "playbooks/test_task_names.py": "the names of all tasks for which labs' tests wait",
}


def files() -> list[Path]:
    return sorted(UNIT.rglob("test_*.py"))


def shown(path: Path) -> str:
    return str(path.relative_to(UNIT))


def names_for(folder: Path) -> set[str]:
    """Names that a test in this folder of tests/unit may bear: modules and packages beside it, and its own package."""
    if folder == UNIT / "playbooks":
        found = [*PLAYBOOKS.rglob("*.py"), *PLAYBOOKS.glob("*.yml"), *PLAYBOOKS.glob("roles/*")]
        return {path.stem.replace("-", "_") for path in found}
    package = ROOT / "emulator" / folder.relative_to(UNIT)
    names = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    return {*names, folder.name} - {"__init__"}


def fits(path: Path) -> bool:
    name = path.stem.removeprefix("test_")
    return any(name == module or name.startswith(f"{module}_") for module in names_for(path.parent))


@pytest.mark.parametrize("path", files(), ids=shown)
def test_a_test_file_bears_the_name_of_a_module(path: Path) -> None:
    assert fits(path) or shown(path) in OTHERS, (
        f"tests/unit/{shown(path)} is beside none of the modules it could be named for"
        f" ({', '.join(sorted(names_for(path.parent)))}): name it test_MODULE.py or test_MODULE_TOPIC.py,"
        " or list it with a reason"
    )


def test_no_reason_is_out_of_date() -> None:
    stale = [name for name in OTHERS if not (UNIT / name).is_file() or fits(UNIT / name)]
    assert not stale


def test_pytest_goes_into_every_folder_with_tests(pytestconfig: pytest.Config) -> None:
    """By default it passes over some names, such as build."""
    passed_over = pytestconfig.getini("norecursedirs")
    folders = {folder.name for path in (ROOT / "tests").rglob("test_*.py") for folder in path.parents}
    assert not [name for name in folders for pattern in passed_over if fnmatch(name, pattern)]
