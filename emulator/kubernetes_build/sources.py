"""Chooses where a lab's Kubernetes comes from, and gives its files for the image of a node."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from emulator.errors import ConfigError, HostNotFitError
from emulator.kubernetes.addons import missing_addons
from emulator.kubernetes_build.bundle import show_bundle, unpack_bundle
from emulator.kubernetes_build.debian_source import KubernetesBuild
from emulator.kubernetes_build.go_build import Progress
from emulator.kubernetes_build.node_files import NodeFiles
from emulator.kubernetes_build.release import Release
from emulator.spec.kubernetes_versions import DEBIAN_SOURCE_VERSION
from emulator.spec.model import KubernetesSpec

BUNDLE = "bundle:"
DEBIAN_SOURCE = "debian-source"
UPSTREAM = "upstream"
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class KubernetesSources:
    """All sources on this host. `wants` of a lab is its `KubernetesSpec`."""

    build: KubernetesBuild
    files: NodeFiles
    cache: Path

    def ready(self, wants: KubernetesSpec) -> Path | None:
        """The node files of the lab's release if nothing has to be built or unpacked for them; reads only.

        Raises:
            UsageError, ReleaseError, ConfigError, HostNotFitError: the source cannot give what the lab wants.
        """
        kind = resolve_source(wants.source)
        if kind == DEBIAN_SOURCE:
            require_version(DEBIAN_SOURCE_VERSION, wants)
            require_addons(wants, ())
            release = self.build.cached()
            found = self.files.directory(release) if release is not None else None
        else:
            manifest = show_bundle(Path(kind.removeprefix(BUNDLE)))
            require_version(manifest.version, wants)
            require_addons(wants, manifest.images)
            found = self.files.directory(Release(self.cache, manifest))
        return found if found is not None and found.is_dir() else None

    def make(self, wants: KubernetesSpec, *, progress: Progress) -> Path:
        """The node files of the lab's release, built or unpacked when they are not here yet.

        Raises:
            UsageError, ReleaseError, ConfigError, HostNotFitError: the source cannot give what the lab wants.
            CommandError: a step of a build failed.
        """
        kind = resolve_source(wants.source)
        if kind == DEBIAN_SOURCE:
            require_version(DEBIAN_SOURCE_VERSION, wants)
            require_addons(wants, ())
            release = self.build.build(progress=progress)
        else:
            progress("unpack the bundle", "")
            release = unpack_bundle(Path(kind.removeprefix(BUNDLE)), self.cache)
            require_version(release.manifest.version, wants)
            require_addons(wants, release.manifest.images)
        progress("container images of a node", "")
        return self.files.make(release)


def resolve_source(source: str) -> str:
    """`bundle:PATH` or `debian-source`, the sources that this version can fetch from.

    Raises:
        HostNotFitError: `upstream`, which this version cannot fetch from by itself.
    """
    if source.startswith(BUNDLE) or source == DEBIAN_SOURCE:
        return source
    if source == AUTO:
        return DEBIAN_SOURCE
    raise HostNotFitError(
        "this version cannot fetch Kubernetes from the upstream project by itself",
        where="clusters.cloud.kubernetes_config.source",
        fix="make a bundle where upstream can be reached and use bundle:PATH, or use debian-source",
    )


def require_version(version: str, wants: KubernetesSpec) -> None:
    """Raises: ConfigError when the lab asks for another version than the source gives (1.31 takes any 1.31.x)."""
    asked = wants.version.removeprefix("v")
    if asked and version != asked and not version.startswith(f"{asked}."):
        raise ConfigError(
            f"the source gives Kubernetes {version}, the lab asks for {asked}",
            where="clusters.cloud.kubernetes_config.version",
            fix=f"write {version}, or remove the key",
        )


def require_addons(wants: KubernetesSpec, images: Collection[str]) -> None:
    """Raises: ConfigError when the lab asks for add-ons whose container images are not among `images`."""
    missing = missing_addons(wants, images)
    if missing:
        raise ConfigError(
            "\n    ".join(missing),
            where="clusters.cloud.kubernetes_config",
            fix="write cni: bridge, ingress: none and storage_class: none",
        )
