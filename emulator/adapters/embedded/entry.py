"""Runs as a separate program: enters the lab's namespaces, then becomes the daemon named on its command line.

    python -I -S entry.py NETNS_FILE DIRECTORY [#[CGROUP]] [@GROUP] [+WRITABLE | =READ_ONLY]... PROGRAM [ARGUMENT...]

The private mount namespace shows libvirtd the lab's directories in the places that are compiled into it (`/run/libvirt`
and so on), so that the host's own libvirt is neither seen nor touched. Because this program runs isolated (`-I`), it
uses the standard library only and imports nothing from the package.

Each start of the daemon creates a new namespace: a restarted libvirtd finds its running guests through the same
directories, and nothing has to stay mounted on the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from pathlib import Path
from typing import NamedTuple

# <sched.h> and <sys/mount.h> of Linux; Python has os.unshare and os.setns only since 3.12, and no mount at all.
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 2

# Directory of the lab -> where libvirtd expects it.
BINDS = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
    "etc": "/etc/libvirt",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, result: int, where: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", where)


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call("mount", _libc.mount(*encoded, ctypes.c_ulong(flags), None), target)


def _detach(target: str) -> None:
    _call("umount2", _libc.umount2(os.fsencode(target), MNT_DETACH), target)


def enter_network(netns: str) -> None:
    """Join the network namespace bound to the file `netns`."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", _libc.setns(descriptor, CLONE_NEWNET), netns)
    finally:
        os.close(descriptor)


def private_mounts(directory: str) -> None:
    """Enter a new mount namespace with `BINDS` in place."""
    _call("unshare", _libc.unshare(CLONE_NEWNS), "mount namespace")
    # Slave: our mounts do not reach the host, while the host's unmounts still reach us and are not blocked.
    _mount(None, "/", None, MS_REC | MS_SLAVE)
    _forget_namespaces()
    # A fresh sysfs shows the interfaces of this network namespace. It lacks the cgroup file systems, so libvirtd
    # creates no cgroups on the host either.
    _detach("/sys")
    _mount("sysfs", "/sys", "sysfs", 0)
    # Always covered: libvirt's lease program writes /run/leaseshelper.pid, outside its own directory.
    _make_place(Path("/run/libvirt"))
    for name, target in BINDS.items():
        if not Path(target).is_dir():
            _make_place(Path(target))
        _mount(f"{directory}/{name}", target, None, MS_BIND)


def _forget_namespaces() -> None:
    """Unmount the copies of other labs' namespace files, which would keep those namespaces alive."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in reversed(mounted):
        if target.startswith(("/run/netns/", "/var/run/netns/")):
            _detach(target)


def _make_place(target: Path) -> None:
    """Create a private mount point: cover its parent with a copy made of binds, without the place itself.

    A mount on a directory of the host would vanish when the host removes the directory, as it does with /run/libvirt
    when its own libvirt stops.
    """
    parent = str(target.parent)
    origin = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with os.scandir(parent) as listing:
        entries = list(listing)
    _mount("tmpfs", parent, "tmpfs", 0)
    Path(parent).chmod(0o755)
    for entry in (entry for entry in entries if entry.name != target.name):
        with contextlib.suppress(FileNotFoundError):  # /run changes all the time: an entry may vanish
            _show(origin, entry.name, Path(parent, entry.name))
    os.close(origin)
    target.mkdir(exist_ok=True)


def _show(origin: int, name: str, place: Path) -> None:
    kind = os.stat(name, dir_fd=origin, follow_symlinks=False).st_mode
    if stat.S_ISLNK(kind):
        place.symlink_to(os.readlink(name, dir_fd=origin))
        return
    place.mkdir() if stat.S_ISDIR(kind) else place.touch()
    _mount(f"/proc/self/fd/{origin}/{name}", str(place), None, MS_BIND | MS_REC)


def show_to_guests(shown: dict[str, bool]) -> None:
    """Make directories reachable for QEMU's account, and hide what lies next to them.

    Args:
        shown: absolute path -> whether it may be written. A directory on the way that is closed to other accounts (the
            lab's own, or a home below /root) is covered by an empty file system with nothing but these in it.
    """
    held = {path: os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in shown}
    closed = {path: top for path in shown if (top := _closed_ancestor(Path(path))) is not None}
    for cover in sorted({str(top) for top in closed.values()}):
        _mount("tmpfs", cover, "tmpfs", MS_NOSUID | MS_NODEV)
        Path(cover).chmod(0o711)
    for path, descriptor in held.items():
        if path in closed:
            for directory in reversed(Path(path).parents):
                if not directory.is_dir():
                    directory.mkdir()
                    directory.chmod(0o711)
            Path(path).mkdir(exist_ok=True)
        if path in closed or not shown[path]:
            _mount(f"/proc/self/fd/{descriptor}", path, None, MS_BIND)
        if not shown[path]:
            _mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
        os.close(descriptor)


def open_kvm(group: int) -> None:
    """Show a /dev/kvm that QEMU's group may open, where udev has not given it to that group.

    Without it libvirt, which asks QEMU for its capabilities as root, believes that KVM has just been switched off, and
    asks again at every call.
    """
    kvm = Path("/dev/kvm")
    if not kvm.exists():
        return
    status = kvm.stat()
    if status.st_mode & 0o006 == 0o006 or (status.st_gid == group and status.st_mode & 0o060 == 0o060):
        return
    place = Path("/run/libvirt/dev")
    place.mkdir(mode=0o700, exist_ok=True)
    _mount("tmpfs", str(place), "tmpfs", MS_NOSUID)
    node = place / "kvm"
    os.mknod(node, stat.S_IFCHR | 0o600, status.st_rdev)
    os.chown(node, 0, group)
    node.chmod(0o660)
    _mount(str(node), str(kvm), None, MS_BIND)
    _detach(str(place))


def _closed_ancestor(path: Path) -> Path | None:
    """The highest directory above `path` that other accounts cannot pass through."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & stat.S_IXOTH), None)


def join_control_group(base: str, proc: str = "/proc", root: str = "/sys/fs/cgroup") -> None:
    """Move to the group `daemon` below the lab's control group; without a name that is the one that we are in.

    A group with processes in it can give its groups no limits, so that the lab's own has none. Without a group the
    lab works as well.
    """
    with contextlib.suppress(OSError):
        if not base:
            lines = Path(proc, "self", "cgroup").read_text().splitlines()
            own = next((line.split(":", 2)[2] for line in lines if line.startswith("0:")), "/")
            base = root + own
        place = Path(base, "daemon")
        place.mkdir(exist_ok=True)
        (place / "cgroup.procs").write_text("0")


class Words(NamedTuple):
    """The command line. `cgroup` is None without one, and empty for the one that we are in."""

    netns: str
    directory: str
    cgroup: str | None
    group: int | None
    shown: dict[str, bool]
    program: list[str]


def parse(argv: list[str]) -> Words:
    """The command line without this program's own name."""
    netns, directory, *rest = argv
    cgroup = rest.pop(0)[1:] if rest[0][0] == "#" else None
    group = int(rest.pop(0)[1:]) if rest[0][0] == "@" else None
    shown: dict[str, bool] = {}
    while rest[0][0] in "+=":
        word = rest.pop(0)
        shown[word[1:]] = word[0] == "+"
    return Words(netns, directory, cgroup, group, shown, rest)


def main(argv: list[str]) -> None:
    words = parse(argv)
    if words.cgroup is not None:
        join_control_group(words.cgroup)  # first: the namespaces show no control groups
    enter_network(words.netns)
    private_mounts(words.directory)
    if words.group is not None:
        open_kvm(words.group)
    show_to_guests(words.shown)
    os.chdir("/")
    os.umask(0o022)
    os.execvp(words.program[0], words.program)  # noqa: S606 - this program is the last step of an exec chain


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"cannot enter the lab's namespaces: {error}")
