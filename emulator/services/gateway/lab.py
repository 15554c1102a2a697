"""A lab's part of the host's gateway, as a service of the lab.

The process itself stays root's and reads what only root can: who has access. It writes the lab's lines for the ssh
server and names the addresses to its relay, which has no rights. So nobody has to announce the end of an access, by the
clock or by a command: a second later the lines are gone, and the connections are closed.
"""

from __future__ import annotations

import argparse
import asyncio
import pwd
import socket
import time
from collections.abc import Callable
from pathlib import Path

from emulator.core.errors import HyperscalerError, ServiceError
from emulator.core.gateway.names import ACCOUNT, NAMESPACE, PLACE, Endpoint, Target
from emulator.core.paths import Home
from emulator.services.gateway.account import account_of, become, enter, identity, require_roots_directory
from emulator.services.gateway.confined import Confined, start_confined
from emulator.services.gateway.keys import KeysFile
from emulator.services.gateway.relay import Binder, line_of, work
from emulator.services.note import Note, stop_asked
from emulator.services.privileges import Capability, keep_only
from emulator.wiring import way_into_lab

TICK = 1.0


class LabPart:
    """What one lab publishes.

    Args:
        wanted: its endpoints, and its lines for the server, at a time.
        keys: the file with the lines.
        relay: the control connection of its relay.
    """

    def __init__(
        self, wanted: Callable[[float], tuple[tuple[Endpoint, ...], str]], keys: KeysFile, relay: socket.socket
    ) -> None:
        self._wanted, self._keys, self._relay = wanted, keys, relay
        self._published: tuple[tuple[Endpoint, ...], str] | None = None
        self.text = ""

    def look(self, now: float) -> None:
        """Publish what has changed. What cannot be read opens nothing.

        Raises:
            OSError: the relay has ended, or the file cannot be written.
        """
        try:
            endpoints, lines = self._wanted(now)
            users = len({each.user for each in endpoints})
            self.text = f"{users} user{'' if users == 1 else 's'} may come in by the host's gateway"
        except (HyperscalerError, OSError) as error:
            endpoints, lines = (), ""
            self.text = f"nobody may come in by the host's gateway: {error}"
        if (endpoints, lines) == self._published:
            return
        self._keys.write(lines)
        self._relay.sendall(line_of(endpoints))
        self._published = (endpoints, lines)


def main(argv: list[str]) -> int:
    """Run until it is asked to end, or the lab or the gateway got another network namespace."""
    parser = argparse.ArgumentParser(prog="gateway")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--namespace", default="", help="the lab's; without one its nodes are in the host's network")
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--gateway", default=NAMESPACE)
    parser.add_argument("--place", type=Path, default=PLACE)
    parser.add_argument("--account", default=ACCOUNT)
    wanted = parser.parse_args(argv)
    asked, note = stop_asked(), Note()
    account = account_of(wanted.account)
    require_roots_directory(wanted.place)
    home, targets = Home(wanted.home), tuple(map(Target.parse, wanted.target))
    spaces = tuple(name for name in (wanted.gateway, wanted.namespace) if name)
    entered = tuple(map(identity, spaces))
    relay = _start_relay(wanted, account)
    keep_only((Capability.CHOWN, Capability.DAC_READ_SEARCH, Capability.SYS_RESOURCE))
    with KeysFile(wanted.place, home.id, wanted.lab, account.pw_gid) as keys:
        part = LabPart(way_into_lab(home.root, wanted.lab, targets), keys, relay.control)
        while True:
            relay.require_lives()
            if tuple(map(identity, spaces)) != entered:
                raise ServiceError("the network of the gateway or of the lab was made anew")
            part.look(time.time())
            note.say(part.text)
            if asked.wait(TICK):
                return 0


def _start_relay(wanted: argparse.Namespace, account: pwd.struct_passwd) -> Confined:
    """The relay in both namespaces, without rights."""
    binders: list[Binder] = []

    def drop() -> None:
        binders.append(Binder(wanted.gateway))
        if wanted.namespace:
            enter(wanted.namespace)
        become(account)

    return start_confined(drop, lambda control: asyncio.run(work(wanted.lab, binders[0], control)))
