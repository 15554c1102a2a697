"""What is in a lab's directory and not the lab's: `destroy` removes the directory, and must not remove that."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emulator.apply.handlers.image import Images
from emulator.apply.state import State
from emulator.core.errors import ConflictError, DamagedDiskError, StateError
from emulator.core.fs import mounts_below
from emulator.core.paths import LabPaths
from emulator.core.ports import DiskTool
from emulator.lab.environment import World
from emulator.labfile.model import ClusterKind, Role
from emulator.plan.resources import Volume

# A disk that no record names is known by two signs: the name of a node, and a golden image under it.
_NODE_DISK = re.compile(f"({'|'.join(re.escape(role.value) for role in Role)})(-[1-9][0-9]*)?[.]qcow2")
_MOUNTS = Path("/proc/self/mountinfo")

#: What the program and libvirt put into those directories of a lab whose content is known by name; a name that ends
#: with a slash is a directory. Half-written files (`.NAME.new`, of a key pair also `.NAME.new.pub`) go without saying.
_KNOWN: Mapping[str, re.Pattern[str]] = {
    directory: re.compile("|".join(names))
    for directory, names in {
        "ssh": (r"(id|ca)_ed25519([.]pub)?", r"config", r"known_hosts([.]old)?", r"hosts/"),
        "ssh/hosts": (r"authority", r"[a-z0-9-]+[.]pub"),
        "console": (r"[a-z0-9-]+[.]log([.][0-9]+)?",),  # virtlogd begins a new file from time to time
        "logs": (r"[0-9]{8}T[0-9]{6}-[a-z-]+[.]log",),
        "output": (r"mdev_map[.]json",),
        "gpu": (r"gpus[.](json|lock|new)", r"owners[.]json([.]damaged-.*)?", r"[.]owners[.]json[.](lock|layout)"),
        "ansible": tuple(f"{kind.value}/" for kind in ClusterKind),
    }.items()
}
_HALF_WRITTEN = re.compile(r"[.](.+)[.]new([.]pub)?")

# In the others (what Ansible, libvirt and users' secrets need) names cannot be known in full. Of what somebody may have
# put there, a disk is what would be missed most.
_DISK_IMAGE = re.compile(r".*[.](qcow2?|img|raw|vmdk|vdi|iso)", re.IGNORECASE)


def refuse_strangers(world: World, name: str, state: State, *, kept: str = "nothing was taken away") -> None:
    """Raise when something in the lab's directory is not the lab's, or the directory is not where it should be.

    Args:
        kept: what that means at this point, for the message.

    Raises:
        ConflictError: names all of it.
        StateError: the directory is a link.
        HyperscalerError: a disk could not be looked at.
    """
    paths = world.home.lab(name)
    if paths.root.is_symlink() or paths.root.parent != world.home.labs:
        raise StateError("the lab's directory is not where it should be; it is left alone", where=str(paths.root))
    if not paths.root.is_dir():
        return
    recorded = {record.resource.path for record in state.resources.values() if isinstance(record.resource, Volume)}
    strange = [entry for entry in paths.root.iterdir() if not paths.is_own(entry.name)]
    strange += _strange_disks(paths, recorded, world.disks, world.images(None))
    strange += _strange_names(paths)
    strange += _disk_images(paths)
    strange += mounts_below(paths.root, _MOUNTS.read_text(errors="replace"))
    if strange:
        raise ConflictError(
            f"{kept}, because files in the lab's directory are not hyperscaler's: "
            + ", ".join(sorted({str(path.relative_to(paths.root)) for path in strange})),
            where=str(paths.root),
            fix="move them to another place, or remove them if nobody needs them; then run the same command again",
        )


def _strange_disks(paths: LabPaths, recorded: Collection[str], disks: DiskTool, images: Images) -> list[Path]:
    if paths.disks.is_symlink() or not paths.disks.is_dir():
        return []  # of a link only the link itself goes

    def is_strange(path: Path) -> bool:
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
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="disks") as pool:
        return [path for path, strange in zip(found, pool.map(is_strange, found), strict=True) if strange]


def _strange_names(paths: LabPaths) -> Iterator[Path]:
    for name, known in _KNOWN.items():
        directory = paths.root / name
        if directory.is_symlink() or not directory.is_dir():
            continue  # of a link only the link itself goes
        for path in directory.iterdir():
            half = _HALF_WRITTEN.fullmatch(path.name)
            kind = "/" if path.is_dir() and not path.is_symlink() else ""
            if not known.fullmatch((half[1] if half else path.name) + kind):
                yield path


def _disk_images(paths: LabPaths) -> Iterator[Path]:
    """Files that are called as disks are, anywhere but among the disks."""
    for directory, below, files in os.walk(paths.root):
        if Path(directory) == paths.root and paths.disks.name in below:
            below.remove(paths.disks.name)
        yield from (Path(directory, name) for name in files if _DISK_IMAGE.fullmatch(name))
