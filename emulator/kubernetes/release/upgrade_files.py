"""What a standing node gets of a new release: its programs, and its container images as archives."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError
from emulator.core.fs import publish_tree
from emulator.kubernetes.release.containers.docker_archive import copy_images
from emulator.kubernetes.release.disk_room import require_room
from emulator.kubernetes.release.node_files import NodeFiles
from emulator.kubernetes.release.release import Release

# Raise it when the same release would give other files.
UPGRADE_VERSION = "1"
PROGRAMS = "programs.tar"
"""A tree over the node's root."""
IMAGES = "images.tar"
"""Container images that any node may need."""
HEAD_IMAGES = "control-plane-images.tar"
"""Container images of the control plane's static pods."""
_STATIC_PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")


@dataclass(frozen=True, slots=True)
class UpgradeFiles:
    """The files in `directory` on this host. `key` names their content: the same key is the same files."""

    directory: Path
    version: str
    repository: str
    key: str

    @property
    def mebibytes(self) -> int:
        """What a control plane gets, in MiB, rounded up."""
        return sum(path.stat().st_size for path in self.directory.iterdir()) // 1024**2 + 1


def upgrade_files(files: NodeFiles, release: Release) -> UpgradeFiles:
    """The files of a release, made when they are not here yet. To be called under `cache_lock`.

    Raises:
        HostNotFitError: not enough room.
        HyperscalerError: the release lacks a program, or an archive of it is damaged.
    """
    manifest = release.manifest
    key = f"{manifest.version}-{manifest.digest[:12]}"
    final = files.cache / f"upgrade-{UPGRADE_VERSION}-{key}"
    if not final.is_dir():
        # The programs twice for a moment, the images once.
        need = 2 * sum(file.size for file in manifest.files.values())
        require_room(files.cache, need, f"the files of Kubernetes {manifest.version} for standing nodes")
        _make(files, release, final)
    return UpgradeFiles(final, manifest.version, manifest.repository, key)


def _make(files: NodeFiles, release: Release, final: Path) -> None:
    stage = final.with_name(final.name + ".new")
    tree = final.with_name(final.name + ".work")
    for path in (stage, tree):
        shutil.rmtree(path, ignore_errors=True)
    try:
        stage.mkdir(parents=True)
        files.lay(release, tree)
        with tarfile.open(stage / PROGRAMS, "w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(tree.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.add(path, str(path.relative_to(tree)), recursive=False, filter=_plain)
        try:
            copy_images(release.image_tars, stage / IMAGES, lambda name: not _is_static(name))
            copy_images(release.image_tars, stage / HEAD_IMAGES, _is_static)
        except (ValueError, KeyError, tarfile.TarError) as error:
            raise HyperscalerError(
                f"an archive of container images cannot be read: {error}",
                where=str(release.directory),
                fix="make the release or the bundle again",
            ) from error
        publish_tree(stage, final)
    finally:
        for path in (stage, tree):
            shutil.rmtree(path, ignore_errors=True)


def _is_static(reference: str) -> bool:
    return reference.rpartition("/")[2].partition(":")[0] in _STATIC_PODS


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The file as root's, and without its time."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    return member
