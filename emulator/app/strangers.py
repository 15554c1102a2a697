"""What is in a lab's directory and not the lab's: `destroy` removes the directory, and must not remove that."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emulator.app.world import World
from emulator.apply.handlers.image import Images
from emulator.apply.state import State
from emulator.errors import ConflictError, DamagedDiskError, StateError
from emulator.paths import LabPaths
from emulator.plan.resources import Volume
from emulator.ports import DiskTool
from emulator.spec.model import Role

# A disk that no record names is known by two signs: the name of a node, and a golden image under it.
_NODE_DISK = re.compile(f"({'|'.join(re.escape(role.value) for role in Role)})(-[1-9][0-9]*)?[.]qcow2")
_MOUNTS = Path("/proc/self/mountinfo")


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
    strange += _mounts_below(paths.root, _MOUNTS.read_text(errors="replace"))
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


def _mounts_below(root: Path, mountinfo: str) -> Iterator[Path]:
    """Mount points in the directory: what is mounted there is never the lab's, and removing would go into it."""
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            # proc(5): blanks and the like are written as \\ and three octal digits.
            point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
            if root in point.parents:
                yield point
