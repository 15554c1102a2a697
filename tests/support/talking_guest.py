"""Guests that boot in seconds and do as they are told over the network: busybox on the kernel of a golden image."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from emulator.images.build.initrd import Entry, newc
from emulator.images.store.golden_image import GoldenImage
from tests.support.real_lab import Boot

SHELL_PORT = 2323
# With several callers at once, busybox's nc now and then closes a connection that it took before the shell has said
# anything. That the shell cannot be reached at all still shows.
_TRIES = 4

# The drivers of the image's own initial RAM disk, an address from DHCP, a shell and services on the network. Router
# advertisements are not listened to, as in a real node.
_INIT = f"""\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
exec </dev/console >/dev/console 2>&1
echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra
for module in /modules/*.ko; do insmod "$module" 2>/dev/null; done
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep 0.1; done
mkdir -p /etc
udhcpc -q -f -t 60 -T 1 -i eth0 -s /lease -O 12
for port in 8000 8001 9000; do nc -ll -p "$port" -e /bin/hostname & done
nc -ll -p {SHELL_PORT} -e /bin/sh &
echo talking-guest is ready
while :; do sleep 1000; done
"""

_LEASE = """\
#!/bin/busybox sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr add "$ip/$mask" dev eth0
ip route add default via "$router" dev eth0
echo "nameserver $dns" >/etc/resolv.conf
echo "search $domain" >>/etc/resolv.conf
hostname "$hostname"
"""


def boot_of(image: GoldenImage) -> Boot:
    """The kernel unpacks both archives, and of files of one name it keeps the last."""
    more = [
        Entry("init", stat.S_IFREG | 0o755, _INIT.encode()),
        Entry("lease", stat.S_IFREG | 0o755, _LEASE.encode()),
    ]
    return Boot(image.kernel.read_bytes(), image.initrd.read_bytes() + newc(more), image.cmdline)


@dataclass(frozen=True)
class TalkingGuest:
    """`prefix` enters the network namespace in which the guest can be reached."""

    name: str
    ip: str
    prefix: tuple[str, ...]

    def run(self, command: str, *, timeout: float = 30) -> str:
        """What a shell command prints, with its exit status in a last line; errors are part of it."""
        script = f"exec 2>&1; {command}\necho status=$?\nexit\n"
        words: Sequence[str] = [*self.prefix, "nc", "-N", "-w", str(int(timeout)), self.ip, str(SHELL_PORT)]
        for _ in range(_TRIES):
            done = subprocess.run(words, input=script, capture_output=True, text=True, timeout=timeout + 5, check=False)
            if "status=" in done.stdout:
                break
        return done.stdout

    def answers(self) -> bool:
        return "status=0" in self.run("true", timeout=2)

    def succeeds(self, command: str) -> bool:
        """Whether a command ends well, in the guest."""
        output = self.run(command)
        assert "status=" in output, f"{self.name} did not answer: {output!r}"
        return output.rstrip().endswith("status=0")

    def reaches(self, ip: str, port: int) -> bool:
        """Whether something answers there."""
        return self.succeeds(f"nc -w 2 {ip} {port} </dev/null | grep -q .")

    def pings(self, ip: str, options: str = "") -> bool:
        return self.succeeds(f"ping -c 1 -W 2 {options} {ip}")
