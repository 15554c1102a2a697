"""The tree that goes into the image of the nodes, with a stand-in for containerd. The image keeps all that is in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from emulator.kubernetes.release.containers.content_store import ContentStore
from emulator.kubernetes.release.debian_packages import DebianArchive
from emulator.kubernetes.release.node_files import NodeFiles
from emulator.kubernetes.release.release import Release, ReleaseManifest, describe_file
from tests.support.fake_runner import FakeRunner

FILES = ("bin/kubeadm", "bin/kubectl", "bin/kubelet", "cni/bridge", "images/kubernetes.tar", "manifests/flannel.yaml")
CONTAINERD = ("bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr")
MODES = {
    "etc": 0o755,
    "etc/containerd": 0o755,
    "etc/containerd/config.toml": 0o644,
    "etc/kubernetes": 0o755,
    "etc/kubernetes/manifests": 0o700,
    "opt/cni": 0o755,
    "usr": 0o755,
    "usr/lib/cni/bridge": 0o755,
    "usr/lib/hyperscaler/kubernetes.json": 0o644,
    "usr/local/bin": 0o755,
    "usr/local/bin/kubeadm": 0o755,
    "usr/share/hyperscaler/kubernetes/manifests/flannel.yaml": 0o644,
    "var": 0o755,
    "var/lib": 0o755,
    # What containerd leaves stays as it is.
    "var/lib/containerd": 0o700,
    "var/lib/containerd/tmp": 0o1777,
}


def fill(store: ContentStore, root: Path, tars: Sequence[Path]) -> tuple[str, ...]:
    """As containerd does: whatever is missing above its own directory gets that one's narrow mode."""
    del store, tars
    for path in (*reversed(root.parents), root):
        if not path.exists():
            path.mkdir(mode=0o700)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    return ()


def release_of(directory: Path, names: Sequence[str]) -> Release:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    files = {name: describe_file(directory / name) for name in names}
    return Release(directory, ReleaseManifest("1.31.4", "amd64", "a test", "r.invalid", "p:1", "d:1", "t:1", (), files))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return release_of(tmp_path / "release", FILES)


@pytest.fixture
def containerd_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContentStore, "fill", fill)
    monkeypatch.setattr(DebianArchive, "update", lambda archive: None)
    monkeypatch.setattr(DebianArchive, "unpack", lambda archive, names, target: None)


@pytest.mark.usefixtures("containerd_stands_in")
@pytest.mark.parametrize("brings", [True, False])
def test_a_releases_own_containerd_is_the_one_that_starts(tmp_path: Path, brings: bool) -> None:
    release = release_of(tmp_path / "release", (*FILES, *(CONTAINERD if brings else ())))
    tree = NodeFiles(tmp_path / "cache", ("deb http://debian.invalid bookworm main",), FakeRunner()).make(release)
    unit = tree / "etc/systemd/system/containerd.service.d/release.conf"
    assert unit.exists() is brings
    assert (tree / "usr/local/bin/containerd").exists() is brings
    if brings:
        # Empty first: systemd adds to what the package's unit has otherwise, and refuses two.
        assert unit.read_text().splitlines()[1:] == ["ExecStart=", "ExecStart=/usr/local/bin/containerd"]


@pytest.mark.usefixtures("containerd_stands_in")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_modes_are_the_same_under_every_umask(release: Release, tmp_path: Path, umask: int) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    if os.geteuid() == 0:
        os.chown(cache, 0, 12345)
    cache.chmod(0o2755)  # hands its group on to what is made in it
    before = os.umask(umask)
    try:
        tree = NodeFiles(cache, ("deb http://debian.invalid bookworm main",), FakeRunner()).make(release)
    finally:
        os.umask(before)
    assert {name: stat.S_IMODE((tree / name).stat().st_mode) for name in MODES} == MODES
    if os.geteuid() == 0:
        assert {(path.lstat().st_uid, path.lstat().st_gid) for path in tree.rglob("*")} == {(0, 0)}
