"""What the security baseline costs of a node's boot: seconds, with its services and without (bound 5 s).

    python benchmarks/bench_hardening_boot.py [--runs 5] [--image hpc-base-trixie]

The golden image boots on QEMU without KVM, in turn as it is and with the baseline's units masked and auditing off in
the kernel, each time on a fresh overlay. They take turns in who begins, and a boot before the first is not counted, so
that both read the image from memory. Compared is what systemd says: when sshd was ready for the first login, and when
nothing was left to start. A clock outside would measure how often QEMU's user network tries again to reach a guest that
has no address yet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator.core.debian.releases import image_of
from emulator.images.store.golden_image import GoldenImage
from emulator.wiring import images_of_host
from tests.support.image_guest import ImageGuest

LIMIT = 5.0
UNITS = ("auditd.service", "hyperscaler-firewall.service", "systemd-journal-flush.service", "systemd-sysctl.service")
SOFT = (*(f"systemd.mask={unit}" for unit in UNITS), "audit=0")


def boot(image: GoldenImage, arguments: tuple[str, ...]) -> tuple[float, float]:
    """Seconds from the kernel's start until sshd was ready, and until everything was up."""
    with tempfile.TemporaryDirectory() as directory:
        guest = ImageGuest(image, Path(directory))
        try:
            guest.boot(*arguments)
            guest.wait_for_ssh()
            guest.ssh("systemctl is-system-running --wait")
            states = guest.output(f"systemctl is-active {' '.join(UNITS)} || true").split()
            shown = "systemctl show --value -p ActiveEnterTimestampMonotonic ssh.service"
            ready, whole = (
                int(word) / 1e6
                for word in guest.output(f"{shown}; systemctl show --value -p FinishTimestampMonotonic").split()
            )
        finally:
            guest.end()
    expected = "inactive" if arguments else "active"
    if set(states) != {expected}:
        raise SystemExit(f"the units of the baseline are {states}, all should be {expected}")
    return ready, whole


def pair(image: GoldenImage, *, soft_first: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """A boot with the baseline and one without."""
    if soft_first:
        soft = boot(image, SOFT)
        return boot(image, ()), soft
    return boot(image, ()), boot(image, SOFT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--image", default=image_of("hpc-base", None))
    options = parser.parse_args()
    image = images_of_host().store.current(options.image)
    if os.geteuid() != 0 or image is None:
        print(f"not measured: needs root and the image {options.image}")
        return 0
    print("compared: the image as it is, and the same image without its baseline; seconds by the guest's own systemd")
    boot(image, ())
    pairs = [pair(image, soft_first=bool(number % 2)) for number in range(options.runs)]
    worst = 0.0
    for index, name in enumerate(("ready for the first login", "everything up")):
        hard, soft = (statistics.median(pair[which][index] for pair in pairs) for which in (0, 1))
        worst = max(worst, hard - soft)
        print(f"{name}: {hard:.1f} s, without the baseline {soft:.1f} s: {hard - soft:+.1f} s, ratio {hard / soft:.2f}")
    print(f"{'within' if worst <= LIMIT else 'OVER'} the bound of {LIMIT:.0f} s")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
