"""`core/fs.py` is the one place that gives files their names and makes them survive a power loss.

Whoever does it elsewhere has a reason that is written down here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "emulator"

# module -> calls that it makes itself, and why `replacing` and the like cannot serve there.
ALLOWED: Mapping[str, tuple[frozenset[str], str]] = {
    "core/fs.py": (frozenset({"os.fsync", "os.sync", "os.replace", ".rename"}), "this is the place"),
    "apply/handlers/secrets.py": (frozenset({".replace"}), "ssh-keygen writes the pair; its private half comes last"),
    "apply/handlers/firewall.py": (frozenset({".replace"}), "no file: a table of the packet filter"),
    "adapters/system/qemu_img.py": (frozenset({".rename", ".replace"}), "qemu-img writes the disk"),
    "adapters/libvirt/saved_states.py": (frozenset({".rename"}), "libvirtd writes the state of a guest"),
    "images/store/builds.py": (frozenset({".replace", ".rename"}), "moves a finished directory, or a log aside"),
    "images/store/store.py": (frozenset({".rename"}), "moves a directory aside that is about to be removed"),
}


def calls(tree: ast.AST) -> Iterator[str]:
    """Calls that sync, rename, or make a temporary file. Of `text.replace(old, new)`, `dataclasses.replace(x, a=1)` and
    libvirt's `rename(name, flags)` the number of arguments tells that they are something else."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        if name in ("os.fsync", "os.fdatasync", "os.sync", "os.rename", "os.replace", "os.renames", "shutil.move"):
            yield name
        elif last in ("mkstemp", "NamedTemporaryFile"):
            yield last
        elif last in ("replace", "rename") and "." in name and len(node.args) == 1 and not node.keywords:
            yield f".{last}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_replaced_and_synced_in_one_place(path: Path) -> None:
    allowed, _ = ALLOWED.get(str(path.relative_to(ROOT)), (frozenset(), ""))
    assert set(calls(ast.parse(path.read_text()))) == allowed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("os.fsync(descriptor)", ["os.fsync"]),
        ("partial.replace(path)", [".replace"]),
        ("partial.rename(path)", [".rename"]),
        ("os.replace(a, b)", ["os.replace"]),
        ("tempfile.mkstemp(dir=home)", ["mkstemp"]),
        ("NamedTemporaryFile()", ["NamedTemporaryFile"]),
        ("text.replace('a', 'b')", []),
        ("dataclasses.replace(spec, name='x')", []),
        ("replace(spec, name='x')", []),
    ],
)
def test_what_counts_as_such_a_call(text: str, found: list[str]) -> None:
    assert list(calls(ast.parse(text))) == found
