"""The connections of the gateway, each with an OpenSSH server of its own.

Those who have not logged in yet have bounds by address, all others by user. What the servers say goes to the log, and
whose certificate is no longer good has no connection any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emulator.core.gateway.names import principal
from emulator.services.gateway.keys import keys_files
from emulator.services.gateway.limits import Bounds, Limits, source_of
from emulator.services.gateway.sshd import sshd_argv

WAITING = Bounds(each=64, all=192, burst=96, rate=4.0)
"""Connections of a client's address on which nobody has logged in yet: a whole class may sit behind one address."""
LOGGED_IN = Bounds(each=24, all=448, burst=60, rate=1.0)
"""Connections of a user: one for each login on a node, and for the ports that are forwarded."""
MESSAGES = 100
"""Of one connection that are logged."""
LOOK_SECONDS = 1.0
"""Between two looks at which certificates are good."""
_LINE = 4096


@dataclass(slots=True)
class _Server:
    """A connection's server: its process, the client's address, and what it prints, message by message. `user`: whose
    certificate it has let in, as `user@lab`. `principal`: what the lab's line has to name."""

    process: subprocess.Popen[bytes]
    address: str
    number: int
    said: socket.socket
    lines: int = 0
    user: str = ""
    principal: str = ""
    asked_to_end: bool = False


class Door:
    """Connections and their servers.

    Args:
        place: of the gateway.
        program: sshd.
        account: that clients log in as.
        log: takes a line.
    """

    def __init__(self, place: Path, program: Path, account: str, log: Callable[[str], None]) -> None:
        self._place, self._program, self._log = place, program, log
        # How sshd begins the message of a login. What it says of a client's own words begins otherwise.
        self._login = re.compile(
            rb"Accepted publickey for " + re.escape(account.encode()) + rb" from \S+ port \d+ ssh2: \S+-CERT \S+ ID "
            rb"([a-z0-9-]+)@([a-z0-9-]+) \(serial (\d+)\) CA "
        )
        self._waiting, self._users = Limits(WAITING), Limits(LOGGED_IN)
        self._servers: list[_Server] = []
        self._taken = self._refused = 0
        self._looked = 0.0

    def take(self, connection: socket.socket, address: str, now: float) -> None:
        """Give a connection to a server, or close it."""
        who = source_of(address)
        why = self._waiting.refusal(who, now)
        if why:
            self._refused += 1
            # A flood is one line for each power of two, so that it does not push the rest out of the log.
            if self._refused & (self._refused - 1) == 0:
                self._log(f"refused {who}: {why}; {self._refused} so far")
            connection.close()
            return
        argv = sshd_argv(self._program, self._place / "sshd_config", keys_files(self._place))
        # sshd writes each message at once, and a client's name with a line break in it is one message all the same.
        said, says = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said.setblocking(False)
        self._taken += 1
        try:
            connection.setblocking(True)
            process = subprocess.Popen(
                argv,
                stdin=connection.fileno(),
                stdout=connection.fileno(),
                stderr=says.fileno(),
                env={"PATH": os.defpath},
            )
        except OSError as error:
            self._log(f"no server for {who}: {error.strerror}")
            self._waiting.ended(who)
            said.close()
        else:
            self._servers.append(_Server(process, who, self._taken, said))
        finally:
            says.close()
            connection.close()

    def waits_for(self) -> list[socket.socket]:
        """What can be read when `look` has something to do."""
        return [server.said for server in self._servers]

    def look(self, now: float) -> None:
        """Hear what the servers say, count out the connections that have ended, and end those that are to."""
        for server in tuple(self._servers):
            ended = server.process.poll() is not None
            self._hear(server, now)
            if ended:
                self._servers.remove(server)
                server.said.close()
                self._count_out(server)
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._end_former()

    def end_all(self) -> None:
        """End all connections."""
        for server in self._servers:
            server.process.terminate()

    def _count_out(self, server: _Server) -> None:
        if server.user:
            self._users.ended(server.user)
        else:
            self._waiting.ended(server.address)

    def _hear(self, server: _Server, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while message := server.said.recv(_LINE):
                server.lines += 1
                if server.lines <= MESSAGES:
                    more = "; no more of it is logged" if server.lines == MESSAGES else ""
                    self._log(f"connection {server.number}: {one_line(message)}{more}")
                if not server.user and (login := self._login.match(message)):
                    self._let_in(server, *(group.decode() for group in login.groups()), now=now)

    def _let_in(self, server: _Server, user: str, lab: str, serial: str, *, now: float) -> None:
        whose = f"{user}@{lab}"
        if why := self._users.refusal(whose, now):
            self._end(server, f"{whose}: {why}")
            return
        self._waiting.ended(server.address)
        server.user, server.principal = whose, principal(lab, user, int(serial))

    def _end_former(self) -> None:
        """End connections whose certificate no line names any more: what was behind it is out of reach already."""
        servers = [server for server in self._servers if server.user and not server.asked_to_end]
        if not servers:
            return
        named = set(re.findall(r"gateway/[a-z0-9-]+/[a-z0-9-]+/[0-9]+", "".join(map(_text, keys_files(self._place)))))
        for server in servers:
            if server.principal not in named:
                self._end(server, f"{server.user} has no access any more")

    def _end(self, server: _Server, why: str) -> None:
        self._log(f"connection {server.number} is ended: {why}")
        server.asked_to_end = True
        server.process.terminate()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:  # the lab was closed a moment ago
        return ""


def one_line(message: bytes) -> str:
    """A message of sshd's as one line that controls no terminal. It holds what clients have sent."""
    text = message.decode("ascii", "backslashreplace").rstrip("\r\n")
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
