"""Kubernetes from the upstream project: packages by apt, container images by skopeo, add-ons by their manifests.

Its packages hold no containerd: that, crictl and the CNI plugins are compiled as for a release of modules.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emulator.core.errors import ConfigError, HostNotFitError, StateError
from emulator.core.fs import publish_tree, replace_link
from emulator.core.ports import ProcessRunner
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.containers.container_images import TOOLS_IMAGE, ImageRoots
from emulator.kubernetes.release.containers.docker_archive import write_archive
from emulator.kubernetes.release.debian_packages import DebianArchive, require_sources
from emulator.kubernetes.release.pinning.pins import Pins
from emulator.kubernetes.release.pinning.registry import manifest_digest
from emulator.kubernetes.release.release import (
    ARCHITECTURE,
    DIRECTORIES,
    MANIFEST,
    NODE_PROGRAMS,
    Release,
    ReleaseManifest,
    describe_file,
    read_release,
)
from emulator.kubernetes.release.upstream_origin import (
    AddonManifest,
    Origin,
    archive_name,
    download,
    fetch_manifest,
    is_reachable,
    package_versions,
)
from emulator.labfile.kubernetes_versions import UPSTREAM_MINORS, is_asked_for, is_full_version, minor_of, version_fault

# skopeo and those of its libraries that a lean host lacks.
SKOPEO_PACKAGES = ("skopeo", "libgpgme11", "libassuan0", "libgpg-error0", "libdevmapper1.02.1")
_TOOLS_PACKAGES = ("busybox-static",)
_COPY_TIMEOUT = 1800.0
_LIST_TIMEOUT = 60.0


class Runtime(Protocol):
    """Where the programs of a node that are not Kubernetes' come from: `NodeRuntime`."""

    @property
    def key(self) -> str:
        """What decides the programs."""

    def require_host(self) -> None:
        """Raises: HostNotFitError when they cannot be made here."""

    def provide(self, progress: Progress) -> tuple[Path, dict[str, str]]:
        """A directory with `bin/`, `cni/` and `sbom/`, and what is in the programs."""


@dataclass(frozen=True, slots=True)
class UpstreamFetch:
    """Releases fetched from `origin`, kept under `cache` next to those that were built.

    `debian` are apt's sources of Debian 12, from which skopeo and the tools of the probe pods come; `runtime` gives
    containerd.
    """

    cache: Path
    runner: ProcessRunner
    origin: Origin
    debian: tuple[str, ...]
    runtime: Runtime
    reachable: Callable[[str], bool] = is_reachable
    index: Callable[[str], bytes] = download
    pins: Pins | None = None
    """The host's record of digests; None for one in the cache."""

    def is_reachable(self, version: str) -> bool:
        """Whether the repository of this version answers within a few seconds."""
        # The index, not the directory: the project's package host lists no directories, and says 403 for them.
        return self.reachable(self._packages(version).rstrip("/") + "/InRelease")

    def require(self, version: str, addons: Collection[str]) -> None:
        """See before anything is made that this release can be fetched.

        Raises:
            HostNotFitError: upstream is out of reach, apt has no Debian 12 sources, or there is not enough space.
            ConfigError: upstream does not have this version.
        """
        if not self.is_reachable(version):
            others = "source: bundle:PATH"
            if not addons and version_fault(version, "modules") is None:
                others += " or source: modules"
            raise HostNotFitError(
                "the Kubernetes project's packages cannot be reached from here",
                where=self._packages(version),
                fix=f"check the way to the internet (https_proxy), or write {others}",
            )
        if is_full_version(version):
            known = self._known_versions(version)
            if known and newest(known, version) is None:
                raise _no_such_version(version, known)
        require_sources(self.debian)
        self.runtime.require_host()

    def _known_versions(self, version: str) -> tuple[str, ...]:
        """What upstream's index says; empty when it cannot be had. For the early answer alone: apt looks again, and
        checks the signature."""
        try:
            index = self.index(self._packages(version).rstrip("/") + "/Packages")
        except HostNotFitError:
            return ()
        return package_versions(index.decode("utf-8", errors="replace"), "kubeadm")

    def cached(self, version: str, addons: Collection[str]) -> Release | None:
        """What was fetched for the same wish before; upstream is not asked whether there is something newer.

        None also when the manifest of an add-on was another one then than the one whose checksum is known now.
        """
        try:
            found = read_release(self._pointer(version, addons).resolve(strict=True))
        except (OSError, StateError):
            return None
        for name, fetched in found.manifest.fetched.items():
            if name in self.origin.addons and self.origin.addons[name].sha256 not in ("", fetched):
                return None
        return found

    def fetch(self, version: str, addons: Collection[str], *, progress: Progress) -> Release:
        """The release: the cached one, else a new one. To be called under `cache_lock`.

        Args:
            version: `1.31` for its newest, `1.31.4` for that one, empty for the newest that this program knows.
            addons: names of `origin.addons` whose manifests and images are wanted.
            progress: called with each step.

        Raises:
            HostNotFitError: upstream is out of reach.
            ConfigError: upstream does not have this version.
            CommandError: apt or skopeo failed.
            ChangedError: an add-on or an image is not what this host fetched before under its name.
        """
        found = self.cached(version, addons)
        if found is not None:
            return found
        self.require(version, addons)
        work = self.cache / f"upstream-{os.getpid()}.work"
        shutil.rmtree(work, ignore_errors=True)
        try:
            return self._fetch(version, addons, work, progress)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _fetch(self, version: str, addons: Collection[str], work: Path, progress: Progress) -> Release:
        stage = work / "stage"
        for name in DIRECTORIES:
            (stage / name).mkdir(parents=True)
        progress("programs", "")
        packages = self._programs(version, work, stage / "bin")
        exact = packages["kubeadm"].partition("-")[0]
        progress("add-ons", ", ".join(sorted(addons)))
        manifests = {name: fetch_manifest(self.origin.addons[name]) for name in sorted(addons)}
        for name, manifest in manifests.items():
            (stage / "manifests" / f"{name}.yaml").write_text(manifest.text, encoding="utf-8")
        wanted = self._kubeadm_images(stage / "bin/kubeadm", exact)
        sources = {reference: reference for reference in wanted}
        for manifest in manifests.values():
            sources |= manifest.images
        progress("digests", f"of {len(sources)} images")
        sources = self._pinned(sources, {self.origin.addons[name].manifest: each for name, each in manifests.items()})
        packages |= self._images(sources, work, stage / "images", progress)
        # The last, since it is what an interrupted fetch does not begin anew.
        packages |= self._node_programs(stage, progress)
        names = {reference.rsplit("/", 1)[1].split(":")[0]: reference for reference in wanted}
        document = ReleaseManifest(
            version=exact,
            architecture=ARCHITECTURE,
            origin=f"upstream, {self._packages(version)}"[:300],
            repository=self.origin.registry,
            pause_image=names["pause"],
            cluster_dns=names["coredns"],
            tools=TOOLS_IMAGE,
            images=tuple(sorted([*sources, TOOLS_IMAGE])),
            files={
                str(path.relative_to(stage)): describe_file(path) for path in sorted(stage.rglob("*")) if path.is_file()
            },
            packages=packages,
            fetched={name: manifest.sha256 for name, manifest in manifests.items()},
        )
        return self._keep(stage, document, self._pointer(version, addons))

    # ---------------------------------------------------------------- programs
    def _programs(self, version: str, work: Path, target: Path) -> dict[str, str]:
        key = work / "key.asc"
        key.write_bytes(download(self._url(self.origin.key, version)))
        line = f"deb [signed-by={key},{self.origin.fingerprint}] {self._packages(version)} /"
        archive = DebianArchive(work / "apt", (line,), self.runner)
        archive.update()
        known = archive.versions("kubeadm")
        exact = newest(known, version)
        if exact is None:
            raise _no_such_version(version, known)
        root = work / "root"
        packages = archive.unpack([f"{name}={exact}" for name in NODE_PROGRAMS], root)
        for name in NODE_PROGRAMS:
            shutil.copyfile(root / "usr/bin" / name, target / name)
            (target / name).chmod(0o755)
        return packages

    def _node_programs(self, stage: Path, progress: Progress) -> dict[str, str]:
        programs, packages = self.runtime.provide(progress)
        for name in ("bin", "cni", "sbom"):
            for path in sorted((programs / name).iterdir()):
                shutil.copy2(path, stage / name / path.name)
        return packages

    def _kubeadm_images(self, kubeadm: Path, version: str) -> tuple[str, ...]:
        options = ("--kubernetes-version", f"v{version}", "--image-repository", self.origin.registry)
        argv = [str(kubeadm), "config", "images", "list", *options]
        return tuple(self.runner.run(argv, timeout=_LIST_TIMEOUT).stdout.split())

    # ---------------------------------------------------------------- images
    def _pinned(self, sources: Mapping[str, str], manifests: Mapping[str, AddonManifest]) -> dict[str, str]:
        """The sources of images, each with the digest that its tag has now; manifests are by URL.

        Raises:
            HostNotFitError: a registry cannot be asked.
            ChangedError: a digest is another one than when this host first fetched that name.
        """
        digests = {
            source: manifest_digest(source, insecure=self.origin.insecure)
            for source in sorted(set(sources.values()))
            if "@" not in source
        }
        pins = self.pins or Pins(self.cache / "upstream-digests.json")
        pins.require({**{url: f"sha256:{each.sha256}" for url, each in manifests.items()}, **digests})
        return {
            reference: f"{source}@{digests[source]}" if source in digests else source
            for reference, source in sources.items()
        }

    def _images(self, sources: Mapping[str, str], work: Path, target: Path, progress: Progress) -> dict[str, str]:
        archive = DebianArchive(work / "debian", self.debian, self.runner)
        archive.update()
        tools = work / "tools"
        packages = archive.unpack([*SKOPEO_PACKAGES, *_TOOLS_PACKAGES], tools)
        policy = work / "policy.json"
        # What an image is was decided by kubeadm's list, the manifests and the host's record of digests; registries
        # sign in no common way.
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}', encoding="utf-8")
        for number, (reference, source) in enumerate(sorted(sources.items()), 1):
            progress("container images", f"{number} of {len(sources)}: {reference}")
            self._copy(tools, policy, source, target / archive_name(reference), reference)
        roots = ImageRoots(work / "roots", work, tools, {"tools": TOOLS_IMAGE})
        write_archive(target / "tools.tar", [roots.tools()], architecture=ARCHITECTURE)
        return packages

    def _copy(self, tools: Path, policy: Path, source: str, archive: Path, reference: str) -> None:
        libraries = ":".join(str(tools / path) for path in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
        name, _, digest = source.partition("@")
        # A digest says all; skopeo refuses a tag next to it.
        origin = f"{name.rpartition(':')[0]}@{digest}" if digest else name
        options = ["--policy", str(policy), "--override-arch", ARCHITECTURE, "--override-os", "linux"]
        insecure = ["--src-tls-verify=false"] if self.origin.insecure else []
        argv = [str(tools / "usr/bin/skopeo"), *options, "copy", "--quiet", "--retry-times", "3", *insecure]
        argv += ["--src-no-creds", f"docker://{origin}", f"docker-archive:{archive}:{reference}"]
        self.runner.run(argv, timeout=_COPY_TIMEOUT, env={"LD_LIBRARY_PATH": libraries})

    # ---------------------------------------------------------------- the cache
    def _keep(self, stage: Path, manifest: ReleaseManifest, pointer: Path) -> Release:
        (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        final = self.cache / f"{manifest.version}-{manifest.digest[:12]}"
        shutil.rmtree(final, ignore_errors=True)
        publish_tree(stage, final)
        replace_link(pointer, final.name)
        return Release(final, manifest)

    def _pointer(self, version: str, addons: Collection[str]) -> Path:
        wish = f"{self.origin} {self.runtime.key} {version.removeprefix('v')} {sorted(addons)}"
        return self.cache / f"upstream-{hashlib.sha256(wish.encode()).hexdigest()[:12]}"

    def _packages(self, version: str) -> str:
        return self._url(self.origin.packages, version)

    @staticmethod
    def _url(template: str, version: str) -> str:
        return template.replace("{minor}", minor_of(version) or UPSTREAM_MINORS[-1])


def newest(versions: Sequence[str], wanted: str) -> str | None:
    """The newest of apt's `versions` (1.31.4-1.1) that is `wanted` (1.31, 1.31.4, or empty for any)."""
    fitting = [version for version in versions if is_asked_for(version.partition("-")[0], wanted)]
    return max(fitting, key=_order, default=None)


def _no_such_version(version: str, known: Sequence[str]) -> ConfigError:
    last = newest(known, "")
    has = f"; its newest of that minor version is {last.partition('-')[0]}" if last else ""
    return ConfigError(
        f"upstream has no Kubernetes {version}{has}",
        where="clusters.cloud.kubernetes_config.version",
        fix=f"write a minor version alone, such as {minor_of(version) or UPSTREAM_MINORS[-1]}",
    )


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
