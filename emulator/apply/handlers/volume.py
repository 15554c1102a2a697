"""Volumes: qcow2 overlays on golden images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.disk_layers import golden_base
from emulator.apply.handlers.image import Images
from emulator.apply.path_guard import require_below
from emulator.core import ids
from emulator.core.errors import ConflictError, DamagedDiskError, HyperscalerError
from emulator.core.fs import private_directory
from emulator.core.paths import LabPaths
from emulator.core.ports import DiskTool, HypervisorSession
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource, Volume


class VolumeHandler:
    """Creates and grows disks. A disk keeps its golden image, so that a rebuilt image never changes a running node.

    `root` is the lab's directory: nothing outside of it is ever removed.
    """

    def __init__(
        self,
        disks: DiskTool,
        images: Images,
        session: HypervisorSession,
        lab: str,
        *,
        root: Path,
        shutdown_seconds: float,
    ) -> None:
        self._disks = disks
        self._images = images
        self._session = session
        self._lab = lab
        self._root = root
        self._shutdown_seconds = shutdown_seconds

    def observe(self, resource: Volume, record: Recorded | None) -> Observation:
        path = Path(resource.path)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            return Observation(Presence.FOREIGN, detail=f"{path} is not a regular file")
        try:
            base = self._golden(path)
        except DamagedDiskError as error:  # any other failure to read it must not cost a node its disk
            if record is None:
                return Observation(Presence.FOREIGN, detail=f"{path} is not a usable disk: {error.what}")
            return Observation(Presence.PARTIAL, detail=error.what)
        if base is None:
            if path.exists():
                return Observation(Presence.FOREIGN, detail=f"{path} is a disk without a golden image")
            return Observation(Presence.ABSENT)
        image = self._images.owning(base)
        if image is None:
            if record is None:
                return Observation(Presence.FOREIGN, detail=f"{path} is a disk on {base}, not on a golden image")
            return Observation(Presence.PARTIAL, detail=f"its golden image {base} is gone; the disk cannot be read")
        return Observation(Presence.OURS, handle={"base": str(base)})

    def _golden(self, path: Path) -> Path | None:
        """The golden image under a disk, below the layers of snapshots."""
        return golden_base(self._disks, path, LabPaths(self._root).snapshots)

    def ensure(self, resource: Volume, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        path = Path(resource.path)
        seen = self.observe(resource, None)
        if seen.presence is Presence.FOREIGN:
            raise ConflictError(seen.detail, where=resource.id, fix="move that file elsewhere")
        if seen.presence is Presence.ABSENT:
            private_directory(path.parent)
            with self._images.kept(resource.image):  # until the disk exists, which then keeps the image
                self._disks.create_overlay(path, base=self._base(resource), size_gib=resource.size_gib)
        elif self._disks.size_gib(path) < resource.size_gib:
            self._stop_guest(resource, context)
            self._disks.resize(path, size_gib=resource.size_gib)
        return self._describe(resource)

    def _base(self, resource: Volume) -> Path:
        image = self._images.current(resource.image)
        if image is None:
            raise HyperscalerError(
                f"there is no golden image {resource.image}",
                where=resource.id,
                fix=f"hyperscaler image build {resource.image}",
            )
        return image.disk

    def _stop_guest(self, resource: Volume, context: ApplyContext) -> None:
        hypervisor = self._session.peek()
        if hypervisor is not None:
            context.report("shutting down the node so that its disk can grow")
            name = ids.host_name(self._lab, resource.name)
            hypervisor.shutdown_domain(name, timeout=self._shutdown_seconds)

    def _describe(self, resource: Volume) -> Handle:
        base = self._golden(Path(resource.path))
        image = self._images.owning(base) if base else None
        if base is None or image is None:
            raise HyperscalerError("the disk vanished while it was being created", where=resource.id)
        return {
            "path": resource.path,
            "base": str(base),
            "kernel": str(image.kernel),
            "initrd": str(image.initrd),
            "cmdline": " ".join(image.cmdline),
        }

    def delete(self, resource: Volume, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        path = Path(resource.path)
        require_below(self._root, path, resource.id)
        if path.is_file() or path.is_symlink():  # removes only the link if one was planted
            path.unlink(missing_ok=True)

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        return ()
