"""Kubernetes for the images of this host's labs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from emulator.images.sources import host_sources
from emulator.kubernetes_build.debian_source import KubernetesBuild
from emulator.kubernetes_build.node_files import NodeFiles
from emulator.kubernetes_build.sources import KubernetesSources
from emulator.paths import Home
from emulator.ports import ProcessRunner
from emulator.share import share_dir
from emulator.spec.model import KubernetesSpec


def kubernetes_sources(home: Home, runner: ProcessRunner) -> KubernetesSources:
    """Where Kubernetes can come from on this host. Asks apt for its sources; reads only."""
    cache = home.root / "cache" / "kubernetes"
    lines = host_sources(runner, suite="bookworm", components=("main",)).lines
    build = KubernetesBuild(cache, runner, sources=lines, programs=share_dir() / "config" / "kubernetes" / "programs")
    return KubernetesSources(build, NodeFiles(cache, lines, runner), cache)


@dataclass(frozen=True, slots=True)
class KubernetesInput:
    """The image input `kubernetes` (see `emulator.images.for_labs.ImageInput`) as a lab wants it."""

    home: Home
    runner: ProcessRunner
    wants: KubernetesSpec = field(default_factory=KubernetesSpec)

    def ready(self) -> Path | None:
        return kubernetes_sources(self.home, self.runner).ready(self.wants)

    def make(self, progress: Callable[[str], None]) -> Path:
        def show(step: str, line: str) -> None:
            progress(f"{step}: {line}" if line else step)

        return kubernetes_sources(self.home, self.runner).make(self.wants, progress=show)
