"""The layers under a disk: headers that QEMU's account wrote lead nowhere else, and not in circles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from emulator.apply.handlers.disk_layers import golden_base, layers_under
from emulator.core.ports import DiskTool

SNAPSHOTS = Path("/lab/disks/snapshots")
DISK, GOLDEN = Path("/lab/disks/a.qcow2"), Path("/images/x/disk.qcow2")
FIRST, SECOND = SNAPSHOTS / "first" / "a.qcow2", SNAPSHOTS / "second" / "a.qcow2"


class Headers:
    """Disks that are nothing but what their headers name."""

    def __init__(self, bases: Mapping[Path, Path]) -> None:
        self._bases = bases
        self.opened: list[Path] = []

    def overlay_base(self, path: Path) -> Path | None:
        self.opened.append(path)
        return self._bases.get(path)


def of(bases: Mapping[Path, Path]) -> tuple[DiskTool, Headers]:
    headers = Headers(bases)
    return cast(DiskTool, headers), headers


def test_layers_are_followed_to_the_golden_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _path: True)
    disks, _ = of({DISK: SECOND, SECOND: FIRST, FIRST: GOLDEN})
    assert tuple(layers_under(disks, DISK, SNAPSHOTS)) == (SECOND, FIRST)
    assert golden_base(disks, DISK, SNAPSHOTS) == GOLDEN


@pytest.mark.parametrize(
    "named",
    [
        Path("/etc/shadow"),
        Path("/lab/secrets/x/a.qcow2"),
        SNAPSHOTS / "a.qcow2",
        SNAPSHOTS / "first" / "deep" / "a.qcow2",
        SNAPSHOTS / ".." / "a.qcow2",
        Path("/other/disks/snapshots/first/a.qcow2"),
    ],
)
def test_nothing_else_is_opened(named: Path) -> None:
    disks, headers = of({DISK: named})
    assert tuple(layers_under(disks, DISK, SNAPSHOTS)) == ()
    assert golden_base(disks, DISK, SNAPSHOTS) == named
    assert named not in headers.opened


def test_a_circle_ends() -> None:
    disks, _ = of({DISK: FIRST, FIRST: SECOND, SECOND: FIRST})
    assert tuple(layers_under(disks, DISK, SNAPSHOTS)) == (FIRST, SECOND)


def test_a_layer_that_is_gone_is_what_the_disk_stands_on() -> None:
    disks, _ = of({DISK: FIRST})
    assert golden_base(disks, DISK, SNAPSHOTS) == FIRST
