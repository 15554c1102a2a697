"""A libvirt that does not answer is judged by its files."""

from __future__ import annotations

from pathlib import Path

from emulator.adapters.libvirt.config_files import may_have


def test_definitions_of_the_lab_are_seen(tmp_path: Path) -> None:
    there, networks, absent = tmp_path / "qemu", tmp_path / "qemu" / "networks", tmp_path / "absent"
    networks.mkdir(parents=True)
    (there / "other-vm.xml").touch()
    (there / "demo-vm.log").touch()
    places = (there, networks, absent)
    assert not may_have("demo-", places)
    (networks / "demo-hpc.xml").touch()
    assert may_have("demo-", places)
    assert not may_have("demo-2-", places)


def test_what_cannot_be_seen_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "qemu").touch()  # a directory that cannot be listed
    assert may_have("demo-", (tmp_path / "qemu",))
