"""Offline bundles: what is refused before a release is made, and which ones `verify` calls whole."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import emulator.cli.commands.images.bundle
from emulator.cli.commands.images.bundle import command
from emulator.core.errors import HyperscalerError, InterruptedRunError, UsageError
from emulator.core.paths import Home
from emulator.kubernetes.release.bundle import create_bundle, verify_bundle
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.image_input import Bundles
from emulator.kubernetes.release.modules.module_build import ModuleBuild
from emulator.kubernetes.release.release import Release, ReleaseError, ReleaseManifest, describe_file
from emulator.labfile.kubernetes_versions import BUNDLE_MINORS, UPSTREAM_MINORS
from emulator.labfile.model import KubernetesSpec
from tests.support.fake_runner import FakeRunner
from tests.support.image_archives import image_archive

R = "registry.invalid"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
IMAGES = (*(f"{R}/{name}:v1.35.4" for name in PROGRAMS), f"{R}/etcd:3.5.15-0")
PARTS = (f"{R}/pause:3.10", f"{R}/coredns/coredns:v1.11.3", f"{R}/tools:1")


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    return Bundles(Home(tmp_path / "home"), FakeRunner())


@pytest.fixture
def release(tmp_path: Path) -> Release:
    directory = tmp_path / "release"
    for name in ("bin/kubeadm", "bin/kubelet", "bin/kubectl", "sbom/bom.cdx.json"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    (directory / "images").mkdir()
    (directory / "images/all.tar").write_bytes(image_archive(*IMAGES, *PARTS))
    files = {str(path.relative_to(directory)): describe_file(path) for path in directory.glob("*/*")}
    return Release(directory, ReleaseManifest("1.35.4", "amd64", "a test", R, *PARTS, (*IMAGES, *PARTS), files))


def bundle(release: Release, tmp_path: Path, **changes: Any) -> Path:
    """A bundle of the release, sound by itself, whose manifest says something else of it."""
    path = tmp_path / "k8s.bundle"
    create_bundle(dataclasses.replace(release, manifest=dataclasses.replace(release.manifest, **changes)), path)
    return path


def test_a_whole_bundle_is_called_whole(bundles: Bundles, release: Release, tmp_path: Path) -> None:
    path = bundle(release, tmp_path)
    assert bundles.verify(path) == (release.manifest, "")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"version": "1.27.3"}, r"Kubernetes 1\.27\.3, which this version of the program cannot set up"),
        ({"version": "1.36.1"}, r"the bundle lacks containerd 2, which Kubernetes 1\.36\.1 needs"),
        ({"architecture": "arm64"}, "for arm64, and the nodes are amd64"),
        ({"images": IMAGES}, r"lacks container images that a cluster needs: registry\.invalid/pause:3\.10"),
        ({"version": "1.35.5"}, r"lacks container images that a cluster needs: \S+kube-apiserver:v1\.35\.5"),
        (
            {"pause_image": f"{R}/tools:1"},
            r"names images for what they are not: pause_image: registry\.invalid/tools:1",
        ),
        ({"cluster_dns": f"{R}/pause:3.10"}, "for what they are not: cluster_dns"),
        ({"tools": f"{R}/etcd:3.5.15-0"}, "for what they are not: tools"),
    ],
)
def test_what_provision_refuses_is_not_called_whole(
    bundles: Bundles, release: Release, tmp_path: Path, changes: dict[str, object], what: str
) -> None:
    path = bundle(release, tmp_path, **changes)
    verify_bundle(path)  # as good as its manifest
    with pytest.raises(ReleaseError, match=what) as caught:
        bundles.verify(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_a_version_relabelled_with_its_images_is_not_called_whole(
    bundles: Bundles, release: Release, tmp_path: Path
) -> None:
    images = tuple(name.replace("1.35.4", "1.35.5") for name in release.manifest.images)
    path = bundle(release, tmp_path, version="1.35.5", images=images)
    with pytest.raises(ReleaseError, match=r"no archive in it holds the image \S+/kube-apiserver:v1\.35\.5"):
        bundles.verify(path)


def call(bundles: Bundles, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> Result:
    monkeypatch.setattr(emulator.cli.commands.images.bundle, "_bundles", lambda: bundles)
    return CliRunner().invoke(command, [*map(str, words)])


def test_show_tells_architecture_and_digest(
    bundles: Bundles, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle(release, tmp_path, architecture="arm64")
    digest = dataclasses.replace(release.manifest, architecture="arm64").digest
    text = call(bundles, monkeypatch, "show", path).stdout
    assert "Kubernetes 1.35.4 for arm64" in text
    assert f"digest: {digest}" in text
    document = json.loads(call(bundles, monkeypatch, "show", path, "--json").stdout)
    assert (document["architecture"], document["digest"]) == ("arm64", digest)


def test_a_bundle_that_is_ended_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of Go modules goes on where it stopped."""
    bundles = Bundles(Home(tmp_path / "home"), FakeRunner({"apt-get indextargets": "", "apt-config dump": ""}))
    kept: list[Path] = []

    def build(_self: ModuleBuild, version: str, _extras: Sequence[str], *, progress: Progress) -> Release:
        progress("compile", "")
        kept.append(_self._work(_self.set_of(version)))
        kept[0].mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    monkeypatch.setattr(ModuleBuild, "build", build)
    path = tmp_path / "k8s.bundle"
    error = call(bundles, monkeypatch, "create", path, "--source", "modules").exception
    assert isinstance(error, InterruptedRunError)
    told = f"what was fetched and compiled is kept in {kept[0]}, and the next run goes on from there"
    assert error.what == f"ended by SIGTERM; {path} is not written; {told}"
    assert error.fix == "run the same command again"
    assert not path.exists()


def refused(bundles: Bundles, wants: KubernetesSpec, path: Path) -> HyperscalerError:
    """A host on which nothing can be run, so that no release is made."""
    with pytest.raises(UsageError) as caught:
        bundles.create(wants, path, progress=lambda step, line: pytest.fail(step))
    return caught.value


def test_a_bundle_needs_a_directory_and_that_comes_first(bundles: Bundles, tmp_path: Path) -> None:
    error = refused(bundles, KubernetesSpec(), tmp_path / "not there" / "k8s.bundle")
    assert (error.what, error.where) == ("there is no such directory", str(tmp_path / "not there"))
    assert error.fix == f"mkdir -p '{tmp_path}/not there'"


def test_a_directory_that_nobody_may_write_to_is_told_first(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert refused(bundles, KubernetesSpec(), tmp_path / "k8s.bundle").what == "nothing can be written there"


@pytest.mark.parametrize("source", ["auto", "upstream"])
@pytest.mark.parametrize("version", ["1.27", "1.27.3", "foo", "9.9", "1"])
def test_versions_that_nobody_has_ask_nobody(bundles: Bundles, tmp_path: Path, version: str, source: str) -> None:
    error = refused(bundles, KubernetesSpec(source=source, version=version), tmp_path / "k8s.bundle")
    assert version in error.what
    assert ", ".join(BUNDLE_MINORS if source == "auto" else UPSTREAM_MINORS) in error.fix


def test_modules_have_few_minor_versions(bundles: Bundles, tmp_path: Path) -> None:
    error = refused(bundles, KubernetesSpec(source="modules", version="1.35"), tmp_path / "k8s.bundle")
    assert "Kubernetes 1.35 is not supported from 'modules'" in error.what
