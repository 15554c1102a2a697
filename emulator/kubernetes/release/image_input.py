"""Kubernetes for the images of this host's labs."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from emulator.core.data_files import share_dir
from emulator.core.errors import UsageError
from emulator.core.paths import Home
from emulator.core.ports import ProcessRunner
from emulator.images.build.apt_sources import host_sources
from emulator.kubernetes.release.bundle import create_bundle, show_bundle, verify_bundle
from emulator.kubernetes.release.bundle_use import require_usable
from emulator.kubernetes.release.bundles.signing import BundleSignatures
from emulator.kubernetes.release.cache_lock import Progress, cache_lock
from emulator.kubernetes.release.modules.module_build import ModuleBuild
from emulator.kubernetes.release.modules.node_runtime import NodeRuntime
from emulator.kubernetes.release.node_files import NodeFiles
from emulator.kubernetes.release.pinning.pins import Pin, Pins
from emulator.kubernetes.release.release import ReleaseManifest
from emulator.kubernetes.release.sources import BUNDLE, KubernetesSources
from emulator.kubernetes.release.upstream import UpstreamFetch
from emulator.kubernetes.release.upstream_origin import download, is_reachable, read_origin
from emulator.labfile.kubernetes_versions import version_fault
from emulator.labfile.model import KubernetesSpec

# A command asks several times; the answer must be one.
_reachable = functools.cache(is_reachable)
_index = functools.cache(download)


def kubernetes_sources(home: Home, runner: ProcessRunner) -> KubernetesSources:
    """Where Kubernetes can come from on this host. Asks apt for its sources; reads only."""
    cache = _cache(home)
    data = share_dir() / "config" / "kubernetes"
    lines = host_sources(runner, suite="bookworm", components=("main",)).lines
    build = ModuleBuild(cache, runner, sources=lines, modules=data / "modules")
    origin = read_origin(data / "upstream.yaml")
    runtime = NodeRuntime(cache, runner, data / "modules")
    pins = Pins(home.upstream_digests)
    upstream = UpstreamFetch(cache, runner, origin, lines, runtime, reachable=_reachable, index=_index, pins=pins)
    return KubernetesSources(build, upstream, NodeFiles(cache, lines, runner), cache, _signatures(home, runner))


def _signatures(home: Home, runner: ProcessRunner) -> BundleSignatures:
    return BundleSignatures(home.trusted_signers, runner)


def accept_digest(home: Home, subject: str, digest: str) -> Pin | None:
    """Let an image or manifest of upstream's have this digest from now on; what it had before.

    Raises:
        UsageError: it is not on record, or that is no digest.
        ConflictError: another process held the lock for hours.
    """
    with cache_lock(_cache(home), lambda _step, _line: None):
        return Pins(home.upstream_digests).accept(subject, digest)


def _cache(home: Home) -> Path:
    return home.root / "cache" / "kubernetes"


@dataclass(frozen=True, slots=True)
class KubernetesInput:
    """The image input `kubernetes` (see `emulator.images.lab_images.ImageInput`) as a lab wants it."""

    home: Home
    runner: ProcessRunner
    wants: KubernetesSpec = field(default_factory=KubernetesSpec)

    def ready(self) -> Path | None:
        return kubernetes_sources(self.home, self.runner).ready(self.wants)

    def describe(self) -> str:
        return kubernetes_sources(self.home, self.runner).describe(self.wants)

    def make(self, progress: Callable[[str], None]) -> Path:
        def show(step: str, line: str) -> None:
            progress(f"{step}: {line}" if line else step)

        return kubernetes_sources(self.home, self.runner).make(self.wants, progress=show)


class Bundles:
    """Offline bundles, made where upstream or a Go module proxy can be reached and used where they cannot."""

    def __init__(self, home: Home, runner: ProcessRunner) -> None:
        self._home = home
        self._runner = runner

    def create(
        self, wants: KubernetesSpec, path: Path, *, key: Path | None = None, progress: Progress
    ) -> ReleaseManifest:
        """Write all that a lab with these wishes needs to `path`, which must not exist; with a `key` also its signature
        to `path` with `.sig` added.

        Raises:
            UsageError: something is there already, nothing can be written there, the source is a bundle itself, or no
                source has that version.
            HyperscalerError: see `KubernetesSources.release`.
        """
        if wants.source.startswith(BUNDLE):
            raise UsageError(
                "that lab takes its Kubernetes from a bundle already", fix="copy that file, or use --source"
            )
        if key is not None and not key.is_file():
            raise UsageError("there is no such key", where=str(key))
        # All of this comes first: a release takes minutes to be built or fetched.
        if path.exists():
            raise UsageError("exists already", where=str(path), fix="choose another name, or remove it")
        _require_directory(path.absolute().parent)
        fault = version_fault(wants.version, wants.source)
        if fault is not None:
            raise UsageError(fault[0], where="version", fix=fault[1])
        release = kubernetes_sources(self._home, self._runner).release(wants, progress=progress)
        progress("write the bundle", str(path))
        manifest = create_bundle(release, path)
        if key is not None:
            _signatures(self._home, self._runner).sign(manifest.to_json(), path, key)
        return manifest

    def left_of(self, wants: KubernetesSpec, path: Path) -> str:
        """What a `create` that was ended has left for the next one, in words."""
        if path.exists():
            return f"{path} is written, and not signed: hyperscaler bundle sign {path} --key KEY"
        return f"{path} is not written; {kubernetes_sources(self._home, self._runner).left_of(wants)}"

    def sign(self, path: Path, key: Path) -> ReleaseManifest:
        """Sign a bundle that is there, after it was read whole.

        Raises:
            HyperscalerError: it is damaged, there is no such key, or ssh-keygen refuses.
        """
        texts: list[str] = []
        manifest = verify_bundle(path, texts.append)
        _signatures(self._home, self._runner).sign(texts[0], path, key)
        return manifest

    def show(self, path: Path) -> ReleaseManifest:
        """Its manifest, without reading the rest."""
        return show_bundle(path)

    def verify(self, path: Path, signers: Path | None = None) -> tuple[ReleaseManifest, str]:
        """Its manifest, after everything in it was compared with it and it was found to be of use here; and who signed
        it, or nothing where no signature was asked for.

        Args:
            path: of the bundle.
            signers: file of allowed signers; by default the host's, if it has one.

        Raises:
            UsageError, HyperscalerError: see `verify_bundle`, `BundleSignatures.check` and `require_usable`.
        """
        signatures = _signatures(self._home, self._runner)
        if signers is not None:
            signatures = dataclasses.replace(signatures, trusted=signers)
        principals: list[str] = []

        def trust(manifest: str) -> None:
            principals.append(signatures.check(manifest, path))

        manifest = verify_bundle(path, trust if signers is not None or signatures.required else None)
        require_usable(manifest, where=str(path))
        return manifest, "".join(principals)


def _require_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise UsageError(
            "there is no such directory", where=str(directory), fix=f"mkdir -p {shlex.quote(str(directory))}"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError("nothing can be written there", where=str(directory), fix="choose another place, or use sudo")
