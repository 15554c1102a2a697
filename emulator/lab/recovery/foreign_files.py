"""Foreign files in a lab's directory: `destroy` removes the directory, and must not remove them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from emulator.apply.handlers.image import Images
from emulator.core.errors import ConflictError, DamagedDiskError, StateError
from emulator.core.fs import finished_name, mounts_below
from emulator.core.paths import LabPaths
from emulator.core.pool import threads
from emulator.core.ports import DiskTool
from emulator.lab.environment import Environment
from emulator.lab.open_journal import LabRecord
from emulator.labfile.model import ClusterKind, Role
from emulator.plan.resources import Volume

# A disk without a record is recognised by two signs: the name of a node, and a golden image as its base.
_NODE_DISK = re.compile(f"({'|'.join(re.escape(role.value) for role in Role)})(-[1-9][0-9]*)?[.]qcow2")
_MOUNTS = Path("/proc/self/mountinfo")

#: What the program and libvirt put into those directories of a lab whose content is known by name; a name that ends
#: with a slash is a directory. Unfinished files (of a key pair also `.NAME.new.pub`) go without saying.
_KNOWN: Mapping[str, re.Pattern[str]] = {
    directory: re.compile("|".join(names))
    for directory, names in {
        "ssh": (r"(id|ca)_ed25519([.]pub)?", r"config", r"known_hosts([.]old)?", r"hosts/"),
        "ssh/hosts": (r"authority", r"[a-z0-9-]+[.]pub"),
        "console": (r"[a-z0-9-]+[.]log([.][0-9]+)?",),  # virtlogd begins a new file from time to time
        "logs": (r"[0-9]{8}T[0-9]{6}-[a-z-]+[.]log",),
        "output": (r"mdev_map[.]json",),
        "gpu": (r"gpus[.](json|lock|new)", r"owners[.]json([.]damaged-.*)?", r"[.]owners[.]json[.](lock|layout)"),
        "exercises": (r"[a-z0-9-]+[.][a-z0-9_-]+[.]json",),
        "supervisor": (r"wanted/", r"status", r"lock", r"[a-z0-9-]+[.](note|log|ballast)"),
        "supervisor/wanted": (r"[a-z0-9-]+[.]json",),
        "ansible": tuple(f"{kind.value}/" for kind in ClusterKind),
    }.items()
}

# In the other directories (for Ansible, libvirt and users' secrets) not all names are known in advance. Of the files
# that a user may have put there, a disk would be missed most.
_DISK_IMAGE = re.compile(r".*[.](qcow2?|img|raw|vmdk|vdi|iso)", re.IGNORECASE)


def refuse_foreign_files(env: Environment, record: LabRecord, *, kept: str = "nothing was taken away") -> None:
    """Raise when something in the lab's directory is not the lab's, or the directory is not where it should be.

    Args:
        env: everything outside the program.
        record: of the lab.
        kept: the consequence at this point, for the message.

    Raises:
        ConflictError: names all foreign files.
        StateError: the directory is a link.
        HyperscalerError: a disk could not be looked at.
    """
    paths = record.paths
    if paths.root.is_symlink() or paths.root.parent != record.home.labs:
        raise StateError("the lab's directory is not where it should be; it is left alone", where=str(paths.root))
    if not paths.root.is_dir():
        return
    disks = [item.resource for item in record.state.resources.values()]
    recorded = {disk.path for disk in disks if isinstance(disk, Volume)}
    foreign = [entry for entry in paths.root.iterdir() if not paths.is_own(entry.name)]
    foreign += _foreign_disks(paths, recorded, env.disks, env.images(None))
    foreign += _foreign_names(paths)
    foreign += _disk_images(paths)
    foreign += mounts_below(paths.root, _MOUNTS.read_text(errors="replace"))
    if foreign:
        raise ConflictError(
            f"{kept}, because files in the lab's directory are not hyperscaler's: "
            + ", ".join(sorted({str(path.relative_to(paths.root)) for path in foreign})),
            where=str(paths.root),
            fix="move them to another place, or remove them if nobody needs them; then run the same command again",
        )


def _foreign_disks(paths: LabPaths, recorded: Collection[str], disks: DiskTool, images: Images) -> list[Path]:
    if paths.disks.is_symlink() or not paths.disks.is_dir():
        return []  # of a link only the link itself goes

    def is_foreign(path: Path) -> bool:
        on_record = str(path) in recorded
        if path.is_symlink() or not path.is_file():
            return not (on_record and path.is_symlink())  # of a planted link only the link itself goes
        whole = path.name.removeprefix(".").removesuffix(".partial")
        half_made = path.name == f".{whole}.partial"
        if half_made and (str(path.with_name(whole)) in recorded or _NODE_DISK.fullmatch(whole)):
            return False
        if not (on_record or _NODE_DISK.fullmatch(path.name)):
            return True
        try:
            base = disks.overlay_base(path)
        except DamagedDiskError:
            return not on_record
        return base is None or (images.owning(base) is None and not on_record)

    found = sorted(paths.disks.iterdir())
    with threads(8, "disks") as pool:
        return [path for path, foreign in zip(found, pool.map(is_foreign, found), strict=True) if foreign]


def _foreign_names(paths: LabPaths) -> Iterator[Path]:
    for name, known in _KNOWN.items():
        directory = paths.root / name
        if directory.is_symlink() or not directory.is_dir():
            continue  # of a link only the link itself goes
        for path in directory.iterdir():
            half = finished_name(path.name) or finished_name(path.name, ".new.pub")
            kind = "/" if path.is_dir() and not path.is_symlink() else ""
            if not known.fullmatch((half or path.name) + kind):
                yield path


def _disk_images(paths: LabPaths) -> Iterator[Path]:
    """Files with the names of disk images, anywhere but among the lab's disks."""
    for directory, below, files in os.walk(paths.root):
        if Path(directory) == paths.root and paths.disks.name in below:
            below.remove(paths.disks.name)
        yield from (Path(directory, name) for name in files if _DISK_IMAGE.fullmatch(name))
