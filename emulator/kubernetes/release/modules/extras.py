"""What a lab asks for beyond the release that every lab gets: compiled apart, and laid next to the release's files."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from emulator.core.fs import publish_tree
from emulator.core.ports import ProcessRunner
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.containers.container_images import ImageRoots
from emulator.kubernetes.release.containers.docker_archive import write_archive
from emulator.kubernetes.release.disk_room import require_room
from emulator.kubernetes.release.modules.addon_objects import addon_image, addon_objects
from emulator.kubernetes.release.modules.failures import is_full_disk, no_room
from emulator.kubernetes.release.modules.go_build import GoBuild
from emulator.kubernetes.release.modules.module_set import ModuleSet, read_module_set
from emulator.kubernetes.release.modules.provenance import linked_programs, made_of, packages_of, write_sbom
from emulator.kubernetes.release.modules.toolchain import Toolchain
from emulator.kubernetes.release.release import ARCHITECTURE, MANIFEST, Release, describe_file
from emulator.labfile.kubernetes_versions import MODULE_MINORS

# Raise it when the same modules would give another release.
EXTRAS_VERSION = "1"
SBOM = "sbom/extras.cdx.json"
_IMAGES = "images/extras.tar"
_SPACE_BYTES = 3 * 1024**3


@dataclass(frozen=True, slots=True)
class Extras:
    """Adds modules (`helm`, `lab-ingress`) to releases under `cache`. `modules` is `config/kubernetes/modules`.

    What is under way lies in `modules-extras-<key>/`, from where an interrupted build goes on.
    """

    cache: Path
    runner: ProcessRunner
    modules: Path

    def key(self, names: Collection[str]) -> str:
        """What decides the programs, hexadecimal.

        Raises:
            HyperscalerError: the installation lacks the modules.
        """
        return f"{EXTRAS_VERSION}{self._set(names).digest[:12]}"

    def work(self, names: Collection[str]) -> Path:
        """Where a build of them is under way."""
        return self.cache / f"modules-extras-{self.key(names)}"

    def add(self, release: Release, names: Collection[str], progress: Progress) -> Release:
        """A release of its own with the files of `release` and what the modules `names` give. To be called under
        `cache_lock`.

        Raises:
            HyperscalerError: see `GoBuild.compile` and `Toolchain.provide`.
        """
        work = self.work(names)
        if not work.exists():  # what an earlier run left has taken its room
            require_room(self.cache, _SPACE_BYTES, "building what the lab asks for in addition")
        try:
            work.mkdir(parents=True, exist_ok=True)
            made = self._build(self._set(names), work, release, progress)
        except OSError as error:
            if is_full_disk(error):
                raise no_room(work) from error
            raise
        shutil.rmtree(work)
        return made

    def _build(self, modules: ModuleSet, work: Path, release: Release, progress: Progress) -> Release:
        goroot = Toolchain(modules.toolchain, work / "toolchain", self.runner).provide(progress)
        compiled = work / "bin"
        GoBuild(goroot, work, self.runner, progress).compile(modules, compiled)
        stage = work / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        _lay(release, stage)
        for _, program in modules.programs():
            if program.to != "image":
                (stage / program.to).mkdir(exist_ok=True)
                shutil.copy2(compiled / program.name, stage / program.to / program.name)
        images = {module.programs[0].name: addon_image(module) for module in modules.addons}
        names = {**images, "tools": release.manifest.tools}
        for name, objects in addon_objects(modules, names).items():
            (stage / "manifests").mkdir(exist_ok=True)
            (stage / "manifests" / name).write_text(objects, encoding="utf-8")
        if images:
            roots = ImageRoots(work / "roots", compiled, work, names).addons(tuple(images))
            write_archive(stage / _IMAGES, roots, architecture=ARCHITECTURE)
        linked = linked_programs(self.runner, goroot, compiled, modules)
        write_sbom(stage, "extras", EXTRAS_VERSION, modules, made_of(compiled, modules, linked, {}), file=SBOM)
        new = {
            str(path.relative_to(stage)): describe_file(path)
            for path in sorted(stage.rglob("*"))
            if path.is_file() and str(path.relative_to(stage)) not in release.manifest.files
        }
        manifest = dataclasses.replace(
            release.manifest,
            images=tuple(sorted({*release.manifest.images, *images.values()})),
            files={**release.manifest.files, **new},
            packages={**release.manifest.packages, **packages_of(linked, modules.toolchain)},
        )
        (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        final = self.cache / f"{manifest.version}-{manifest.digest[:12]}"
        shutil.rmtree(final, ignore_errors=True)
        publish_tree(stage, final)
        return Release(final, manifest)

    def _set(self, names: Collection[str]) -> ModuleSet:
        return read_module_set(self.modules, MODULE_MINORS[-1], names)


def _lay(release: Release, stage: Path) -> None:
    """The files of a release under second names, since they take 800 MB and nobody writes into them."""
    for name in release.manifest.files:
        path = stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(release.path(name), path)
