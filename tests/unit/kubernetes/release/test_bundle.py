"""Bundles: what goes in comes out, and nothing else."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.core.errors import HostNotFitError, UsageError
from emulator.kubernetes.release.bundle import create_bundle, show_bundle, unpack_bundle, verify_bundle
from emulator.kubernetes.release.release import (
    MANIFEST,
    Release,
    ReleaseError,
    ReleaseManifest,
    describe_file,
    verify_release,
)
from tests.support.image_archives import image_archive

FILES = {
    "bin/kubeadm": b"kubeadm program " * 1000,
    "bin/kubelet": b"kubelet program " * 2000,
    "bin/kubectl": b"kubectl program",
    "images/kubernetes.tar": image_archive("hyperscaler.invalid/kubernetes/pause:3.2"),
}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    directory = tmp_path / "release"
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = ReleaseManifest(
        version="1.20.2",
        architecture="amd64",
        origin="a test",
        repository="hyperscaler.invalid/kubernetes",
        pause_image="hyperscaler.invalid/kubernetes/pause:3.2",
        cluster_dns="hyperscaler.invalid/kubernetes/coredns:1",
        tools="hyperscaler.invalid/kubernetes/tools:1",
        images=("hyperscaler.invalid/kubernetes/pause:3.2",),
        files={name: describe_file(directory / name) for name in FILES},
        fetched={"calico": "a" * 64},
    )
    (directory / MANIFEST).write_text(manifest.to_json())
    return Release(directory, manifest)


@pytest.fixture
def bundle(release: Release, tmp_path: Path) -> Path:
    path = tmp_path / "lab.bundle"
    create_bundle(release, path)
    return path


def test_round_trip(release: Release, bundle: Path, tmp_path: Path) -> None:
    assert show_bundle(bundle) == verify_bundle(bundle) == release.manifest
    unpacked = unpack_bundle(bundle, tmp_path / "cache")
    assert verify_release(unpacked) == []
    assert {name: unpacked.path(name).read_bytes() for name in FILES} == FILES
    assert unpack_bundle(bundle, tmp_path / "cache").directory == unpacked.directory


def test_the_same_release_gives_the_same_bytes(release: Release, bundle: Path, tmp_path: Path) -> None:
    create_bundle(release, tmp_path / "again.bundle")
    assert (tmp_path / "again.bundle").read_bytes() == bundle.read_bytes()


def test_an_existing_file_is_not_overwritten(release: Release, bundle: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        create_bundle(release, bundle)


def test_a_damaged_release_becomes_no_bundle(release: Release, tmp_path: Path) -> None:
    release.path("bin/kubelet").write_bytes(b"something else")
    with pytest.raises(ReleaseError, match="bin/kubelet"):
        create_bundle(release, tmp_path / "bad.bundle")
    assert not (tmp_path / "bad.bundle").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.8])
def test_a_truncated_bundle_is_refused_and_leaves_nothing(bundle: Path, tmp_path: Path, share: float) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ReleaseError):
        verify_bundle(bundle)
    cache = tmp_path / "cache"
    with pytest.raises(ReleaseError):
        unpack_bundle(bundle, cache)
    assert not cache.exists() or list(cache.iterdir()) == []


def rewrite(path: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[str, bytes] | None]) -> None:
    """Rewrite a bundle member by member; None drops one."""
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in archive]
        kept = [change(member, stream.read() if stream else b"") for member, stream in members]
    with tarfile.open(path, "w") as archive:
        for pair in kept:
            if pair is not None:
                member = tarfile.TarInfo(pair[0])
                member.size = len(pair[1])
                archive.addfile(member, io.BytesIO(pair[1]))


def test_an_altered_file_is_named(bundle: Path) -> None:
    rewrite(bundle, lambda m, data: (m.name, data.replace(b"kubelet", b"evilet!") if "kubelet" in m.name else data))
    with pytest.raises(ReleaseError, match=r"bin/kubelet: sha256 is [0-9a-f]{64}, the manifest says"):
        verify_bundle(bundle)


def test_every_fault_is_listed(bundle: Path) -> None:
    rewrite(
        bundle,
        lambda m, data: (
            None if m.name == "images/kubernetes.tar" else (m.name, data[:-1] if "kubectl" in m.name else data)
        ),
    )
    with pytest.raises(ReleaseError) as caught:
        verify_bundle(bundle)
    assert "bin/kubectl: 14 bytes, the manifest says 15" in str(caught.value)
    assert "images/kubernetes.tar is missing" in str(caught.value)


@pytest.mark.parametrize("name", ["../../etc/cron.d/evil", "/etc/passwd", "bin/../../evil", "bin/extra"])
def test_a_member_that_does_not_belong_is_refused_and_not_written(bundle: Path, tmp_path: Path, name: str) -> None:
    with tarfile.open(bundle, "a") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    with pytest.raises(ReleaseError, match="does not belong there"):
        unpack_bundle(bundle, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_link_in_place_of_a_file_is_refused(bundle: Path) -> None:
    with tarfile.open(bundle, "a") as archive:
        member = tarfile.TarInfo("bin/kubeadm")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(member)
    with pytest.raises(ReleaseError, match="does not belong there"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"version": "../../1.20.2"},
        {"version": 1.2},
        {"files": {"../evil": {"sha256": "0" * 64, "size": 1}}},
        {"files": {"bin/kubeadm": {"sha256": "0" * 63, "size": 1}}},
        {"files": {"bin/kubeadm": {"sha256": "0" * 64, "size": -1}}},
        {"files": {}},
        {"fetched": {"calico": "0"}},
        {"fetched": {"../calico": "0" * 64}},
        {"fetched": ["calico"]},
        {"pause_image": "pause; rm -rf /"},
        {"pause_image": 'x:1"\n[plugins]'},
    ],
)
def test_a_hostile_manifest_is_refused(bundle: Path, change: dict[str, object]) -> None:
    def rewritten(member: tarfile.TarInfo, data: bytes) -> tuple[str, bytes]:
        if member.name != MANIFEST:
            return member.name, data
        return member.name, json.dumps({**json.loads(data), **change}).encode()

    rewrite(bundle, rewritten)
    with pytest.raises(ReleaseError):
        show_bundle(bundle)


def test_something_else_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a tar file")
    with pytest.raises(ReleaseError, match="not a bundle"):
        show_bundle(path)
    with pytest.raises(UsageError, match="there is no bundle"):
        show_bundle(tmp_path / "absent")


def sparse(member: tarfile.TarInfo, form: str) -> bytes:
    """One zero byte that says of itself to be a file of the member's size, in one of the ways of GNU tar."""
    size = member.size
    if form == "gnu":
        member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
        block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
        block[386:398], block[398:410], block[483:495] = b"0" * 11 + b"\0", b"0" * 11 + b"\0", b"%011o\0" % size
        total = 256 + sum(block[:148]) + sum(block[156:])
        block[148:156] = f"{total:06o}\0 ".encode()
        return bytes(block)
    member.size = 0
    member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(size)}
    return member.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_sparse_file_is_refused_and_takes_no_room(tmp_path: Path, form: str) -> None:
    # 1 MiB of zeros is the kubelet of this bundle, and its manifest says so truthfully.
    content = {**FILES, "bin/kubelet": bytes(1024 * 1024)}
    stream = io.BytesIO()
    files = {}
    for name, data in content.items():
        (tmp_path / "one").write_bytes(data)
        files[name] = describe_file(tmp_path / "one")
    manifest = ReleaseManifest("1.20.2", "amd64", "a test", "r", "p:1", "d:1", "t:1", (), files)
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in {MANIFEST: manifest.to_json().encode(), **content}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name == "bin/kubelet":
                stream.write(sparse(member, form))
                archive.offset = stream.tell()
            else:
                archive.addfile(member, io.BytesIO(data))
    path = tmp_path / "sparse.bundle"
    path.write_bytes(stream.getvalue())
    with tarfile.open(path) as archive:
        assert archive.getmember("bin/kubelet").issparse()
    with pytest.raises(ReleaseError, match="'bin/kubelet' does not belong there"):
        verify_bundle(path)


@pytest.mark.parametrize("records", [{"GNU.sparse.map": "x"}, {"GNU.sparse.size": "9" * 30}, {"size": "1" + "0" * 30}])
def test_an_extended_header_with_garbage_is_told(bundle: Path, records: dict[str, str]) -> None:
    with tarfile.open(bundle, "a", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("bin/extra")
        member.pax_headers = records
        archive.addfile(member, io.BytesIO(b""))
    with pytest.raises(ReleaseError, match="not what its manifest says"):
        verify_bundle(bundle)


def test_a_bundle_larger_than_the_free_disk_is_refused_before_anything_is_made(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 50_000})())
    with pytest.raises(HostNotFitError, match=r"unpacking the bundle needs 0 MiB of disk"):
        unpack_bundle(bundle, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("more", [b"x", b"\0" * 10240, b"more of it" * 10_000])
def test_bytes_behind_the_end_are_refused(bundle: Path, tmp_path: Path, more: bytes) -> None:
    bundle.write_bytes(bundle.read_bytes() + more)
    for use in (verify_bundle, lambda path: unpack_bundle(path, tmp_path / "cache")):
        with pytest.raises(ReleaseError, match="more behind the end"):
            use(bundle)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_bundle_without_its_end_is_cut_short(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes().rstrip(b"\0"))
    with pytest.raises(ReleaseError, match="cut short"):
        verify_bundle(bundle)


def relabelled(path: Path, **changes: object) -> None:
    """Let the manifest of a bundle say something else."""
    rewrite(
        path,
        lambda m, data: (m.name, json.dumps({**json.loads(data), **changes}).encode() if m.name == MANIFEST else data),
    )


def test_images_that_no_archive_holds_are_named(bundle: Path, tmp_path: Path) -> None:
    # Another version than the archives are of, with the manifest in order by itself.
    relabelled(bundle, images=["hyperscaler.invalid/kubernetes/pause:3.3"])
    for use in (verify_bundle, lambda path: unpack_bundle(path, tmp_path / "cache")):
        with pytest.raises(ReleaseError, match=r"no archive in it holds the image hyperscaler\S+/pause:3\.3"):
            use(bundle)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"layers " * 5000, image_archive("x:1")[:520], b'manifest.json: {"RepoTags": 1}'],
)
def test_an_archive_of_images_that_is_none_is_named(release: Release, tmp_path: Path, content: bytes) -> None:
    release.path("images/kubernetes.tar").write_bytes(content)
    files = {**release.manifest.files, "images/kubernetes.tar": describe_file(release.path("images/kubernetes.tar"))}
    bundle = tmp_path / "odd.bundle"
    create_bundle(dataclasses.replace(release, manifest=dataclasses.replace(release.manifest, files=files)), bundle)
    with pytest.raises(ReleaseError, match=r"images/kubernetes\.tar is no archive of container images"):
        verify_bundle(bundle)
