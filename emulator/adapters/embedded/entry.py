"""Runs as a separate program: enters the lab's namespaces, then becomes the daemon named on its command line.

    python -I -S entry.py NETNS_FILE DIRECTORY PROGRAM [ARGUMENT...]

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

# <sched.h> and <sys/mount.h> of Linux; Python has os.unshare and os.setns only since 3.12, and no mount at all.
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
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


def main(argv: list[str]) -> None:
    netns, directory, *command = argv
    enter_network(netns)
    private_mounts(directory)
    os.chdir("/")
    os.umask(0o022)
    os.execvp(command[0], command)  # noqa: S606 - this program is the last step of an exec chain


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"cannot enter the lab's namespaces: {error}")
