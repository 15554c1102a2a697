"""What a handler removes is below the lab's directory, whatever the record says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from emulator.apply.handler import ApplyContext
from emulator.apply.handlers.hypervisor import HypervisorHandler
from emulator.apply.handlers.secrets import SecretHandler, SshKeyPairHandler
from emulator.apply.handlers.volume import VolumeHandler
from emulator.apply.path_guard import is_below
from emulator.core.errors import ConflictError
from emulator.plan.resources import Hypervisor, Secret, SshKeyPair, Volume

NOTHING = cast(Any, None)
CONTEXT = ApplyContext("demo", lambda _id: {}, lambda _line: None)


def test_below_by_whatever_name(tmp_path: Path) -> None:
    root = tmp_path / "labs" / "demo"
    root.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (root / "disks").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "labs")
    assert is_below(root, root / "disks" / "a.qcow2")
    assert is_below(root, tmp_path / "link" / "demo" / "disks" / "a.qcow2")
    for path in (root, tmp_path, root / ".." / "demo-2" / "a", Path("a"), tmp_path / "elsewhere" / "a", Path("/")):
        assert not is_below(root, path), path


def test_files_elsewhere_are_left_alone(tmp_path: Path) -> None:
    root, other = tmp_path / "demo", tmp_path / "other"
    for directory in (root, other):
        directory.mkdir()
        for name in ("disk", "secret", "key", "key.pub"):
            (directory / name).write_text("x")

    def remove(directory: Path) -> list[ConflictError]:
        refusals = []
        disk = Volume(name="a", path=str(directory / "disk"), image="i", size_gib=1)
        secret = Secret(name="s", path=str(directory / "secret"), size_bytes=1, encoding="raw")
        key = SshKeyPair(name="k", path=str(directory / "key"))
        volumes = VolumeHandler(NOTHING, NOTHING, NOTHING, "demo", root=root, shutdown_seconds=1)
        for handler, resource in (
            (volumes, disk),
            (SecretHandler(root), secret),
            (SshKeyPairHandler(NOTHING, root), key),
        ):
            try:
                cast(Any, handler).delete(resource, {}, CONTEXT)
            except ConflictError as error:
                assert error.where == resource.id and "left alone" in error.what
                refusals.append(error)
        return refusals

    assert len(remove(other)) == 3 and len(list(other.iterdir())) == 4
    assert remove(root) == [] and list(root.iterdir()) == []


class Daemon:
    ended: list[tuple[Path, str]]

    def __init__(self) -> None:
        self.ended = []

    def __call__(self, directory: Path, namespace: str) -> Any:
        self.at = (directory, namespace)
        return self

    def stop(self) -> None:
        self.ended.append(self.at)

    def reset(self) -> None:
        return


def test_the_libvirtd_of_another_lab_is_not_ended(tmp_path: Path) -> None:
    def hypervisor(lab: str, namespace: str) -> Hypervisor:
        return Hypervisor(name="embedded", directory=str(tmp_path / "labs" / lab / "hypervisor"), namespace=namespace)

    daemon = Daemon()
    handler = HypervisorHandler(cast(Any, daemon), cast(Any, daemon), lambda lab: hypervisor(lab, f"hs-{lab}"))
    for other in (hypervisor("other", "hs-demo"), hypervisor("demo", "hs-other"), hypervisor("other", "hs-other")):
        with pytest.raises(ConflictError, match="left alone"):
            handler.delete(other, {}, CONTEXT)
    assert daemon.ended == []
    mine = hypervisor("demo", "hs-demo")
    handler.delete(mine, {}, CONTEXT)
    assert daemon.ended == [(Path(mine.directory), "hs-demo")]
