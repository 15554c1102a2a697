"""Upstream's manifests made fit for nodes that pull nothing."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import yaml

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
from emulator.labfile.kubernetes_versions import MODULE_ADDONS, MODULE_EXTRA_ADDONS

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
    missing = set(_ADDON_OF_VALUE.values()) - {*upstream.addons, *MODULE_ADDONS, *MODULE_EXTRA_ADDONS}
    assert missing == {"ingress-nginx"}, "of labs that stand"
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
    shutil.copytree(share_dir() / "config" / "kubernetes" / "addons", tmp_path / "addons")
    path.write_text(text.replace("    version: v0.28.10\n", f"    version: v0.28.10\n    sha256: {'a' * 64}\n"))
    assert {name: addon.sha256 for name, addon in read_origin(path).addons.items() if addon.sha256} == {
        "flannel": "a" * 64
    }
    assert repr(read_origin(path)) == repr(read_origin(share_dir() / "config" / "kubernetes" / "upstream.yaml"))
    path.write_text(text.replace("    version: v0.28.10\n", "    version: v0.28.10\n    sha256: abc\n"))
    with pytest.raises(StateError, match="'abc' is not a sha256"):
        read_origin(path)


OWN = share_dir() / "config" / "kubernetes" / "addons" / "traefik.yaml"


def test_documents_of_our_own_come_after_those_that_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    addon = read_origin(share_dir() / "config" / "kubernetes" / "upstream.yaml").addons["traefik"]
    crds = b"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: gateways.x}\n"
    monkeypatch.setattr(upstream_origin, "download", lambda url: crds)
    made = fetch_manifest(addon)
    kinds = [document["kind"] for document in yaml.safe_load_all(made.text)]
    assert kinds[0] == "CustomResourceDefinition"
    assert {"Namespace", "Deployment", "Service", "IngressClass"} <= set(kinds[1:])
    assert made.sha256 == hashlib.sha256(crds).hexdigest(), "the digest that is on record is upstream's"
    assert made.images == {f"docker.io/library/traefik:{addon.version}": f"docker.io/library/traefik:{addon.version}"}
    assert upstream_origin.VERSION not in made.text


def test_what_is_applied_with_its_kinds_has_no_object_of_them() -> None:
    """kubectl looks at all documents at once, and does not know a kind before the next time."""
    documents = list(yaml.safe_load_all(OWN.read_text()))
    assert not [each["kind"] for each in documents if "gateway.networking.k8s.io" in each["apiVersion"]]


def test_traefik_needs_nothing_that_the_strictest_pod_security_standard_refuses() -> None:
    documents = {each["kind"]: each for each in yaml.safe_load_all(OWN.read_text())}
    assert documents["Namespace"]["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert not pod.get("hostNetwork")
    assert not [port for port in container["ports"] if "hostPort" in port]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert min(port["containerPort"] for port in container["ports"]) >= 1024


def test_traefik_writes_nothing_but_states() -> None:
    """Whoever has its token can read secrets, as with any ingress controller, and change no object."""
    (role,) = [each for each in yaml.safe_load_all(OWN.read_text()) if each["kind"] == "ClusterRole"]
    for rule in role["rules"]:
        reads = set(rule["verbs"]) <= {"get", "list", "watch"}
        assert reads or (rule["verbs"] == ["update"] and all(name.endswith("/status") for name in rule["resources"]))


def test_traefik_follows_no_reference_out_of_a_namespace() -> None:
    """Its options for that are off unless they are named: it would reach for students what they cannot."""
    (deployment,) = [each for each in yaml.safe_load_all(OWN.read_text()) if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert not [
        word for word in container["args"] if re.search("allow|crossprovider|kubernetescrd|plugin|api[.=]", word)
    ]


def test_every_addon_is_pinned_by_its_version() -> None:
    for name, addon in read_origin(share_dir() / "config" / "kubernetes" / "upstream.yaml").addons.items():
        assert re.fullmatch(r"v[0-9]+[.][0-9]+[.][0-9]+", addon.version), name
        assert re.search(r"/v[0-9]+[.][0-9]+[.][0-9]+/", addon.manifest), name
        assert addon.own or f"/{addon.version}/" in addon.manifest, name


def test_an_image_that_a_manifest_names_without_a_version_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    addon = read_origin(share_dir() / "config" / "kubernetes" / "upstream.yaml").addons["local-path"]
    monkeypatch.setattr(upstream_origin, "download", lambda url: MANIFEST.encode())
    made = fetch_manifest(addon)
    assert made.images["docker.io/library/busybox:1.37.0"] == "docker.io/library/busybox:1.37.0"
    assert "image: docker.io/library/busybox:1.37.0" in made.text
    assert "docker.io/library/busybox:latest" not in made.images
    assert made.images[CONTROLLER] == f"{CONTROLLER}@{DIGEST}", "the others stay"


def test_documents_of_our_own_that_are_gone_are_told(tmp_path: Path) -> None:
    text = (share_dir() / "config" / "kubernetes" / "upstream.yaml").read_text()
    (tmp_path / "upstream.yaml").write_text(text)
    with pytest.raises(StateError, match="install hyperscaler again"):
        read_origin(tmp_path / "upstream.yaml")
