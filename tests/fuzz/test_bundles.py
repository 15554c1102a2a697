"""Bundles from anywhere: tar headers of every kind with anything in them, whose checksums are right all the same."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.kubernetes.release.bundle import show_bundle, unpack_bundle, verify_bundle
from emulator.kubernetes.release.release import MANIFEST, ReleaseFile, ReleaseManifest
from tests.support.hostile_text import answered
from tests.support.random_examples import examples

_BLOCK = 512
FILES = {f"bin/{name}": name.encode() * 100 for name in ("kubeadm", "kubelet", "kubectl")}
DOCUMENT = ReleaseManifest(
    version="1.35.4",
    architecture="amd64",
    origin="a test",
    repository="r.invalid",
    pause_image="r.invalid/pause:3.10",
    cluster_dns="r.invalid/coredns:1",
    tools="r.invalid/tools:1",
    images=(),
    files={name: ReleaseFile(hashlib.sha256(data).hexdigest(), len(data)) for name, data in FILES.items()},
)
# Records of extended headers that tarfile acts on; the values come from the examples.
_KEYWORDS = (
    "size", "path", "mtime", "uid", "hdrcharset", "linkpath", "GNU.sparse.map", "GNU.sparse.size",
    "GNU.sparse.realsize", "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.numblocks", "GNU.sparse.offset",
    "GNU.sparse.numbytes", "GNU.sparse.name",
)  # fmt: skip
_VALUES = ("", "0", "1", "-1", "9" * 25, "9" * 5000, "x", "1,2", "0,1,2", "²", "bin/kubelet", "nan", "1" + "0" * 400)


def tar(records: dict[str, str]) -> bytes:
    """A sound bundle; the last file has an extended header with these records."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in {MANIFEST: DOCUMENT.to_json().encode(), **FILES}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name == "bin/kubectl":
                member.pax_headers = dict(records)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def headers(data: bytes) -> list[int]:
    """Where the headers of a tar file are."""
    found = []
    at = 0
    while data[at : at + _BLOCK].strip(b"\0"):
        found.append(at)
        size = int(data[at + 124 : at + 135] or b"0", 8)
        at += _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK
    return found


def rechecked(block: bytes) -> bytes:
    """A header with the checksum that it should have."""
    total = 256 + sum(block[:148]) + sum(block[156:])
    return block[:148] + f"{total:06o}\0 ".encode() + block[156:]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


def read(place: Path, data: bytes) -> None:
    path = place / "a.bundle"
    path.write_bytes(data)
    answered(show_bundle, path)
    good = answered(verify_bundle, path)
    assert good in (None, DOCUMENT), "what the manifest does not say was taken"
    release = answered(unpack_bundle, path, place / "cache")
    if release is not None:
        assert {name: release.path(name).read_bytes() for name in FILES} == FILES
    assert list((place / "cache").glob(".unpack-*")) == []


@examples(40)
@given(st.dictionaries(st.sampled_from(_KEYWORDS), st.sampled_from(_VALUES), max_size=5))
def test_extended_headers_that_say_anything(place: Path, records: dict[str, str]) -> None:
    read(place, tar(records))


@examples(60)
@given(st.data())
def test_headers_with_bytes_changed(place: Path, data: st.DataObject) -> None:
    whole = bytearray(tar({"GNU.sparse.map": "0,1"} if data.draw(st.booleans()) else {}))
    for at in data.draw(st.lists(st.sampled_from(headers(bytes(whole))), min_size=1, max_size=3)):
        block = bytearray(whole[at : at + _BLOCK])
        field = data.draw(st.sampled_from([(0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8)]))
        value = data.draw(
            st.binary(max_size=field[1]) | st.sampled_from([b"S", b"x", b"g", b"L", b"K", b"2", b"\x80", b"\xff" * 12])
        )[: field[1]]
        block[field[0] : field[0] + len(value)] = value
        whole[at : at + _BLOCK] = rechecked(bytes(block))
    read(place, bytes(whole))


@examples(20)
@given(st.integers(0, 20_000), st.binary(max_size=600))
def test_bundles_written_over(place: Path, at: int, other: bytes) -> None:
    data = bytearray(tar({}))
    data[at : at + len(other)] = other
    read(place, bytes(data))
