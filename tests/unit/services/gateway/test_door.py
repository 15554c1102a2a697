"""The connections of the gateway, with a program in sshd's place that says what it is told to, and waits."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.services.gateway import door as module
from emulator.services.gateway.door import Door
from emulator.services.gateway.keys import keys_directory
from emulator.services.gateway.limits import Bounds

LOGIN = "Accepted publickey for gw from 192.0.2.7 port 5 ssh2: ED25519-CERT SHA256:x ID {who} (serial 3) CA ED25519 y"
PATIENCE = 60


class World:
    def __init__(self, root: Path) -> None:
        self.place, self.log = root, list[str]()
        keys_directory(root).mkdir()
        self.program = root / "sshd"
        # What comes by the connection is its message, one for each line; it ends with the connection.
        self.program.write_text('#!/bin/sh\nwhile read -r line; do printf "%s\\r\\n" "$line" >&2; done\n')
        self.program.chmod(0o755)
        self.door = Door(root, self.program, "gw", self.log.append)
        self.clients: list[socket.socket] = []
        self.now = 0.0

    def open_labs(self, *principals: str) -> None:
        (keys_directory(self.place) / "demo.keys").write_text(f'principals="{",".join(principals)}",permitopen="x"\n')

    def connect(self, message: str = "", address: str = "192.0.2.7") -> socket.socket:
        mine, its = socket.socketpair()
        self.clients.append(mine)
        self.door.take(its, address, self.now)
        if message:
            mine.sendall(f"{message}\n".encode())
        return mine

    def until(self, look: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not look():
            assert time.monotonic() < deadline, self.log
            self.now += 0.01
            self.door.look(self.now)
            time.sleep(0.01)

    def ended(self, client: socket.socket) -> bool:
        client.setblocking(False)
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for client in made.clients:
        client.close()
    made.until(lambda: not made.door.waits_for())


def logged_in(world: World, number: int) -> bool:
    return sum("Accepted publickey" in line for line in world.log) >= number


def test_who_has_not_logged_in_takes_no_place_of_those_who_have(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", Bounds(each=2, all=99, burst=99, rate=9.0))
    world.door = Door(world.place, world.program, "gw", world.log.append)
    world.open_labs("gateway/demo/ada/3")
    first = world.connect(LOGIN.format(who="ada@demo"))
    world.until(lambda: logged_in(world, 1))
    assert len([world.connect() for _ in range(3)]) == 3
    assert [line for line in world.log if line.startswith("refused")] == [
        "refused 192.0.2.7: it has 2 open connections; 1 so far"
    ]
    assert not world.ended(first)


def test_a_user_has_so_many_and_others_have_theirs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGGED_IN", Bounds(each=1, all=99, burst=99, rate=9.0))
    world.door = Door(world.place, world.program, "gw", world.log.append)
    world.open_labs("gateway/demo/ada/3", "gateway/demo/bob/3")
    kept = world.connect(LOGIN.format(who="ada@demo"))
    world.until(lambda: logged_in(world, 1))
    second, other = world.connect(LOGIN.format(who="ada@demo")), world.connect(LOGIN.format(who="bob@demo"))
    world.until(lambda: world.ended(second))
    assert "connection 2 is ended: ada@demo: it has 1 open connections" in world.log
    assert not world.ended(kept)
    assert not world.ended(other)


def test_a_certificate_that_is_named_no_more_loses_its_connection(world: World) -> None:
    world.open_labs("gateway/demo/ada/3", "gateway/demo/bob/3")
    ada, bob, waiting = (
        world.connect(LOGIN.format(who="ada@demo")),
        world.connect(LOGIN.format(who="bob@demo")),
        world.connect("Connection from 192.0.2.7"),
    )
    world.until(lambda: logged_in(world, 2))
    world.open_labs("gateway/demo/bob/3", "gateway/demo/ada/33", "gateway/demo/xada/3")
    world.until(lambda: world.ended(ada))
    assert not world.ended(bob)
    assert not world.ended(waiting)


@pytest.mark.parametrize(
    "message",
    [
        "Invalid user Accepted publickey for gw from 1 port 1 ssh2: X-CERT x ID ada@demo (serial 3) CA ",
        "Accepted publickey for root from 192.0.2.7 port 5 ssh2: ED25519-CERT SHA256:x ID ada@demo (serial 3) CA x",
        "Accepted publickey for gw from 192.0.2.7 port 5 ssh2: ED25519 SHA256:x",
        LOGIN.format(who="ada/../bob@demo"),
    ],
)
def test_what_only_looks_like_a_login_is_none(world: World, message: str) -> None:
    world.open_labs()
    client = world.connect(message)
    world.until(lambda: bool(world.log))
    world.until(lambda: world.now > 3)
    assert not world.ended(client), "it is one on which nobody has logged in"
    assert not [line for line in world.log if "is ended" in line]


def test_a_connection_cannot_fill_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGES", 5)
    world.connect("\n".join("Received request to connect" for _ in range(50)))
    world.until(lambda: len(world.log) >= 5)
    world.until(lambda: world.now > 3)
    assert len(world.log) == 5
    assert world.log[-1].endswith("; no more of it is logged")
