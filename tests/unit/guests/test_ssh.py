"""ssh: command lines, configuration files, and host keys from hostile consoles."""

from __future__ import annotations

import base64
import stat
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from emulator.core.errors import CommandTimeoutError, HyperscalerError
from emulator.core.ports import GuestAddress
from emulator.credentials.ssh_config import ssh_config
from emulator.guests.ssh import OpenSshShell, host_keys_from_console, write_known_hosts
from tests.support.fake_runner import FakeRunner, Say

GUEST = GuestAddress("hpc-controller", IPv4Address("192.168.100.10"), "root")
PREFIX = ("ip", "netns", "exec", "hs-demo")


def public_key(algorithm: str = "ssh-ed25519", fill: int = 7) -> str:
    name = algorithm.encode()
    blob = len(name).to_bytes(4, "big") + name + (32).to_bytes(4, "big") + bytes([fill]) * 32
    return base64.b64encode(blob).decode()


KEY = public_key()


def runner_that_says(status: int | None) -> FakeRunner:
    """ssh ends with this status, or not in time."""
    return FakeRunner({"": CommandTimeoutError("too slow") if status is None else Say("out", "err", status)})


@pytest.mark.parametrize(("returncode", "ready"), [(0, True), (255, False), (1, False), (None, False)])
def test_ready(returncode: int | None, ready: bool) -> None:
    runner = runner_that_says(returncode)
    assert OpenSshShell(Path("/k"), Path("/h"), PREFIX, runner).ready(GUEST, timeout=3) is ready
    assert "ConnectTimeout=3" in runner.calls[0]


def test_the_command_line_trusts_only_the_labs_own_files() -> None:
    runner = runner_that_says(0)
    OpenSshShell(Path("/lab/key"), Path("/lab/kh"), PREFIX, runner).run(GUEST, "id; -x", timeout=60)
    argv = runner.calls[0]
    assert argv[:7] == (*PREFIX, "ssh", "-F", "none")
    for option in (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        'UserKnownHostsFile="/lab/kh"',
        "GlobalKnownHostsFile=/dev/null",
        'IdentityFile="/lab/key"',
        "IdentityAgent=none",
        "HostKeyAlias=hpc-controller",
        "ConnectTimeout=30",
    ):
        assert argv[argv.index(option) - 1] == "-o"
    assert argv[-5:] == ("-l", "root", "--", "192.168.100.10", "id; -x")


@pytest.mark.parametrize("name", ["-oProxyCommand=id", "a b", "a\nb", ""])
def test_names_that_ssh_would_misread_are_refused(name: str) -> None:
    guest = GuestAddress(name, GUEST.ip, "root")
    with pytest.raises(HyperscalerError):
        OpenSshShell(Path("/k"), Path("/h"), (), runner_that_says(0)).run(guest, "id", timeout=1)
    with pytest.raises(HyperscalerError):
        ssh_config([guest], key=Path("/k"), known_hosts=Path("/h"), guest_prefix=())


def effective(config: str, host: str, directory: Path) -> dict[str, str]:
    """What ssh itself makes of the file."""
    file = directory / "config"
    file.write_text(config)
    done = subprocess.run(["ssh", "-G", "-F", file, host], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("host", ["hpc-controller", "192.168.100.10"])
def test_ssh_understands_the_configuration(host: str, tmp_path: Path) -> None:
    key, known_hosts = tmp_path / "a b%h" / "key", tmp_path / "a b%h" / "known_hosts"
    settings = effective(ssh_config([GUEST], key=key, known_hosts=known_hosts, guest_prefix=PREFIX), host, tmp_path)
    assert settings["hostname"] == "192.168.100.10"
    assert settings["hostkeyalias"] == "hpc-controller"
    assert settings["user"] == "root"
    assert settings["stricthostkeychecking"] in ("true", "yes")
    assert settings["proxycommand"] == "ip netns exec hs-demo nc -F %h %p"
    assert settings["proxyusefdpass"] == "yes"
    assert "a b%" in settings["identityfile"]


def test_without_a_namespace_there_is_no_proxy(tmp_path: Path) -> None:
    text = ssh_config([GUEST], key=Path("/k"), known_hosts=Path("/h"), guest_prefix=())
    assert "proxycommand" not in effective(text, "hpc-controller", tmp_path)


def test_a_path_that_cannot_be_quoted_is_refused() -> None:
    with pytest.raises(HyperscalerError, match="cannot express"):
        ssh_config([GUEST], key=Path('/a"b'), known_hosts=Path("/h"), guest_prefix=())


def line(key: str, algorithm: str = "ssh-ed25519") -> str:
    return f"hyperscaler-host-key: {algorithm} {key}\n"


def test_the_last_key_on_the_console_counts() -> None:
    old = public_key(fill=1)
    text = f"noise\r\n{line(old)}\x1b[0mmore\n[   12.345678] {line(KEY)}login: "
    assert host_keys_from_console(text) == (f"ssh-ed25519 {KEY}",)
    assert host_keys_from_console(f"hostkey[77]: {line(KEY)}".replace("\n", "\r\n")) == (f"ssh-ed25519 {KEY}",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        line(KEY[:-4]),
        line(KEY[:-1] + "!"),
        line(KEY, "ssh-rsa"),
        line(KEY, "ssh-dss"),
        line(public_key("ssh-ed25518")),
        line(KEY).replace("\n", " evil\n"),
        "x" + line(KEY),
        line(KEY).replace("ssh-ed25519 ", "ssh-ed25519\t"),
        "hyperscaler-host-key: ssh-ed25519 " + "A" * 5_000_000,
        "hyperscaler-host-key: * ssh-ed25519 " + KEY,
    ],
)
def test_anything_else_on_the_console_is_no_key(text: str) -> None:
    assert host_keys_from_console(text) == ()


def test_known_hosts_are_replaced_at_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "ssh" / "known_hosts"
    write_known_hosts(path, {"b": [f"ssh-ed25519 {KEY}"], "a": [f"ssh-ed25519 {KEY}"]})
    assert path.read_text() == f"a ssh-ed25519 {KEY}\nb ssh-ed25519 {KEY}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_known_hosts(path, {})
    assert path.read_text() == ""
    assert [entry.name for entry in path.parent.iterdir()] == ["known_hosts"]


@pytest.mark.parametrize(
    ("name", "key"), [("a b", f"ssh-ed25519 {KEY}"), ("a", f"ssh-ed25519 {KEY}\n@cert-authority"), ("a", "x")]
)
def test_known_hosts_refuse_lines_that_would_break_out(name: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(HyperscalerError):
        write_known_hosts(tmp_path / "known_hosts", {name: [key]})
    assert not (tmp_path / "known_hosts").exists()
