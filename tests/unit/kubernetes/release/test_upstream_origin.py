"""Upstream's manifests made fit for nodes that pull nothing."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.core.errors import HostNotFitError, StateError
from emulator.kubernetes.config.addons import _ADDON_OF_VALUE
from emulator.kubernetes.release import upstream_origin
from emulator.kubernetes.release.release import _IMAGE, _PATH
from emulator.kubernetes.release.upstream import newest
from emulator.kubernetes.release.upstream_origin import (
    Addon,
    archive_name,
    download,
    fetch_manifest,
    full_reference,
    is_reachable,
    prepare_manifest,
    read_origin,
)
from emulator.labfile.kubernetes_versions import MODULE_ADDONS

DIGEST = "sha256:" + "0" * 64
CONTROLLER = "registry.k8s.io/ingress-nginx/controller:v1.12.0"
MANIFEST = f"""\
kind: Deployment
spec:
  template:
    spec:
      initContainers:
        - image: "docker.io/calico/cni:v3.29.1"
          name: install
      containers:
        - name: c
          image: {CONTROLLER}@{DIGEST}
          args: [--image=kept]
---
kind: ConfigMap
data:
  helperPod.yaml: |-
    spec:
      containers:
        - name: helper
          image: busybox
"""


def test_images_are_found_everywhere_and_named_in_full() -> None:
    prepared = prepare_manifest(MANIFEST)
    assert prepared.images == {
        "docker.io/calico/cni:v3.29.1": "docker.io/calico/cni:v3.29.1",
        CONTROLLER: f"{CONTROLLER}@{DIGEST}",
        "docker.io/library/busybox:latest": "docker.io/library/busybox:latest",
    }
    found = re.findall(r"image: (\S+)", prepared.text)
    assert found == list(prepared.images)
    assert "--image=kept" in prepared.text
    assert prepare_manifest(prepared.text).text == prepared.text


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("rancher/local-path-provisioner:v0.0.30", "docker.io/rancher/local-path-provisioner:v0.0.30"),
        ("localhost/x", "localhost/x:latest"),
        ("127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1"),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b:latest@{DIGEST}"),
    ],
)
def test_full_references(name: str, full: str) -> None:
    assert full_reference(name) == full


@pytest.mark.parametrize("name", ["", "$(IMAGE)", "a b", "-x", "x;rm", "../x@y"])
def test_what_is_no_reference_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no container image"):
        full_reference(name)


def test_archive_names_are_plain() -> None:
    assert archive_name("registry.k8s.io/coredns/coredns:v1.11.3") == "registry.k8s.io-coredns-coredns-v1.11.3.tar"


def test_the_published_origin_has_every_addon_of_a_lab_file() -> None:
    upstream = read_origin(share_dir() / "config" / "kubernetes" / "upstream.yaml")
    assert set(_ADDON_OF_VALUE.values()) <= {*upstream.addons, *MODULE_ADDONS}
    assert re.fullmatch(r"[0-9A-F]{40}", upstream.fingerprint)
    for url in (upstream.packages, upstream.key, *(addon.manifest for addon in upstream.addons.values())):
        assert url.startswith("https://")
    assert all(_PATH.fullmatch(f"manifests/{name}.yaml") for name in upstream.addons)
    assert _IMAGE.fullmatch(f"{upstream.registry}/pause:3.10")


def test_a_damaged_origin_is_told(tmp_path: Path) -> None:
    (tmp_path / "upstream.yaml").write_text("format: 2\n")
    with pytest.raises(StateError, match="format 2"):
        read_origin(tmp_path / "upstream.yaml")


@pytest.mark.parametrize("url", ["http://example.invalid/x", "file:///etc/passwd", "ftp://x/y", ""])
def test_only_https_is_fetched(url: str) -> None:
    assert not is_reachable(url)
    with pytest.raises(HostNotFitError, match="only https"):
        download(url)


def test_the_newest_fitting_version_is_taken() -> None:
    have = ("1.31.4-1.1", "1.31.10-1.1", "1.31.9-1.1", "1.30.11-1.1")
    assert newest(have, "1.31") == "1.31.10-1.1"
    assert newest(have, "v1.31.4") == "1.31.4-1.1"
    assert newest(have, "") == "1.31.10-1.1"
    assert newest(have, "1.3") is None


def test_a_manifest_is_the_one_whose_checksum_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    data = MANIFEST.encode()
    monkeypatch.setattr(upstream_origin, "download", lambda url: data)
    right = hashlib.sha256(data).hexdigest()
    for sha256 in ("", right):
        fetched = fetch_manifest(Addon("v1", "https://x.invalid/y", sha256))
        assert fetched.sha256 == right, "of the file, not of what was made of it"
        assert fetched.images == prepare_manifest(MANIFEST).images
    with pytest.raises(HostNotFitError, match=f"its sha256 is {right}, and should be {'0' * 64}") as caught:
        fetch_manifest(Addon("v1", "https://x.invalid/y", "0" * 64))
    assert caught.value.where == "https://x.invalid/y"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"image: $(X)\n"])
def test_what_is_no_manifest_is_told(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(upstream_origin, "download", lambda url: data)
    with pytest.raises(HostNotFitError, match="is not a manifest"):
        fetch_manifest(Addon("v1", "https://x.invalid/y"))


def test_checksums_of_addons_are_read_and_judged(tmp_path: Path) -> None:
    text = (share_dir() / "config" / "kubernetes" / "upstream.yaml").read_text()
    path = tmp_path / "upstream.yaml"
    path.write_text(text.replace("    version: v0.26.2\n", f"    version: v0.26.2\n    sha256: {'a' * 64}\n"))
    assert {name: addon.sha256 for name, addon in read_origin(path).addons.items() if addon.sha256} == {
        "flannel": "a" * 64
    }
    assert repr(read_origin(path)) == repr(read_origin(share_dir() / "config" / "kubernetes" / "upstream.yaml"))
    path.write_text(text.replace("    version: v0.26.2\n", "    version: v0.26.2\n    sha256: abc\n"))
    with pytest.raises(StateError, match="'abc' is not a sha256"):
        read_origin(path)
