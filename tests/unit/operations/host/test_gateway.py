"""The host's gateway on and off: every step, what is refused, and going on after a crash at any of them."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from emulator.adapters.system.systemd_units import SystemdUnits
from emulator.core.errors import ConflictError, HyperscalerError, ServiceError, StateError, UsageError
from emulator.core.gateway.names import ACCOUNT, UNIT
from emulator.core.paths import Home
from emulator.core.progress import SilentReporter
from emulator.operations.host import gateway as module
from emulator.operations.host.gateway import (
    GatewayHost,
    GatewaySettings,
    disable_gateway,
    enable_gateway,
    open_door,
    unit_text,
)
from emulator.operations.host.program import Program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a gateway")
PROGRAM, QUIET = Program(Path("/usr/bin/true")), SilentReporter()
SETTINGS = GatewaySettings("gpu.example.org", 2222)


class CrashError(HyperscalerError):
    pass


class Machine:
    """Accounts, a namespace and a supervisor in memory; files in a directory. It dies at the `fails`-th effect."""

    def __init__(self, root: Path) -> None:
        self.accounts: dict[str, SimpleNamespace] = {}
        self.namespace = self.foreign = self.stubborn = False
        self.running = 0
        self.services: dict[str, Any] = {}
        self.effects: list[str] = []
        self.fails = -1
        (root / "units").mkdir()
        self.root = root
        self.host = GatewayHost(
            home=Home(root / "home"),
            locks=root / "locks",
            runner=cast(Any, self),
            units=SystemdUnits(cast(Any, self), root / "units", root / "no-systemd"),
            supervisor=cast(Any, SimpleNamespace(ensure=self._start, remove=self._end, services=tuple)),
            namespace=cast(
                Any, SimpleNamespace(ensure=self._make, is_ours=lambda: self.namespace, delete=self._unmake)
            ),
            place=root / "place",
            end_user=self._kill,
        )

    def _effect(self, name: str) -> None:
        if len(self.effects) == self.fails:
            self.fails = -1
            raise CrashError(name)
        self.effects.append(name)

    def run(self, argv: list[str], *, timeout: float) -> None:
        del timeout
        self._effect(argv[0])
        if argv[0] == "useradd":
            self.accounts[argv[-1]] = SimpleNamespace(pw_uid=990, pw_shell="/usr/sbin/nologin", pw_dir="/nonexistent")
        elif argv[0] == "userdel":
            assert not self.running, "user is currently used by process"
            del self.accounts[argv[-1]]
        else:
            Path(argv[-1]).write_text("private")
            Path(f"{argv[-1]}.pub").write_text("ssh-ed25519 AAAAkey hyperscaler gateway\n")

    def _make(self, *, adopt: bool) -> None:
        assert not adopt
        if self.foreign:
            raise ConflictError("a foreign network namespace exists")
        self._effect("netns add")
        self.namespace = True

    def _unmake(self) -> None:
        self._effect("netns del")
        self.namespace = False

    def _start(self, request: Any) -> None:
        self._effect("start")
        self.services[request.name] = request
        (self.root / "place" / "labs").mkdir(parents=True, exist_ok=True)

    def _end(self, name: str) -> None:
        self._effect("end")
        self.services.pop(name, None)

    def _kill(self, uid: int) -> bool:
        assert uid == 990
        self.running = self.running if self.stubborn else 0
        return not self.running

    def passwd(self, name: str) -> SimpleNamespace:
        return self.accounts[name]

    def left(self) -> set[str]:
        """What there is of a gateway, its host key aside."""
        files = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        found = {name for name in files if not name.startswith(("locks/", "home/gateway/host_key", "home/audit"))}
        found |= set(self.accounts) | set(self.services) | ({"netns"} if self.namespace else set())
        return found | ({"place"} if (self.root / "place").exists() else set())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(pwd, "getpwnam", made.passwd)
    monkeypatch.setattr(module, "require_roots_places", lambda *_places, **_words: None)
    return made


def test_on_and_off(machine: Machine) -> None:
    done = enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
    assert done.started_with_host
    assert done.door == open_door(machine.host.home)
    assert (done.door.address, done.door.port, done.door.host_key) == ("gpu.example.org", 2222, "ssh-ed25519 AAAAkey")
    assert machine.services["gateway-front"].arguments[-4:] == (
        "--host-key",
        str(machine.host.key),
        "--place",
        str(machine.host.place),
    )
    assert (machine.root / "units" / UNIT).read_text() == unit_text(SETTINGS, PROGRAM.path)
    assert disable_gateway(machine.host, QUIET)
    assert machine.left() == set()
    assert machine.host.key.is_file(), "users have its public half"
    assert open_door(machine.host.home) is None
    assert not disable_gateway(machine.host, QUIET)
    log = [json.loads(line) for line in machine.host.home.audit.read_text().splitlines()]
    begun = [entry["command"] for entry in log if entry["event"] == "begin"]
    assert begun == ["host enable-gateway", "host disable-gateway", "host disable-gateway"]
    assert {entry["result"] for entry in log if entry["event"] == "end"} == {"done"}


def test_a_crash_at_any_step_is_gone_on_from_in_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "require_roots_places", lambda *_places, **_words: None)
    for command, steps in (("enable", 4), ("disable", 3)):
        for number in range(steps):
            for direction in ("enable", "disable"):
                root = tmp_path / f"{command}-{number}-{direction}"
                root.mkdir()
                machine = Machine(root)
                monkeypatch.setattr(pwd, "getpwnam", machine.passwd)
                if command == "disable":
                    enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
                machine.fails = len(machine.effects) + number
                with pytest.raises(CrashError):
                    run(command, machine)
                run(direction, machine)
                if direction == "disable":
                    assert machine.left() == set(), root.name
                else:
                    assert machine.left() >= {ACCOUNT, "netns", "gateway-front", f"units/{UNIT}"}, root.name


def run(command: str, machine: Machine) -> None:
    if command == "enable":
        enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
    else:
        disable_gateway(machine.host, QUIET)


def test_what_belongs_to_others_is_left_alone(machine: Machine) -> None:
    machine.accounts[ACCOUNT] = SimpleNamespace(pw_uid=1000, pw_shell="/bin/bash", pw_dir="/home/x")
    with pytest.raises(ConflictError, match="another account"):
        enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
    disable_gateway(machine.host, QUIET)
    assert ACCOUNT in machine.accounts
    machine.accounts.clear()
    machine.foreign = True
    with pytest.raises(ConflictError, match="foreign network namespace"):
        enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
    machine.foreign = False
    (machine.root / "units" / UNIT).write_text("[Unit]\nDescription=mine\n")
    for command in ("enable", "disable"):
        with pytest.raises(ConflictError, match="is not the gateway's"):
            run(command, machine)


@pytest.mark.parametrize(
    "settings",
    [
        GatewaySettings("a b", 2222),
        GatewaySettings("x\nProxyCommand sh", 2222),
        GatewaySettings("", 2222),
        GatewaySettings("h", 0),
        GatewaySettings("h", 65536),
        GatewaySettings("h", 2222, "not-an-address"),
    ],
)
def test_settings_that_cannot_be_used_change_nothing(machine: Machine, settings: GatewaySettings) -> None:
    with pytest.raises(UsageError):
        enable_gateway(machine.host, settings, PROGRAM, QUIET)
    assert machine.left() == set()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"address": "x y", "port": 1, "listen": ""}', "[" * 100000])
def test_a_damaged_record_is_named(machine: Machine, text: str) -> None:
    enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
    machine.host.record.write_text(text)
    with pytest.raises(StateError, match="record of the host's gateway is damaged"):
        open_door(machine.host.home)
    enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
    assert open_door(machine.host.home) is not None
    assert json.loads(machine.host.record.read_text())["version"] == 1


def test_relays_that_run_do_not_keep_the_account(machine: Machine) -> None:
    enable_gateway(machine.host, SETTINGS, PROGRAM, QUIET)
    machine.running, machine.stubborn = 2, True
    with pytest.raises(ServiceError, match="does not end"):
        disable_gateway(machine.host, QUIET)
    machine.stubborn = False
    disable_gateway(machine.host, QUIET)
    assert machine.left() == set()
