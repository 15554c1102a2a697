"""Which certificates the host's gateway lets through, and to what: a pure function of a lab's users and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.core.gateway.names import Endpoint, Target, endpoint, principal
from emulator.credentials.users import AccessBook, LabUser


@dataclass(frozen=True, slots=True)
class OpenLab:
    """A lab as the gateway is to know it.

    Attributes:
        home: `Home.id` of its home directory.
        name: of the lab.
        authorities: public keys of its ssh authority, as `TYPE BASE64`.
        targets: what its users may reach.
    """

    home: str
    name: str
    authorities: tuple[str, ...]
    targets: tuple[Target, ...]

    def endpoints(self, book: AccessBook) -> tuple[Endpoint, ...]:
        """One for each user of the book and each port that this user may reach."""
        users = [user for user in book.users if not user.revoked]
        return tuple(found for user in users for found in self._of(user))

    def _of(self, user: LabUser) -> Sequence[Endpoint]:
        mine = [target for target in self.targets if target.shared or user.may_use(target.node)]
        return [
            Endpoint(
                str(endpoint(self.home, self.name, user.name, target.node)),
                target.port,
                user.name,
                target.node,
                str(target.ip),
            )
            for target in mine
        ]

    def authorized_keys(self, book: AccessBook, now: float) -> str:
        """The lab's part of the server's authorized keys (sshd(8)): a line for each user and authority.

        A line names the certificates that are good now, by number, and each address that they may open.
        """
        lines: list[str] = []
        for user in book.users:
            good = [each.serial for each in user.certificates if each.expires > now]
            reach = self._of(user)
            if user.revoked or not good or not reach:
                continue
            names = ",".join(principal(self.name, user.name, serial) for serial in good)
            opens = ",".join(f'permitopen="[{each.address}]:{each.port}"' for each in reach)
            options = f'cert-authority,restrict,port-forwarding,principals="{names}",{opens}'
            lines += [f"{options} {authority} {self.name}" for authority in self.authorities]
        return "".join(f"{line}\n" for line in lines)
