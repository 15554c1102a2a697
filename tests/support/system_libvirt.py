"""The host's libvirt, `qemu:///system`, as a distribution starts it, with virtlogd, in network and mount namespaces of
its own: nothing of it touches the machine that the tests run on."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0
# The settings are a copy, without networks that start by themselves; what the daemons keep is in memory. Modes are
# those of Debian's packages: the postinst of libvirt-daemon-system, udev's 50-udev-default.rules for /dev/kvm.
_SETUP = """\
set -e
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run/libvirt
mount -t tmpfs -o mode=755 tmpfs /var/lib/libvirt
mkdir -p /var/lib/libvirt/qemu /var/lib/libvirt/dnsmasq /var/lib/libvirt/images
chown libvirt-qemu:libvirt-qemu /var/lib/libvirt/qemu
chmod 0750 /var/lib/libvirt/qemu
cp -a /etc/libvirt/. "$1"
rm -f "$1"/qemu/networks/autostart/*
if test -e /dev/kvm; then
    mknod -m 0660 "$2" c 10 232
    chgrp kvm "$2"
    mount --bind "$2" /dev/kvm
fi
mount --bind "$1" /etc/libvirt
echo ready
exec cat
"""


@contextmanager
def system_libvirt() -> Iterator[tuple[str, ...]]:
    """The words that run a command where `qemu:///system` is that libvirt."""
    settings = Path(tempfile.mkdtemp(prefix="hs-system-", dir="/var/tmp"))
    place = Path("/run/libvirt")
    made = not place.exists()
    place.mkdir(exist_ok=True)
    kvm = settings.with_name(f"{settings.name}-kvm")
    holder = subprocess.Popen(
        ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", _SETUP, "sh", settings, kvm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started = [holder]
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        within = ("nsenter", f"--target={holder.pid}", "--mount", "--net", "--")
        for daemon, sockets in (("virtlogd", "virtlogd-sock"), ("libvirtd", "libvirt-sock")):
            with (settings / f"{daemon}.log").open("w") as log:
                started.append(subprocess.Popen([*within, daemon], stderr=log, text=True))
            _wait_for(within, f"/run/libvirt/{sockets}")
        yield within
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)
        shutil.rmtree(settings)
        kvm.unlink(missing_ok=True)
        if made:
            place.rmdir()


def _wait_for(within: tuple[str, ...], socket: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run([*within, "test", "-S", socket], check=False).returncode != 0:
        assert time.monotonic() < deadline, f"{socket} does not appear"
        time.sleep(0.1)
