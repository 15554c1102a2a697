"""Kubernetes from Debian's source package: fetched, compiled, put into container images, cached."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from emulator.core.errors import StateError
from emulator.core.fs import publish_tree, replace_file, replace_link
from emulator.core.ports import ProcessRunner
from emulator.kubernetes.release.containers.container_images import IMAGE_PACKAGES, REPOSITORY, ImageRoots
from emulator.kubernetes.release.containers.docker_archive import write_archive
from emulator.kubernetes.release.debian_packages import DebianArchive, require_sources
from emulator.kubernetes.release.disk_room import require_room
from emulator.kubernetes.release.go_build import TOOLCHAIN_PACKAGES, GoTree, Progress
from emulator.kubernetes.release.release import (
    ARCHITECTURE,
    MANIFEST,
    Release,
    ReleaseManifest,
    describe_file,
    read_release,
)
from emulator.labfile.kubernetes_versions import DEBIAN_SOURCE_VERSION

# Raise it when the same sources would be built differently.
BUILDER_VERSION = "2"
SOURCE_PACKAGE = "kubernetes"
TOOLS_IMAGE = f"{REPOSITORY}/tools:1"
DNS_IMAGE = f"{REPOSITORY}/cluster-dns:1"
# `kubeadm config images list` answers from its own tables; the deadline is for a broken program.
_LIST_TIMEOUT = 60.0
_SPACE_BYTES = 6 * 1024**3


class KubernetesBuild:
    """Builds of Debian's source package under `cache` (`<home>/cache/kubernetes`).

    A finished release is `<version>-<digest>/`. What is under way lies in `build-<key>/`, where the compiler's
    own cache lets an interrupted build go on; it is removed at the end.
    """

    def __init__(self, cache: Path, runner: ProcessRunner, *, sources: tuple[str, ...], programs: Path) -> None:
        """Args:
        cache: made when needed.
        sources: one-line `deb` sources of Debian 12, see `emulator.images.build.apt_sources.host_sources`.
        programs: directory of our Go programs (`config/kubernetes/programs`).
        """
        self._cache = cache
        self._runner = runner
        self._sources = sources
        self._programs = programs

    def cached(self) -> Release | None:
        """The release of this recipe if it was built already."""
        pointer = self._cache / f"debian-{self._key()}"
        try:
            return read_release(pointer.resolve(strict=True))
        except (OSError, StateError):
            return None

    def require_host(self) -> None:
        """Check that this host has everything that a build needs; reads only.

        Raises:
            HostNotFitError: apt has no Debian 12 sources, or there is not enough space.
        """
        require_sources(self._sources)
        require_room(self._cache, _SPACE_BYTES, "building Kubernetes")

    def build(self, *, progress: Progress) -> Release:
        """The release: the cached one, else a new one. To be called under `cache_lock`.

        Raises:
            HostNotFitError: apt has no Debian 12 sources, or there is not enough space.
            HyperscalerError: the packages no longer hold what is needed.
            CommandError: apt or the compiler failed.
        """
        found = self.cached()
        if found is not None:
            return found
        work = self._cache / f"build-{self._key()}"
        self.require_host()
        work.mkdir(parents=True, exist_ok=True)
        release = self._build(work, progress)
        shutil.rmtree(work)
        return release

    def _key(self) -> str:
        """What decides the content, as far as it is known without the network."""
        total = hashlib.sha256(f"{BUILDER_VERSION} {DEBIAN_SOURCE_VERSION} {REPOSITORY}\n".encode())
        for path in sorted(self._programs.rglob("*.go")):
            total.update(f"{path.relative_to(self._programs)}\n".encode())
            total.update(path.read_bytes())
        return total.hexdigest()[:12]

    def _build(self, work: Path, progress: Progress) -> Release:
        archive = DebianArchive(work / "apt", self._sources, self._runner)
        packages, toolchain, debian, tree = self._fetch(work, archive, progress)
        compiled = work / "bin"
        GoTree(tree, toolchain, work / "gopath", work / "go-cache", self._programs, self._runner, progress).compile(
            DEBIAN_SOURCE_VERSION, compiled
        )
        stage = work / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "bin").mkdir(parents=True)
        (stage / "images").mkdir()
        for name in ("kubeadm", "kubelet", "kubectl"):
            shutil.copy2(compiled / name, stage / "bin" / name)
        progress("container images", "")
        names = self._image_names(compiled / "kubeadm")
        images = ImageRoots(work / "roots", compiled, debian, names).build()
        write_archive(stage / "images" / "kubernetes.tar", images, architecture=ARCHITECTURE)
        manifest = ReleaseManifest(
            version=DEBIAN_SOURCE_VERSION,
            architecture=ARCHITECTURE,
            origin=f"Debian source package {SOURCE_PACKAGE} {packages[SOURCE_PACKAGE]}",
            repository=REPOSITORY,
            pause_image=names["pause"],
            cluster_dns=DNS_IMAGE,
            tools=TOOLS_IMAGE,
            images=tuple(sorted(image.reference for image in images)),
            files={
                str(path.relative_to(stage)): describe_file(path) for path in sorted(stage.rglob("*")) if path.is_file()
            },
            packages=packages,
        )
        return self._keep(stage, manifest)

    def _fetch(self, work: Path, archive: DebianArchive, progress: Progress) -> tuple[dict[str, str], Path, Path, Path]:
        """Sources, toolchain and packages; nothing that an interrupted build fetched is fetched again."""
        toolchain, debian, tree, done = work / "toolchain", work / "debian", work / "tree", work / "fetched"
        if done.is_file():
            rows = (line.partition(" ")[::2] for line in done.read_text(encoding="utf-8").splitlines())
            return dict(rows), toolchain, debian, tree
        progress("fetch sources and tools", "")
        archive.update()
        packages = archive.unpack(TOOLCHAIN_PACKAGES, toolchain)
        packages |= archive.unpack(IMAGE_PACKAGES, debian)
        packages[SOURCE_PACKAGE] = archive.source(SOURCE_PACKAGE, tree)
        lines = "".join(f"{name} {version}\n" for name, version in packages.items())
        replace_file(done, lines.encode())
        return packages, toolchain, debian, tree

    def _image_names(self, kubeadm: Path) -> dict[str, str]:
        """Plain name -> reference, as this kubeadm will ask for them."""
        argv = [
            str(kubeadm),
            *("config", "images", "list"),
            *("--kubernetes-version", f"v{DEBIAN_SOURCE_VERSION}", "--image-repository", REPOSITORY),
        ]
        listing = self._runner.run(argv, timeout=_LIST_TIMEOUT).stdout.split()
        names = {reference.rsplit("/", 1)[1].split(":")[0]: reference for reference in listing}
        return {**names, "cluster-dns": DNS_IMAGE, "tools": TOOLS_IMAGE}

    def _keep(self, stage: Path, manifest: ReleaseManifest) -> Release:
        """Move a finished stage to its place, in one step, and point to it."""
        (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        final = self._cache / f"{manifest.version}-{manifest.digest[:12]}"
        if final.exists():
            shutil.rmtree(final)
        publish_tree(stage, final)
        replace_link(self._cache / f"debian-{self._key()}", final.name)
        return Release(final, manifest)
