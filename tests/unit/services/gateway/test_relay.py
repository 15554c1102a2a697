"""A lab's relay on loopback, without namespaces: what it leads to, for how long, and for how many."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from emulator.core.gateway.names import Endpoint
from emulator.services.gateway import relay as module
from emulator.services.gateway.limits import Bounds
from emulator.services.gateway.relay import Relay, endpoints_from, line_of

PATIENCE = 30


class World:
    """A relay before a server that says what it gets; listening sockets are on ports of the kernel's choice."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.ports: dict[str, int] = {}
        self.relay = Relay("demo", self._listen, self.log.append)

    def _listen(self, address: str, port: int) -> socket.socket:
        if address == "taken":
            raise OSError(98, "Address already in use")
        made = socket.create_server(("127.0.0.1", 0))
        made.setblocking(False)
        self.ports[address] = made.getsockname()[1]
        return made

    async def ask(self, address: str, text: bytes = b"hello") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[address])
        try:
            writer.write(text)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), PATIENCE)
        except ConnectionError:
            return b""
        finally:
            writer.close()


def run(test: Callable[[World, int], Awaitable[None]]) -> World:
    """Run a test with a relay and an echo server, whose port it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def inside() -> World:
        world = World()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            await test(world, server.sockets[0].getsockname()[1])
            await world.relay.have(())
        return world

    return asyncio.run(inside())


def endpoint(address: str, port: int, user: str = "ada") -> Endpoint:
    return Endpoint(address, port, user, "hpc-controller", "127.0.0.1")


def test_what_comes_in_at_an_address_goes_where_it_leads() -> None:
    async def test(world: World, port: int) -> None:
        await world.relay.have([endpoint("a", port)])
        large = bytes(range(256)) * 8192
        assert await world.ask("a", large) == large

    world = run(test)
    assert world.log[0].startswith("opened user=ada lab=demo target=hpc-controller:")
    assert world.log[1].startswith("closed user=ada lab=demo target=hpc-controller:")


def test_what_is_no_longer_offered_ends_at_once_and_the_rest_goes_on() -> None:
    async def test(world: World, port: int) -> None:
        mine, other = endpoint("a", port), endpoint("b", port, "bob")
        await world.relay.have([mine, other])
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["a"])
        kept, going = await asyncio.open_connection("127.0.0.1", world.ports["b"])
        for ask, answer in ((writer, reader), (going, kept)):
            ask.write(b"x")
            assert await answer.readexactly(1) == b"x"
        await world.relay.have([other])
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        going.write(b"y")
        assert await kept.readexactly(1) == b"y"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", world.ports["a"])
        writer.close()
        going.close()

    assert any(line.startswith("ended user=ada") for line in run(test).log)


def test_a_user_has_bounds_that_others_do_not_feel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_USER", Bounds(each=2, all=99, burst=99, rate=99.0))

    async def test(world: World, port: int) -> None:
        await world.relay.have([endpoint("a", port), endpoint("b", port, "bob")])
        held = [await asyncio.open_connection("127.0.0.1", world.ports["a"]) for _ in range(2)]
        for reader, writer in held:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert await world.ask("a") == b""
        assert await world.ask("b") == b"hello"
        held[0][1].close()
        while world.relay.connections > 1:
            await asyncio.sleep(0.01)
        assert await world.ask("a") == b"hello"
        held[1][1].close()

    log = run(test).log
    assert [line for line in log if line.startswith("refused")] == [
        line for line in log if "refused user=ada" in line and line.endswith("it has 2 open connections")
    ]
    assert len([line for line in log if line.startswith("refused")]) == 1


def test_a_node_that_is_not_there_and_an_address_that_cannot_be_had() -> None:
    async def test(world: World, port: int) -> None:
        del port
        with socket.create_server(("127.0.0.1", 0)) as gone:
            free = gone.getsockname()[1]
        await world.relay.have([endpoint("a", free), endpoint("taken", 22)])
        assert await world.ask("a") == b""

    log = run(test).log
    assert any("target=hpc-controller:22 cannot be offered: Address already in use" in line for line in log)
    assert any(line.startswith("failed (") for line in log)


def test_the_list_of_addresses_survives_its_way() -> None:
    listed = (endpoint("a", 22), endpoint("b", 6443, "bob"))
    assert endpoints_from(line_of(listed)) == listed
