"""Files of snapshots that others have written to: QEMU's account owns the frozen disk of its guest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.core.errors import ConflictError, StateError
from emulator.core.ports import DomainState
from tests.support.rewinding import Rewound
from tests.support.simulated_world import SimulatedHost


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Rewound]:
    host = SimulatedHost(tmp_path / "host")
    made = Rewound(host)
    made.create()
    yield made
    host.close()


@pytest.mark.parametrize("disk_only", [False, True])
def test_a_frozen_disk_whose_header_names_another_file_is_refused(
    lab: Rewound, disk_only: bool, tmp_path: Path
) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("root:x")
    frozen = lab.store.frozen("first", "hpc-compute-1")
    header = json.loads(frozen.read_text())
    frozen.chmod(0o600)
    frozen.write_text(json.dumps({**header, "base": str(secret)}))
    with pytest.raises(StateError, match="the disk of hpc-compute-1 in snapshot first is not what was set aside"):
        lab.restore(disk_only=disk_only)
    assert set(lab.states().values()) == {DomainState.RUNNING}, "nothing was changed"
    assert lab.store.operation() is None


def test_links_between_the_files_of_a_snapshot_are_foreign(lab: Rewound, tmp_path: Path) -> None:
    planted = lab.store.directory("first") / "hpc-compute-2.qcow2"
    planted.symlink_to(tmp_path)
    with pytest.raises(ConflictError, match=r"hpc-compute-2\.qcow2"):
        lab.host.destroy()
    assert tmp_path.is_dir()
