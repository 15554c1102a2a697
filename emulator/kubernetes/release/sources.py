"""Chooses the source of a lab's Kubernetes, and provides the files for the image of a node."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import ConfigError
from emulator.kubernetes.config.addons import HELM, missing_addons, wanted_addons, wanted_extras
from emulator.kubernetes.release.bundle import (
    Trust,
    require_unpack_room,
    show_bundle,
    unpack_bundle,
    unpacked,
    verify_bundle,
)
from emulator.kubernetes.release.bundle_use import require_usable
from emulator.kubernetes.release.bundles.signing import BundleSignatures
from emulator.kubernetes.release.cache_lock import Progress, cache_lock
from emulator.kubernetes.release.disk_room import remove_leftovers
from emulator.kubernetes.release.modules.module_build import ModuleBuild
from emulator.kubernetes.release.node_files import NodeFiles
from emulator.kubernetes.release.release import Release, ReleaseManifest, brings_containerd
from emulator.kubernetes.release.upgrade_files import UpgradeFiles, upgrade_files
from emulator.kubernetes.release.upstream import UpstreamFetch
from emulator.labfile.kubernetes_versions import (
    MODULE_ADDONS,
    MODULE_EXTRAS,
    MODULE_MINORS,
    UPSTREAM_MINORS,
    is_asked_for,
    is_full_version,
    minor_of,
)
from emulator.labfile.model import KubernetesSpec

BUNDLE = "bundle:"
MODULES = "modules"
UPSTREAM = "upstream"
AUTO = "auto"
_OF_MODULES = (*MODULE_ADDONS, *MODULE_EXTRAS)
# Directories of work under way. With no one at work, such a name was left by a run that was killed. A build of
# Go modules is not among them, because the next one goes on with it.
_WORK = (".unpack-*", "upstream-*.work", "node-*.new", "node-*.work", "upgrade-*.new", "upgrade-*.work")


@dataclass(frozen=True, slots=True)
class KubernetesSources:
    """All sources on this host. `wants` of a lab is its `KubernetesSpec`."""

    build: ModuleBuild
    upstream: UpstreamFetch
    files: NodeFiles
    cache: Path
    signatures: BundleSignatures | None = None

    def ready(self, wants: KubernetesSpec) -> Path | None:
        """The node files of the lab's release if nothing has to be built or unpacked for them; reads only.

        Raises:
            UsageError, ReleaseError, ConfigError, HostNotFitError: the source cannot give what the lab wants.
        """
        kind = self.resolve(wants)
        if kind == MODULES:
            self._require_modules(wants)
            release = self.build.cached(wants.version, wanted_extras(wants))
            if release is None and self.build.cached(wants.version) is None:
                self.build.require_host()
        elif kind == UPSTREAM:
            require_addons(wants, self.upstream.origin.addons)
            release = self.upstream.cached(wants.version, wanted_addons(wants))
            if release is None:
                self.upstream.require(wants.version, wanted_addons(wants))
        else:
            path = Path(kind.removeprefix(BUNDLE))
            manifest = show_bundle(path, self._trust(path))
            _require_bundle(manifest, wants, where=str(path))
            release = Release(self.cache, manifest)
            if not self.files.directory(release).is_dir() and unpacked(manifest, self.cache) is None:
                _verify(path)
                require_unpack_room(manifest, self.cache)
        found = self.files.directory(release) if release is not None else None
        if found is not None and found.is_dir():
            return found
        if kind.startswith(BUNDLE) and release is not None and not brings_containerd(release.manifest):
            self.files.require_host()
        return None

    def left_of(self, wants: KubernetesSpec) -> str:
        """What a `release` that was ended has left here for the next one, in words; asks nobody."""
        release = self.upstream.cached(wants.version, wanted_addons(wants)) if wants.source != MODULES else None
        if release is None and wants.source in (AUTO, MODULES) and self._modules_serve(wants):
            release = self.build.cached(wants.version, wanted_extras(wants))
            unfinished = self.build.unfinished(wants.version, wanted_extras(wants))
            if release is None and unfinished is not None:
                return f"what was fetched and compiled is kept in {unfinished}, and the next run goes on from there"
        if release is not None:
            return f"Kubernetes {release.manifest.version} itself is finished and kept in {release.directory}"
        return "nothing of it is kept, and the next run begins anew"

    def describe(self, wants: KubernetesSpec) -> str:
        """What the lab gets, and from where, in words for a plan; two releases never read the same, but for the newest
        of a version that is yet to be fetched.

        Raises:
            UsageError, ReleaseError: the bundle cannot be read.
        """
        kind = self.resolve(wants)
        if kind == MODULES:
            more = wanted_extras(wants)
            return f"Kubernetes {self.build.version(wants.version)} from {MODULES}" + (
                f" with {', '.join(more)}" if more else ""
            )
        if kind == UPSTREAM:
            found = self.upstream.cached(wants.version, wanted_addons(wants))
            if found is not None:
                return f"Kubernetes {found.manifest.version} from {UPSTREAM}, digest {found.manifest.digest[:12]}"
            asked = wants.version.removeprefix("v") or UPSTREAM_MINORS[-1]
            newest = "" if is_full_version(asked) else "the newest "
            return f"{newest}Kubernetes {asked} from {UPSTREAM}"
        manifest = show_bundle(Path(kind.removeprefix(BUNDLE)))
        return f"Kubernetes {manifest.version} from {kind}, digest {manifest.digest[:12]}"

    def release(self, wants: KubernetesSpec, *, progress: Progress) -> Release:
        """The lab's release on this host: built, fetched or unpacked when it is not here yet.

        Raises:
            UsageError, ReleaseError, ConfigError, HostNotFitError: the source cannot give what the lab wants.
            CommandError: a step of a build failed.
        """
        with self._locked(progress):
            return self._release(wants, progress)

    @contextmanager
    def _locked(self, progress: Progress) -> Iterator[None]:
        with cache_lock(self.cache, progress):
            for pattern in _WORK:
                remove_leftovers(self.cache, pattern)
            yield

    def _release(self, wants: KubernetesSpec, progress: Progress) -> Release:
        kind = self.resolve(wants)
        if kind == MODULES:
            self._require_modules(wants)
            return self.build.build(wants.version, wanted_extras(wants), progress=progress)
        if kind == UPSTREAM:
            require_addons(wants, self.upstream.origin.addons)
            return self.upstream.fetch(wants.version, wanted_addons(wants), progress=progress)
        progress("unpack the bundle", "")
        path = Path(kind.removeprefix(BUNDLE))
        trust = self._trust(path)
        _require_bundle(show_bundle(path, trust), wants, where=str(path))
        return unpack_bundle(path, self.cache, trust)

    def _trust(self, path: Path) -> Trust | None:
        """Refuses a bundle without a trusted signature, where this host has a file of signers."""
        signatures = self.signatures
        if signatures is None or not signatures.required:
            return None
        return lambda manifest: signatures.check(manifest, path)

    def make(self, wants: KubernetesSpec, *, progress: Progress) -> Path:
        """The node files of the lab's release, made when they are not here yet; raises what `release` raises."""
        with self._locked(progress):
            release = self._release(wants, progress)
            progress("container images of a node", "")
            return self.files.make(release)

    def upgrade_files(self, wants: KubernetesSpec, *, progress: Progress) -> UpgradeFiles:
        """What standing nodes get of the lab's release, made when it is not here yet; raises what `release` raises."""
        with self._locked(progress):
            release = self._release(wants, progress)
            progress("files for standing nodes", "")
            return upgrade_files(self.files, release)

    def resolve(self, wants: KubernetesSpec) -> str:
        """`bundle:PATH`, `upstream` or `modules`, what `auto` comes to on this host.

        What was fetched or built for such a lab before decides first: an image must not be made anew because the
        network came or went. Then upstream counts, if it answers within a few seconds.
        """
        if wants.source == "debian-source":
            where = "clusters.cloud.kubernetes_config.source"
            raise ConfigError("debian-source is no source any more", where=where, fix="write `source: modules`")
        if wants.source != AUTO:
            return wants.source
        if self.upstream.cached(wants.version, wanted_addons(wants)) is not None:
            return UPSTREAM
        if not self._modules_serve(wants):
            # Only upstream can help here, so that its error is the one to see.
            return UPSTREAM
        if self.build.cached(wants.version, wanted_extras(wants)) is not None:
            return MODULES
        has_it = not missing_addons(wants, self.upstream.origin.addons)
        return UPSTREAM if has_it and self.upstream.is_reachable(wants.version) else MODULES

    def _modules_serve(self, wants: KubernetesSpec) -> bool:
        if missing_addons(wants, _OF_MODULES) or (wants.version and minor_of(wants.version) not in MODULE_MINORS):
            return False
        return is_asked_for(self.build.version(wants.version), wants.version)

    def _require_modules(self, wants: KubernetesSpec) -> None:
        require_version(self.build.version(wants.version), wants)
        require_addons(wants, _OF_MODULES)


def _verify(path: Path) -> None:
    """Read a bundle whole, once for each state of the file: a command asks several times."""
    status = path.stat()
    _verified(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@functools.cache
def _verified(path: Path, *_state: int) -> None:
    verify_bundle(path)


def _require_bundle(manifest: ReleaseManifest, wants: KubernetesSpec, *, where: str) -> None:
    require_usable(manifest, where=where)
    require_version(manifest.version, wants)
    require_addons(wants, (*manifest.addons, *([HELM] if f"bin/{HELM}" in manifest.files else [])))


def require_version(version: str, wants: KubernetesSpec) -> None:
    """Raises: ConfigError when the lab asks for another version than the source gives (1.31 takes any 1.31.x)."""
    if not is_asked_for(version, wants.version):
        raise ConfigError(
            f"the source gives Kubernetes {version}, the lab asks for {wants.version.removeprefix('v')}",
            where="clusters.cloud.kubernetes_config.version",
            fix=f"write {version}, or remove the key",
        )


def require_addons(wants: KubernetesSpec, have: Collection[str]) -> None:
    """Raises: ConfigError when the lab asks for add-ons that are not among `have`."""
    missing = missing_addons(wants, have)
    if missing:
        raise ConfigError(
            "\n    ".join(missing),
            where="clusters.cloud.kubernetes_config",
            fix="take these settings back, or take another source",
        )
