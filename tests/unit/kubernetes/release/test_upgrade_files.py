"""What a standing node gets of a new release: made once, the same for the same release, nothing half made."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.kubernetes.release.containers.docker_archive import ContainerImage, references, write_archive
from emulator.kubernetes.release.node_files import NodeFiles
from emulator.kubernetes.release.release import Release, ReleaseManifest, describe_file
from emulator.kubernetes.release.upgrade_files import HEAD_IMAGES, IMAGES, PROGRAMS, upgrade_files
from tests.support.fake_runner import FakeRunner

REPOSITORY = "hyperscaler.invalid/kubernetes"
FILES = ("bin/kubeadm", "bin/kubectl", "bin/kubelet", "bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr",
         "cni/bridge")  # fmt: skip
NAMES = ("etcd:3.7.0-0", "kube-apiserver:v1.37.2", "kube-proxy:v1.37.2", "coredns:v1.14.6", "pause:3.10.2")


@pytest.fixture
def release(tmp_path: Path) -> Release:
    directory = tmp_path / "release"
    for name in (*FILES, "images/x"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    (directory / "images/x").unlink()
    images = []
    for name in NAMES:
        root = tmp_path / "roots" / name
        root.mkdir(parents=True)
        (root / "program").write_text(name)
        images.append(ContainerImage(f"{REPOSITORY}/{name}", root))
    write_archive(directory / "images/kubernetes.tar", images, architecture="amd64")
    return described(directory)


def described(directory: Path) -> Release:
    files = {name: describe_file(directory / name) for name in (*FILES, "images/kubernetes.tar")}
    pause, dns = f"{REPOSITORY}/{NAMES[4]}", f"{REPOSITORY}/{NAMES[3]}"
    images = tuple(f"{REPOSITORY}/{name}" for name in NAMES)
    return Release(
        directory,
        ReleaseManifest("1.37.2", "amd64", "a test", REPOSITORY, pause, dns, f"{REPOSITORY}/t:1", images, files),
    )


@pytest.fixture
def nodes(tmp_path: Path) -> NodeFiles:
    return NodeFiles(tmp_path / "cache", (), FakeRunner())


def names_in(path: Path) -> set[str]:
    with path.open("rb") as stream:
        return {name.removeprefix(f"{REPOSITORY}/") for name in references(stream)}


def test_programs_lie_where_a_node_has_them_and_images_go_where_they_run(nodes: NodeFiles, release: Release) -> None:
    files = upgrade_files(nodes, release)
    assert (files.version, files.repository) == ("1.37.2", REPOSITORY)
    assert files.key == f"1.37.2-{release.manifest.digest[:12]}"
    with tarfile.open(files.directory / PROGRAMS) as archive:
        members = {member.name: member for member in archive}
        record = archive.extractfile("usr/lib/hyperscaler/kubernetes.json")
        assert record is not None and json.load(record)["version"] == "1.37.2"
    assert members["usr/local/bin/kubelet"].mode == 0o755
    assert {"usr/lib/cni/bridge", "etc/containerd/config.toml"} <= set(members)
    assert {(member.uid, member.mtime, member.isfile()) for member in members.values()} == {(0, 0, True)}
    assert names_in(files.directory / HEAD_IMAGES) == set(NAMES[:2])
    assert names_in(files.directory / IMAGES) == set(NAMES[2:]), "a worker needs no API server"
    assert files.mebibytes >= 1


def test_they_are_made_once(nodes: NodeFiles, release: Release) -> None:
    first = upgrade_files(nodes, release)
    before = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    (release.directory / "images/kubernetes.tar").unlink()
    assert upgrade_files(nodes, release) == first
    assert {path: path.stat().st_mtime_ns for path in first.directory.iterdir()} == before


def test_a_damaged_archive_leaves_nothing(nodes: NodeFiles, release: Release) -> None:
    (release.directory / "images/kubernetes.tar").write_bytes(b"no archive")
    with pytest.raises(HyperscalerError, match="an archive of container images cannot be read"):
        upgrade_files(nodes, release)
    assert list(nodes.cache.iterdir()) == []


def test_a_full_disk_is_told_before(nodes: NodeFiles, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "emulator.kubernetes.release.disk_room.shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1})
    )
    with pytest.raises(HostNotFitError, match="for standing nodes needs"):
        upgrade_files(nodes, release)
    assert not nodes.cache.exists()
