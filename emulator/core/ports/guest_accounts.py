"""The port to the accounts that guests' QEMU processes run as; see `ports`.

An account is a pair of numbers without a name: libvirt takes `+UID:+GID`, the kernel checks numbers, and nothing has to
be added to /etc/passwd or removed from it. docs/design/0010 says why these ranges.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

# First and last. 0x7E000000 to 0x7EFFFFFF: free by systemd's list of ranges (https://systemd.io/UIDS-GIDS), above
# shadow's subordinate ids (SUB_UID_MAX in login.defs) and SSSD's (ldap_idmap_range_max), below 2^31.
# 60578 to 61183: the only range that is free by the same list and exists where a container has 65536 users.
RESERVED = ((0x7E000000, 0x7EFFFFFF), (60578, 61183))

_LABEL = re.compile(r"\+(\d{1,10}):\+(\d{1,10})")


def is_reserved(number: int) -> bool:
    """Whether a user or group of this number can only be one of ours."""
    return any(first <= number <= last for first, last in RESERVED)


@dataclass(frozen=True, slots=True)
class GuestAccount:
    """User and primary group of QEMU's processes."""

    uid: int
    gid: int

    @property
    def label(self) -> str:
        """In the notation of libvirt's DAC driver; the plus keeps it from looking up a user of that name."""
        return f"+{self.uid}:+{self.gid}"

    @classmethod
    def of_label(cls, text: str) -> GuestAccount | None:
        """The account of such a label; None for any other text."""
        match = _LABEL.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None


class GuestAccounts(Protocol):
    """Accounts of labs and their guests. A lab has a group, each guest a user of its own in that group.

    The same lab or guest always gets the same account, until the lab is released.
    """

    def of_lab(self, lab: str) -> GuestAccount | None:
        """What belongs to no single guest of the lab; None where accounts cannot be chosen, since nobody is root."""
        ...

    def of_guest(self, lab: str, node: str) -> GuestAccount | None:
        """The guest's own account; it is on record before this returns."""
        ...

    def knows(self, lab: str) -> bool:
        """Whether the lab has any."""
        ...

    def release(self, lab: str) -> tuple[str, ...]:
        """End what still runs as an account of the lab, and give all of them back; what of them is still on the host,
        in words. Those stay reserved."""
        ...


class AccountNumbers(Protocol):
    """Numbers for users and groups, as far as this host shows who has them."""

    def draw(self, held: Collection[int]) -> int:
        """A number of `RESERVED` that is neither in `held` nor in use on this host.

        Raises:
            HostNotFitError: there is none.
        """
        ...

    def end(self, numbers: Collection[int]) -> None:
        """End all processes of the users of these numbers, as far as the numbers are of `RESERVED` and nameless."""
        ...

    def traces(self, numbers: Collection[int]) -> Mapping[int, str]:
        """Processes and files that still belong to users or groups of these numbers, one phrase for each number."""
        ...
