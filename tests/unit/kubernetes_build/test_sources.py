"""Where Kubernetes comes from, and what is refused before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.errors import ConfigError, HostNotFitError, UsageError
from emulator.kubernetes_build.debian_source import KubernetesBuild
from emulator.kubernetes_build.node_files import NodeFiles
from emulator.kubernetes_build.sources import KubernetesSources, require_version, resolve_source
from emulator.ports import Completed
from emulator.spec.model import KubernetesSpec


class NoCommands:
    """A runner for what must start nothing."""

    def run(self, argv: object, **_: object) -> Completed:
        raise AssertionError(f"started {argv}")


@pytest.fixture
def sources(tmp_path: Path) -> KubernetesSources:
    (tmp_path / "programs").mkdir()
    runner = NoCommands()
    build = KubernetesBuild(tmp_path / "cache", runner, sources=(), programs=tmp_path / "programs")
    return KubernetesSources(build, NodeFiles(tmp_path / "cache", (), runner), tmp_path / "cache")


def test_auto_builds_from_debians_source() -> None:
    assert resolve_source("auto") == "debian-source"
    assert resolve_source("bundle:/srv/k8s.bundle") == "bundle:/srv/k8s.bundle"


def test_upstream_is_refused_with_a_way_out() -> None:
    with pytest.raises(HostNotFitError, match="upstream") as caught:
        resolve_source("upstream")
    assert "bundle:PATH" in caught.value.fix


def test_nothing_is_built_by_looking(sources: KubernetesSources, tmp_path: Path) -> None:
    assert sources.ready(KubernetesSpec()) is None
    assert not (tmp_path / "cache").exists()


def test_addons_that_cannot_be_had_are_refused_by_looking(sources: KubernetesSources) -> None:
    with pytest.raises(ConfigError, match="cni: calico"):
        sources.ready(KubernetesSpec(cni="calico"))


@pytest.mark.parametrize("asked", ["", "1.20", "v1.20", "1.20.2", "v1.20.2"])
def test_versions_that_the_source_gives(asked: str) -> None:
    require_version("1.20.2", KubernetesSpec(version=asked))


@pytest.mark.parametrize("asked", ["1.31", "1.2", "1.20.20", "1.20.1"])
def test_versions_that_it_does_not(asked: str) -> None:
    with pytest.raises(ConfigError, match=r"gives Kubernetes 1\.20\.2"):
        require_version("1.20.2", KubernetesSpec(version=asked))


def test_an_absent_bundle_is_named(sources: KubernetesSources) -> None:
    with pytest.raises(UsageError, match=r"no bundle /absent/k8s\.bundle"):
        sources.ready(KubernetesSpec(source="bundle:/absent/k8s.bundle"))


def test_a_host_without_debians_sources_is_told_what_to_do(sources: KubernetesSources) -> None:
    with pytest.raises(HostNotFitError, match="no sources of Debian 12") as caught:
        sources.make(KubernetesSpec(), progress=lambda step, line: None)
    assert "bundle create" in caught.value.fix
