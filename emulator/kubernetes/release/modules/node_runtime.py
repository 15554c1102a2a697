"""What a node runs besides Kubernetes, compiled from Go modules: containerd, crictl and the CNI plugins."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from emulator.core.fs import publish_tree
from emulator.core.ports import ProcessRunner
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.disk_room import require_room
from emulator.kubernetes.release.modules.failures import is_full_disk, no_room
from emulator.kubernetes.release.modules.go_build import GoBuild
from emulator.kubernetes.release.modules.module_set import ModuleSet, read_module_set
from emulator.kubernetes.release.modules.provenance import linked_programs, made_of, packages_of, write_sbom
from emulator.kubernetes.release.modules.toolchain import Toolchain
from emulator.labfile.kubernetes_versions import MODULE_MINORS

RUNTIME_MODULES = ("containerd", "cri-tools", "cni-plugins")
_PACKAGES = "packages.json"
_SPACE_BYTES = 3 * 1024**3


@dataclass(frozen=True, slots=True)
class NodeRuntime:
    """Programs of a node for releases that bring Kubernetes alone, made once under `cache`.

    They are those of the newest release of modules, so that every lab has the containerd that the others run.
    `modules` is the directory `config/kubernetes/modules`. What is under way lies in `modules-runtime-<key>/`, from
    where an interrupted build goes on.
    """

    cache: Path
    runner: ProcessRunner
    modules: Path

    @property
    def key(self) -> str:
        """What decides the programs, hexadecimal.

        Raises:
            HyperscalerError: the installation lacks the modules.
        """
        return self._set().digest[:12]

    def require_host(self) -> None:
        """Raises: HostNotFitError when there is too little room for a build that is to come; reads only."""
        if not self._place(self._set()).is_dir():
            require_room(self.cache, _SPACE_BYTES, "building containerd")

    def provide(self, progress: Progress) -> tuple[Path, dict[str, str]]:
        """A directory with `bin/`, `cni/` and `sbom/`, and hashes by the package URL of what is in the programs. To be
        called under `cache_lock`.

        Raises:
            HyperscalerError: see `GoBuild.compile` and `Toolchain.provide`.
        """
        modules = self._set()
        final = self._place(modules)
        if not final.is_dir():
            work = self.cache / f"modules-runtime-{modules.digest[:12]}"
            try:
                work.mkdir(parents=True, exist_ok=True)
                self._build(modules, work, final, progress)
            except OSError as error:
                if is_full_disk(error):
                    raise no_room(work) from error
                raise
            shutil.rmtree(work)
        packages = json.loads((final / _PACKAGES).read_text(encoding="utf-8"))
        return final, {str(name): str(value) for name, value in packages.items()}

    def _build(self, modules: ModuleSet, work: Path, final: Path, progress: Progress) -> None:
        goroot = Toolchain(modules.toolchain, work / "toolchain", self.runner).provide(progress)
        compiled = work / "bin"
        GoBuild(goroot, work, self.runner, progress).compile(modules, compiled)
        stage = work / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        for name in ("bin", "cni"):
            (stage / name).mkdir(parents=True)
        for _, program in modules.programs():
            shutil.copy2(compiled / program.name, stage / program.to / program.name)
        linked = linked_programs(self.runner, goroot, compiled, modules)
        version = modules.module("containerd").version
        write_sbom(stage, "containerd", version, modules, made_of(compiled, modules, linked, {}))
        packages = packages_of(linked, modules.toolchain)
        (stage / _PACKAGES).write_text(json.dumps(packages, indent=2) + "\n", encoding="utf-8")
        publish_tree(stage, final)

    def _set(self) -> ModuleSet:
        return read_module_set(self.modules, MODULE_MINORS[-1], RUNTIME_MODULES)

    def _place(self, modules: ModuleSet) -> Path:
        return self.cache / f"runtime-{modules.digest[:12]}"
