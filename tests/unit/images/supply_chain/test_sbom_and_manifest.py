"""Records beside an image: the bill of materials and the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulator.core.errors import StateError
from emulator.images.store.manifest import Artefact, Manifest, read_manifest
from emulator.images.supply_chain.sbom import parse_packages, spdx

MANIFEST = Manifest(
    name="demo",
    digest="ab" * 32,
    recipe_digest="cd" * 32,
    builder_version="1",
    suite="bookworm",
    architecture="amd64",
    kernel_version="6.1",
    cmdline=("rw",),
    virtual_size=1 << 30,
    built_at="2026-01-02T03:04:05+00:00",
    build_seconds=55.5,
    artefacts={"disk.qcow2": Artefact("00" * 32, 5)},
    packages={"munge": "0.5"},
    tools={"mmdebstrap": "1.3.5"},
)


def test_a_manifest_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(MANIFEST.to_json())
    assert read_manifest(path) == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "has schema 2; this program knows 1"),
        ({"digest": 5}, "digest is not a string"),
        ({"artefacts": []}, "artefacts is not an object"),
        ({"artefacts": {"disk.qcow2": {"sha256": "0"}}}, "KeyError"),
        ({"virtual_size": "1"}, "virtual_size is not a number"),
        ({"cmdline": "rw"}, "cmdline is not a list"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(MANIFEST.to_json()) | change))
    with pytest.raises(StateError, match=message) as caught:
        read_manifest(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00\xff"])
def test_something_else_is_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StateError):
        read_manifest(path)


def test_the_bill_of_materials_names_every_package_with_its_source() -> None:
    listing = (
        "zlib1g\t1:1.2.13\tamd64\tzlib\t1:1.2.13\tB <b@example.org>\n"
        "libstdc++6\t12.2.0-14\tamd64\tgcc-12\t12.2.0-14\tA <a@example.org>\n"
    )
    packages = parse_packages(listing)
    document = json.loads(spdx("demo", packages, digest="ab" * 32, suite="bookworm", created="2026-01-02T03:04:05Z"))
    assert document["spdxVersion"] == "SPDX-2.3"
    image, cplusplus, zlib = document["packages"]
    assert image["versionInfo"] == "abababababab"
    assert cplusplus["SPDXID"] == "SPDXRef-deb-libstdc-2b--2b-6-amd64"
    assert cplusplus["sourceInfo"] == "built from source package gcc-12 12.2.0-14"
    locator = zlib["externalRefs"][0]["referenceLocator"]
    assert locator == "pkg:deb/debian/zlib1g@1%3A1.2.13?arch=amd64&distro=bookworm"
    ids = {item["SPDXID"] for item in document["packages"]} | {"SPDXRef-DOCUMENT"}
    assert len(ids) == 4
    for relation in document["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= ids
