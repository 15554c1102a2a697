"""A release compiled from Go modules: fetched, compiled, put into container images, cached."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from emulator.core.errors import HyperscalerError, StateError
from emulator.core.fs import publish_tree, replace_link
from emulator.core.ports import ProcessRunner
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.containers.container_images import IMAGE_PACKAGES, REPOSITORY, TOOLS_IMAGE, ImageRoots
from emulator.kubernetes.release.containers.docker_archive import write_archive
from emulator.kubernetes.release.debian_packages import DebianArchive, require_sources
from emulator.kubernetes.release.disk_room import require_room
from emulator.kubernetes.release.modules.addon_objects import addon_image, addon_objects
from emulator.kubernetes.release.modules.extras import Extras
from emulator.kubernetes.release.modules.failures import is_full_disk, no_room
from emulator.kubernetes.release.modules.go_build import GoBuild
from emulator.kubernetes.release.modules.module_set import ModuleSet, read_module_set
from emulator.kubernetes.release.modules.provenance import linked_programs, made_of, packages_of, write_sbom
from emulator.kubernetes.release.modules.toolchain import Toolchain
from emulator.kubernetes.release.release import (
    ARCHITECTURE,
    MANIFEST,
    Release,
    ReleaseManifest,
    describe_file,
    read_release,
)
from emulator.labfile.kubernetes_versions import MODULE_MINORS, minor_of

# Raise it when the same modules would give another release.
BUILDER_VERSION = "2"
# `kubeadm config images list` answers from its own tables; the deadline is for a broken program.
_LIST_TIMEOUT = 60.0
_SPACE_BYTES = 8 * 1024**3


class ModuleBuild:
    """Builds under `cache` (`<home>/cache/kubernetes`).

    A finished release is `<version>-<digest>/`. What is under way lies in `modules-<key>/`, where the compiler's own
    cache lets an interrupted build go on; it is removed at the end.
    """

    def __init__(self, cache: Path, runner: ProcessRunner, *, sources: tuple[str, ...], modules: Path) -> None:
        """Args:
        cache: made when needed.
        sources: one-line `deb` sources of Debian 12, see `emulator.images.build.apt_sources.host_sources`.
        modules: directory of the modules (`config/kubernetes/modules`).
        """
        self._cache = cache
        self._runner = runner
        self._sources = sources
        self._modules = modules
        self._extras = Extras(cache, runner, modules)

    def set_of(self, version: str) -> ModuleSet:
        """The modules for what a lab file asks for (`1.37`, `1.37.2`, or empty for the newest).

        Raises:
            HyperscalerError: the installation lacks them.
        """
        return read_module_set(self._modules, minor_of(version) or MODULE_MINORS[-1])

    def version(self, version: str) -> str:
        """The release (1.37.2) that is built for what a lab file asks for."""
        return self.set_of(version).version

    def cached(self, version: str, extras: Sequence[str] = ()) -> Release | None:
        """The release of these modules, with the optional ones in `extras`, if it was built already."""
        try:
            return read_release(self._pointer(self.set_of(version), extras).resolve(strict=True))
        except (OSError, StateError):
            return None

    def unfinished(self, version: str, extras: Sequence[str] = ()) -> Path | None:
        """What a build of these modules that was ended has left, for the next one to go on with."""
        works = [self._work(self.set_of(version)), *([self._extras.work(extras)] if extras else [])]
        return next((work for work in works if work.is_dir()), None)

    def require_host(self) -> None:
        """Check that this host has everything that a build needs and that can be known at once; reads only.

        Raises:
            HostNotFitError: apt has no Debian 12 sources, or there is not enough space.
        """
        require_sources(self._sources)
        require_room(self._cache, _SPACE_BYTES, "building Kubernetes")

    def build(self, version: str, extras: Sequence[str] = (), *, progress: Progress) -> Release:
        """The release: the cached one, else a new one, with the optional modules in `extras`. To be called under
        `cache_lock`.

        Raises:
            HostNotFitError: no Debian 12 sources, not enough space or memory, or a registry cannot be reached.
            HyperscalerError: something is not what was pinned, or the packages no longer hold what is needed.
            CommandError: apt or the compiler failed.
        """
        found = self.cached(version, extras)
        if found is not None:
            return found
        if extras:
            made = self._extras.add(self.build(version, progress=progress), extras, progress)
            replace_link(self._pointer(self.set_of(version), extras), made.directory.name)
            return made
        modules = self.set_of(version)
        work = self._work(modules)
        if not work.exists():  # what an earlier run left has taken its room
            self.require_host()
        try:
            work.mkdir(parents=True, exist_ok=True)
            release = self._build(modules, work, progress)
        except OSError as error:
            if is_full_disk(error):
                raise no_room(work) from error
            raise
        shutil.rmtree(work)
        return release

    def _work(self, modules: ModuleSet) -> Path:
        return self._cache / f"modules-{self._key(modules)}"

    def _pointer(self, modules: ModuleSet, extras: Sequence[str] = ()) -> Path:
        more = f"-{self._extras.key(extras)}" if extras else ""
        return self._cache / f"modules-built-{self._key(modules)}{more}"

    def _key(self, modules: ModuleSet) -> str:
        """What decides the content, as far as it is known without the network."""
        return hashlib.sha256(f"{BUILDER_VERSION} {REPOSITORY} {modules.digest}\n".encode()).hexdigest()[:12]

    def _build(self, modules: ModuleSet, work: Path, progress: Progress) -> Release:
        compiled = work / "bin"
        goroot = Toolchain(modules.toolchain, work / "toolchain", self._runner).provide(progress)
        GoBuild(goroot, work, self._runner, progress).compile(modules, compiled)
        progress("fetch Debian packages", "")
        archive = DebianArchive(work / "apt", self._sources, self._runner)
        archive.update()
        debian = work / "debian"
        packages = archive.unpack(IMAGE_PACKAGES, debian)
        progress("container images", "")
        stage = work / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        for name in ("bin", "cni", "images", "manifests"):
            (stage / name).mkdir(parents=True)
        for _, program in modules.programs():
            if program.to != "image":
                shutil.copy2(compiled / program.name, stage / program.to / program.name)
        names = self._image_names(compiled / "kubeadm", modules)
        addons = [module.programs[0].name for module in modules.addons]
        images = ImageRoots(work / "roots", compiled, debian, names).build(addons)
        for name, objects in addon_objects(modules, names).items():
            (stage / "manifests" / name).write_text(objects, encoding="utf-8")
        write_archive(stage / "images" / "kubernetes.tar", images, architecture=ARCHITECTURE)
        linked = linked_programs(self._runner, goroot, compiled, modules)
        write_sbom(stage, "kubernetes", modules.version, modules, made_of(compiled, modules, linked, packages))
        manifest = ReleaseManifest(
            version=modules.version,
            architecture=ARCHITECTURE,
            origin=f"Go module k8s.io/kubernetes v{modules.version}, compiled with Go {modules.toolchain.version}",
            repository=REPOSITORY,
            pause_image=names["pause"],
            cluster_dns=names["coredns"],
            tools=TOOLS_IMAGE,
            images=tuple(sorted(image.reference for image in images)),
            files={
                str(path.relative_to(stage)): describe_file(path) for path in sorted(stage.rglob("*")) if path.is_file()
            },
            packages={**packages, **packages_of(linked, modules.toolchain)},
        )
        return self._keep(stage, manifest, modules)

    def _image_names(self, kubeadm: Path, modules: ModuleSet) -> dict[str, str]:
        """Plain name -> reference, as this kubeadm will ask for them.

        Raises:
            HyperscalerError: kubeadm asks for another etcd or CoreDNS than the modules have. An image would then have
                a name that is not its content's.
        """
        argv = [str(kubeadm), "config", "images", "list"]
        argv += ["--kubernetes-version", f"v{modules.version}", "--image-repository", REPOSITORY]
        listing = self._runner.run(argv, timeout=_LIST_TIMEOUT).stdout.split()
        names = {reference.rsplit("/", 1)[1].split(":")[0]: reference for reference in listing}
        for name, prefix in (("etcd", ""), ("coredns", "v")):
            version, asked = modules.module(name).version, names.get(name, "").rpartition(":")[2]
            if asked.partition("-")[0] != f"{prefix}{version}":
                raise HyperscalerError(
                    f"kubeadm {modules.version} asks for {name} {asked}, and the modules have {version}",
                    where=str(modules.module(name).directory),
                    fix=f"in a checkout: make kubernetes-modules MINOR={minor_of(modules.version)}",
                )
        own = {module.programs[0].name: addon_image(module) for module in modules.addons}
        return {**names, **own, "tools": TOOLS_IMAGE}

    def _keep(self, stage: Path, manifest: ReleaseManifest, modules: ModuleSet) -> Release:
        """Move a finished stage to its place, in one step, and point to it."""
        (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        final = self._cache / f"{manifest.version}-{manifest.digest[:12]}"
        if final.exists():
            shutil.rmtree(final)
        publish_tree(stage, final)
        replace_link(self._pointer(modules), final.name)
        return Release(final, manifest)
