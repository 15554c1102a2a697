"""The gateway's door: takes connections in the host's network and gives each to an OpenSSH server of its own.

The servers, and this process once it has its sockets, run as the gateway's account and in a network namespace that has
nothing in it but the labs' relays. A server that is made to connect anywhere else finds no network there.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from emulator.adapters.services.openssh_server import find_sshd
from emulator.core.errors import ServiceError
from emulator.core.fs import replace_file
from emulator.core.gateway.names import ACCOUNT, NAMESPACE, NETWORK, PLACE
from emulator.services.gateway.account import account_of, become, enter, identity, require_roots_directory
from emulator.services.gateway.confined import Confined, start_confined
from emulator.services.gateway.door import LOGGED_IN, WAITING, Door
from emulator.services.gateway.keys import keys_directory, keys_files, sweep
from emulator.services.gateway.log import log_line
from emulator.services.gateway.sshd import sshd_config
from emulator.services.note import Note, stop_asked
from emulator.services.privileges import Capability, keep_only

TICK = 0.5
_SECONDS = 60.0
_FAMILY = ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/lo/disable_ipv6")


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
        processes = 4 * (LOGGED_IN.all + WAITING.all)
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))

    door = start_confined(
        drop, lambda control: _serve(Door(wanted.place, program, wanted.account, log_line), listening, control)
    )
    listening.close()
    keep_only((Capability.DAC_READ_SEARCH, Capability.SYS_RESOURCE))
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
    """Take connections until the other half has ended, which hears when that begins."""
    control.sendall(b"1")
    while True:
        ready, _, _ = select.select([control, listening, *door.waits_for()], [], [], TICK)
        door.look(time.monotonic())
        if control in ready:  # it sends nothing: this is its end
            door.end_all()
            return
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
