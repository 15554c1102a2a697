"""The gateway's door: takes connections in the host's network and gives each to an OpenSSH server of its own.

The servers, and this process once it has its sockets, run as the gateway's account and in a network namespace that has
nothing in it but the labs' relays. A server that is made to connect anywhere else finds no network there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emulator.adapters.services.openssh_server import find_sshd
from emulator.core.errors import ServiceError
from emulator.core.fs import replace_file
from emulator.core.gateway.names import ACCOUNT, NAMESPACE, NETWORK, PLACE
from emulator.services.gateway.account import account_of, become, enter, identity, require_roots_directory
from emulator.services.gateway.confined import Confined, start_confined
from emulator.services.gateway.keys import keys_directory, keys_files, sweep
from emulator.services.gateway.limits import Bounds, Limits, source_of
from emulator.services.gateway.log import log_line
from emulator.services.gateway.sshd import sshd_argv, sshd_config
from emulator.services.note import Note, stop_asked

CLIENTS = Bounds(each=64, all=256, burst=96, rate=4.0)
"""Connections of a client's address: a class may sit behind one."""
MESSAGES = 100
"""Of one connection that are logged."""
TICK = 0.5
_SECONDS = 60.0
_LINE = 4096
_FAMILY = ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/lo/disable_ipv6")


@dataclass(slots=True)
class _Server:
    """A connection's server: its process, whose connection it is, and what it prints, message by message."""

    process: subprocess.Popen[bytes]
    who: str
    number: int
    said: socket.socket
    lines: int = 0


class Door:
    """Connections and their servers.

    Args:
        place: of the gateway.
        program: sshd.
        log: takes a line.
    """

    def __init__(self, place: Path, program: Path, log: Callable[[str], None]) -> None:
        self._place, self._program, self._log = place, program, log
        self._limits = Limits(CLIENTS)
        self._servers: list[_Server] = []
        self._taken = self._refused = 0

    def take(self, connection: socket.socket, address: str, now: float) -> None:
        """Give a connection to a server, or close it."""
        who = source_of(address)
        why = self._limits.refusal(who, now)
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
            self._limits.ended(who)
            said.close()
        else:
            self._servers.append(_Server(process, who, self._taken, said))
        finally:
            says.close()
            connection.close()

    def waits_for(self) -> list[socket.socket]:
        """What can be read when `look` has something to do."""
        return [server.said for server in self._servers]

    def look(self) -> None:
        """Log what the servers say, and count out the connections that have ended."""
        for server in tuple(self._servers):
            ended = server.process.poll() is not None
            self._read(server)
            if ended:
                self._servers.remove(server)
                server.said.close()
                self._limits.ended(server.who)

    def _read(self, server: _Server) -> None:
        with contextlib.suppress(BlockingIOError):
            while message := server.said.recv(_LINE):
                server.lines += 1
                if server.lines <= MESSAGES:
                    more = "; no more of it is logged" if server.lines == MESSAGES else ""
                    self._log(f"connection {server.number}: {one_line(message)}{more}")


def one_line(message: bytes) -> str:
    """A message of sshd's as one line that controls no terminal. It holds what clients have sent."""
    text = message.decode("ascii", "backslashreplace").rstrip("\r\n")
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def main(argv: list[str]) -> int:
    """Run until it is asked to end."""
    parser = argparse.ArgumentParser(prog="gateway-front")
    parser.add_argument("--listen", default="", help="an address of this host; all without it")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host-key", type=Path, required=True)
    parser.add_argument("--sshd", default="")
    parser.add_argument("--gateway", default=NAMESPACE)
    parser.add_argument("--place", type=Path, default=PLACE)
    parser.add_argument("--account", default=ACCOUNT)
    wanted = parser.parse_args(argv)
    asked, note = stop_asked(), Note()
    account = account_of(wanted.account)
    program = find_sshd(wanted.sshd)
    _make_place(wanted.place, account.pw_gid, wanted.host_key, wanted.account)
    listening, entered = listen(wanted.listen, wanted.port), identity(wanted.gateway)

    def drop() -> None:
        enter(wanted.gateway)
        _open_network()
        become(account)
        resource.setrlimit(resource.RLIMIT_NPROC, (4 * CLIENTS.all, 4 * CLIENTS.all))

    door = start_confined(drop, lambda control: _serve(Door(wanted.place, program, log_line), listening, control))
    listening.close()
    _report(door, wanted.place, asked, note, lambda: identity(wanted.gateway) == entered)
    return 0


def _report(door: Confined, place: Path, asked: threading.Event, note: Note, unchanged: Callable[[], bool]) -> None:
    """Say which labs are open, and sweep, until the end.

    Raises:
        ServiceError: the door has ended, or the namespace is another one.
    """
    ready = False
    while not asked.is_set():
        door.require_lives()
        if not unchanged():
            raise ServiceError("the gateway's network namespace was made anew")
        sweep(place)
        ready = ready or bool(select.select([door.control], [], [], TICK)[0] and door.control.recv(1))
        if ready:
            labs = len(keys_files(place))
            note.say(f"open for {labs} lab{'' if labs == 1 else 's'}")
            asked.wait(TICK)


def _serve(door: Door, listening: socket.socket, control: socket.socket) -> None:
    """Take connections for ever; the other half hears when that begins."""
    control.sendall(b"1")
    while True:
        ready, _, _ = select.select([listening, *door.waits_for()], [], [], TICK)
        door.look()
        if listening not in ready:
            continue
        try:
            connection, address = listening.accept()
        except OSError:  # it has gone already, or there are no descriptors: the next look finds out
            continue
        door.take(connection, str(address[0]), time.monotonic())


def listen(address: str, port: int) -> socket.socket:
    """The socket that clients connect to.

    Raises:
        ServiceError: the address is not this host's, or the port is in use.
    """
    try:
        if not address:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            made = socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=128)
        else:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.create_server((address, port), family=family, backlog=128)
    except OSError as error:
        raise ServiceError(
            f"the gateway cannot listen: {error.strerror}", where=f"{address or '*'} port {port}", fix="use another one"
        ) from error
    made.setblocking(False)
    return made


def _make_place(place: Path, gid: int, host_key: Path, account: str) -> None:
    """What the servers read: root's, and readable by their account."""
    for directory in (place, keys_directory(place)):
        directory.mkdir(mode=0o700, exist_ok=True)
        require_roots_directory(directory)
        os.chown(directory, 0, gid)
        directory.chmod(0o750)
    for name, content in (
        ("host_key", host_key.read_bytes()),
        ("sshd_config", sshd_config(place / "host_key", account).encode()),
    ):
        replace_file(place / name, content, mode=0o640, owner=(0, gid))


def _open_network() -> None:
    """Make all addresses of the gateway's network this namespace's own: it is what makes them reachable."""
    for path in _FAMILY:
        Path(path).write_text("0")
    words = ["ip", "-6", "route", "replace", "local", str(NETWORK), "dev", "lo"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise ServiceError(f"the gateway has no IPv6: {done.stderr.strip()}", where="ip -6 route")
