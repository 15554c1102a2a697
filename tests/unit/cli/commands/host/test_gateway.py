"""`host enable-gateway` and `disable-gateway` as a user reads them."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from emulator import wiring
from emulator.cli.commands.host.host import command
from emulator.core.gateway.names import Door
from emulator.operations.host import gateway
from emulator.operations.host.gateway import Enabled, GatewaySettings


@pytest.mark.parametrize("systemd", [True, False])
def test_what_users_need_is_said(monkeypatch: pytest.MonkeyPatch, *, systemd: bool) -> None:
    asked: list[GatewaySettings] = []

    def enable(_host: object, settings: GatewaySettings, _program: object, _reporter: object) -> Enabled:
        asked.append(settings)
        return Enabled(Door(settings.address, settings.port, "ssh-ed25519 AAAAkey"), systemd)

    monkeypatch.setattr(wiring, "gateway_of_host", lambda: None)
    monkeypatch.setattr(gateway, "enable_gateway", enable)
    monkeypatch.setattr(socket, "getfqdn", lambda: "gpu.example.org")
    done = CliRunner().invoke(command, ["enable-gateway"])
    assert done.exit_code == 0, done.output
    assert asked == [GatewaySettings("gpu.example.org", 2222, "")]
    assert "users find it at gpu.example.org, port 2222" in done.output
    assert "ssh-ed25519 AAAAkey" in done.output
    assert ("after a reboot" in done.output) is not systemd
    CliRunner().invoke(command, ["enable-gateway", "--address", "h", "--port", "22", "--listen", "192.0.2.1"])
    assert asked[-1] == GatewaySettings("h", 22, "192.0.2.1")


@pytest.mark.parametrize(("there", "words"), [(True, "The gateway is off."), (False, "There was no gateway.")])
def test_off_says_whether_there_was_one(monkeypatch: pytest.MonkeyPatch, *, there: bool, words: str) -> None:
    monkeypatch.setattr(wiring, "gateway_of_host", lambda: None)
    monkeypatch.setattr(gateway, "disable_gateway", lambda _host, _reporter: there)
    assert CliRunner().invoke(command, ["disable-gateway"]).output == f"{words}\n"
