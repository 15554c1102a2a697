"""The files that a release adds to the image of a Kubernetes node: a tree laid over the guest's root."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.core.fs import publish_tree
from emulator.core.ports import ProcessRunner
from emulator.kubernetes.config.containerd import CNI_PROGRAMS, containerd_config
from emulator.kubernetes.release.containers.content_store import PACKAGE, ContentStore
from emulator.kubernetes.release.debian_packages import DebianArchive
from emulator.kubernetes.release.release import Release, brings_containerd, missing_programs

# Raise it when the same release would give another tree.
LAYOUT_VERSION = "7"
# The guest's own record of its release; the playbook reads it.
RELEASE_FILE = "usr/lib/hyperscaler/kubernetes.json"
MANIFESTS = "usr/share/hyperscaler/kubernetes/manifests"
# Add-ons put their network programs here, and Debian's own lie elsewhere: containerd knows one directory.
CNI_ADDON_PROGRAMS = "opt/cni/bin"
CONTAINERD_ROOT = "var/lib/containerd"
PROGRAMS = "usr/local/bin"
# Debian's unit starts Debian's containerd, which is in the image for releases that bring none.
_CONTAINERD_UNIT = "etc/systemd/system/containerd.service.d/release.conf"
_CONTAINERD_START = f"""\
[Service]
ExecStart=
ExecStart=/{PROGRAMS}/containerd
"""
# kubelet looks here for static pods. kubeadm makes it on a control plane only, and without it a worker's kubelet logs
# an error every second.
STATIC_PODS = "etc/kubernetes/manifests"
INPUT_NAME = "kubernetes"
_PROGRAM_DIRECTORIES = (Path(PROGRAMS), Path(CNI_PROGRAMS.lstrip("/")))


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Trees under `cache`, one per release; made once. `sources` are apt's Debian 12 lines, for the containerd of
    releases that bring none."""

    cache: Path
    sources: tuple[str, ...]
    runner: ProcessRunner

    def directory(self, release: Release) -> Path:
        """Where the tree of a release lies or will lie."""
        return self.cache / f"node-{LAYOUT_VERSION}-{release.manifest.version}-{release.manifest.digest[:12]}"

    def require_host(self) -> None:
        """Raises: HostNotFitError when this host cannot make the files of a release without containerd; reads only."""
        if not self.sources:
            raise HostNotFitError(
                "the nodes' containerd comes from Debian 12, and this host's apt has no sources of it",
                fix="add sources of Debian 12 (bookworm) to this host's apt, with a priority below its own release's",
            )

    def make(self, release: Release) -> Path:
        """The tree, laid out as the guest's root. To be called under `cache_lock`.

        Raises:
            HyperscalerError: the release lacks a program.
            CommandError, HostNotFitError: see `ContentStore.fill` and `DebianArchive`.
        """
        final = self.directory(release)
        if final.is_dir():
            return final
        stage = final.with_name(final.name + ".new")
        work = final.with_name(final.name + ".work")
        for path in (stage, work):
            shutil.rmtree(path, ignore_errors=True)
        try:
            self.lay(release, stage)
            store = ContentStore(self._containerd(release, work), work / "store", self.runner)
            images = store.fill(stage / CONTAINERD_ROOT, release.image_tars)
            _check_images(release, images)
            publish_tree(stage, final)
        finally:
            for path in (stage, work):
                shutil.rmtree(path, ignore_errors=True)
        return final

    def _containerd(self, release: Release, work: Path) -> Path:
        """Directory of the containerd that fills the store: the one that will read it, where the release has it."""
        if brings_containerd(release.manifest):
            return release.path("bin")
        archive = DebianArchive(work / "apt", self.sources, self.runner)
        archive.update()
        archive.unpack([PACKAGE], work / "tools")
        return work / "tools/usr/bin"

    @staticmethod
    def lay(release: Release, stage: Path) -> None:
        """Lay out the tree without the container images in `stage`, which must not exist.

        Raises:
            HyperscalerError: the release lacks a program.
        """
        missing = missing_programs(release.manifest)
        if missing:
            raise HyperscalerError(f"the release lacks {', '.join(missing)}", where=str(release.directory))
        programs = stage / PROGRAMS
        programs.mkdir(parents=True)
        for program in release.programs:
            shutil.copyfile(program, programs / program.name)
        (stage / MANIFESTS).mkdir(parents=True)
        for manifest in release.manifests:
            shutil.copyfile(manifest, stage / MANIFESTS / manifest.name)
        network = stage / CNI_PROGRAMS.lstrip("/")
        network.mkdir(parents=True)
        for program in release.network_programs:
            shutil.copyfile(program, network / program.name)
        if brings_containerd(release.manifest):
            unit = stage / _CONTAINERD_UNIT
            unit.parent.mkdir(parents=True)
            unit.write_text(_CONTAINERD_START, encoding="utf-8")
        link = stage / CNI_ADDON_PROGRAMS
        link.parent.mkdir(parents=True)
        link.symlink_to(CNI_PROGRAMS)
        (stage / STATIC_PODS).mkdir(parents=True)
        # containerd makes its own directory, and would close those above to everybody else.
        (stage / CONTAINERD_ROOT).parent.mkdir(parents=True)
        record = stage / RELEASE_FILE
        record.parent.mkdir(parents=True)
        record.write_text(guest_record(release), encoding="utf-8")
        config = stage / "etc/containerd/config.toml"
        config.parent.mkdir(parents=True)
        # Debian 12's own is 1.6.
        major = 2 if brings_containerd(release.manifest) else 1
        config.write_text(containerd_config(release.manifest.pause_image, major=major), encoding="utf-8")
        _settle(stage)


def _settle(stage: Path) -> None:
    """Give what was laid out root as its owner and plain modes: the image takes them over, and neither the umask here
    nor a directory that hands on its group may come through."""
    for path in (stage, *stage.rglob("*")):
        if os.geteuid() == 0:  # another user's run ends where containerd is to be started
            os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(_mode(path.relative_to(stage), directory=path.is_dir()))


def _mode(name: Path, *, directory: bool) -> int:
    if name == Path(STATIC_PODS):
        return 0o700
    return 0o755 if directory or name.parent in _PROGRAM_DIRECTORIES else 0o644


def guest_record(release: Release) -> str:
    """The release as the guest's playbook needs it, JSON."""
    manifest = release.manifest
    document = {
        "format": 1,
        "version": manifest.version,
        "origin": manifest.origin,
        "repository": manifest.repository,
        "pause_image": manifest.pause_image,
        "cluster_dns": manifest.cluster_dns,
        "tools": manifest.tools,
        "images": sorted(manifest.images),
        "addons": list(manifest.addons),
    }
    return json.dumps(document, indent=2) + "\n"


def _check_images(release: Release, found: Sequence[str]) -> None:
    missing = sorted(set(release.manifest.images) - set(found))
    if missing:
        raise HyperscalerError(
            f"the release's archives do not hold {', '.join(missing)}",
            where=str(release.directory),
            fix="make the release or the bundle again",
        )
