"""A lab's relay: takes connections in the gateway's namespace and makes theirs in the lab's.

It has no rights at all: one of its threads is in the gateway's namespace, all others in the lab's, and both were
entered before it gave up root. Where a connection may lead is decided by the address at which it came in. It sees
ciphertext only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial

from emulator.core.gateway.names import SSH_PORT, Endpoint
from emulator.services.gateway.account import enter
from emulator.services.gateway.limits import Bounds, Limits
from emulator.services.gateway.log import log_line

PER_USER = Bounds(each=32, all=512, burst=40, rate=0.5)
"""Connections of a user: kubectl opens several at once."""
PER_NODE = Bounds(each=48, all=512, burst=96, rate=8.0)
"""Logins on a node, open or not yet: sshd there begins to refuse at 64, and has to let the lab's owner in."""
_CHUNK = 64 * 1024
_IPV6_FREEBIND = 78  # <linux/in6.h>, from Linux 4.15 on; Python has no name for it
_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


class Binder:
    """A thread in another network namespace, which makes listening sockets there.

    Args:
        namespace: by name.

    Raises:
        ServiceError: it cannot be entered.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._asked: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[socket.socket | Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="binder").start()
        if isinstance(failed := self._made.get(), Exception):
            raise failed

    def _work(self) -> None:
        try:
            enter(self._namespace)
            with open(_PORTS, "w") as stream:  # noqa: PTH123 - of this thread's namespace, in which nobody else is
                stream.write("0")
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits for it
            self._made.put(error)
            return
        self._made.put(None)
        while True:
            self._made.put(_listen(*self._asked.get()))

    def listen(self, address: str, port: int) -> socket.socket:
        """A listening socket.

        Raises:
            OSError: it cannot be had.
        """
        self._asked.put((address, port))
        made = self._made.get()
        if isinstance(made, socket.socket):
            return made
        raise made or OSError("no socket was made")


def _listen(address: str, port: int) -> socket.socket | Exception:
    try:
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        return error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The addresses are the namespace's by a route, and none has to be given to an interface.
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        made.bind((address, port))
        made.listen(64)
        made.setblocking(False)
    except OSError as error:
        made.close()
        return error
    return made


class Relay:
    """The connections of one lab.

    Args:
        lab: its name, for the log.
        listen: makes a listening socket in the gateway's namespace.
        log: takes a line.
        clock: a monotonic one, in seconds.
    """

    def __init__(
        self,
        lab: str,
        listen: Callable[[str, int], socket.socket],
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lab, self._listen, self._log, self._clock = lab, listen, log, clock
        self._users, self._nodes = Limits(PER_USER), Limits(PER_NODE)
        self._servers: dict[Endpoint, asyncio.Server] = {}
        self._open: dict[Endpoint, set[asyncio.Task[None]]] = {}

    async def follow(self, control: asyncio.StreamReader) -> None:
        """Have what each line of `control` says, until it ends."""
        while line := await control.readline():
            await self.have(endpoints_from(line))

    async def have(self, wanted: Iterable[Endpoint]) -> None:
        """Lead to these and to nothing else: connections to the others end at once."""
        there = set(wanted)
        for endpoint in [each for each in self._servers if each not in there]:
            self._servers.pop(endpoint).close()
            for task in tuple(self._open.pop(endpoint, ())):
                task.cancel()
        for endpoint in there - set(self._servers):
            try:
                listening = self._listen(endpoint.address, endpoint.port)
            except OSError as error:
                self._log(f"{_words(self._lab, endpoint)} cannot be offered: {error.strerror}")
                continue
            self._servers[endpoint] = await asyncio.start_server(
                partial(self._take, endpoint), sock=listening, limit=_CHUNK
            )

    @property
    def connections(self) -> int:
        return sum(map(len, self._open.values()))

    async def _take(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  asyncio runs this as one
        why = self._refusal(endpoint) if endpoint in self._servers else "it is no longer offered"
        if why:
            self._log(f"refused {_words(self._lab, endpoint)}: {why}")
            writer.transport.abort()
            return
        self._open.setdefault(endpoint, set()).add(task)
        started = self._clock()
        self._log(f"opened {_words(self._lab, endpoint)}")
        how = "closed"
        try:
            await self._pass_on(endpoint, reader, writer)
        except asyncio.CancelledError:
            how = "ended"  # what it led to is no longer offered
        except OSError as error:
            how = f"failed ({error.strerror or error})"
        finally:
            writer.transport.abort()
            self._open.get(endpoint, set()).discard(task)
            self._users.ended(endpoint.user)
            if endpoint.port == SSH_PORT:
                self._nodes.ended(endpoint.node)
            self._log(f"{how} {_words(self._lab, endpoint)} after {self._clock() - started:.0f} s")

    def _refusal(self, endpoint: Endpoint) -> str:
        now = self._clock()
        if why := self._users.refusal(endpoint.user, now):
            return why
        if endpoint.port == SSH_PORT and (why := self._nodes.refusal(endpoint.node, now)):
            self._users.ended(endpoint.user)
            return f"the node is busy: {why}"
        return ""

    async def _pass_on(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The kernel decides how long a node may take to answer: a deadline of ours would be one more for slow hosts.
        far_reader, far_writer = await asyncio.open_connection(endpoint.ip, endpoint.port, limit=_CHUNK)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, far_writer))
                both.create_task(_copy(far_reader, writer))
        except* OSError as errors:
            raise errors.exceptions[0] from None
        finally:
            far_writer.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the end, no faster than the other side takes it."""
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):  # the other side has closed both directions
        sink.write_eof()


def _words(lab: str, endpoint: Endpoint) -> str:
    return f"user={endpoint.user} lab={lab} target={endpoint.node}:{endpoint.port}"


def line_of(endpoints: Iterable[Endpoint]) -> bytes:
    """The endpoints as a line of the control connection."""
    return json.dumps([asdict(each) for each in endpoints]).encode() + b"\n"


def endpoints_from(line: bytes) -> tuple[Endpoint, ...]:
    """The inverse of `line_of`."""
    return tuple(Endpoint(**each) for each in json.loads(line))


async def work(lab: str, binder: Binder, control: socket.socket) -> None:
    """Relay until the control connection ends."""
    reader, _ = await asyncio.open_connection(sock=control, limit=1 << 24)
    await Relay(lab, binder.listen, log_line).follow(reader)
