"""The host's gateway against what others may put where it reads, and against what users may be called.

The attacks with real ssh are in `tests/host/test_gateway.py`.
"""

from __future__ import annotations

import os
import stat
import time
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from emulator.core.errors import HyperscalerError, ServiceError, StateError
from emulator.core.gateway.names import Door, Target, endpoint
from emulator.credentials.gateway import OpenLab
from emulator.credentials.gateway_config import GatewayWay, gateway_config
from emulator.credentials.users import AccessBook, AccessRole
from emulator.services.gateway.account import require_roots_directory
from emulator.services.gateway.keys import KeysFile, keys_directory, keys_files, keys_path, sweep
from emulator.services.gateway.lab import LabPart

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other accounts")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMdP0g3ZqkK0V0m7o0cX3m4tq1mB0yQWb6dTQw7d0aaa"
OTHER = KEY.replace("aaa", "bbb")
AUTHORITY = "ssh-ed25519 AAAAauthority"
NODE, HEAD = IPv4Address("192.168.100.10"), IPv4Address("192.168.200.10")
TARGETS = (
    Target("hpc-controller", NODE, 22),
    Target("cloud-control-plane", HEAD, 22),
    Target("cloud-control-plane", HEAD, 6443, shared=True),
)
LAB = OpenLab("home", "demo", (AUTHORITY,), TARGETS)


def book(expires: int = 2000) -> AccessBook:
    return AccessBook().granted("ada", AccessRole.STUDENT, public_key=KEY, expires=expires, nodes=("hpc-controller",))


def test_a_line_names_each_certificate_and_each_address() -> None:
    (line,) = LAB.authorized_keys(book(), now=1000.0).splitlines()
    login, api = (endpoint("home", "demo", "ada", node) for node in ("hpc-controller", "cloud-control-plane"))
    assert line == (
        f'cert-authority,restrict,port-forwarding,principals="gateway/demo/ada/1",permitopen="[{login}]:22",'
        f'permitopen="[{api}]:6443" {AUTHORITY} demo'
    )


def test_ended_and_revoked_certificates_have_no_line_and_a_new_one_does_not_bring_them_back() -> None:
    assert LAB.authorized_keys(book(), now=2000.0) == ""
    revoked = book().without("ada")
    assert LAB.authorized_keys(revoked, now=1000.0) == ""
    assert LAB.endpoints(revoked) == ()
    again = revoked.granted("ada", AccessRole.STUDENT, public_key=OTHER, expires=3000)
    assert 'principals="gateway/demo/ada/2"' in LAB.authorized_keys(again, now=1000.0)


def test_a_lab_without_an_authority_lets_nobody_in() -> None:
    assert OpenLab("home", "demo", (), TARGETS).authorized_keys(book(), now=1000.0) == ""


def test_addresses_of_users_nodes_labs_and_homes_differ_and_have_one_spelling() -> None:
    cases = [(h, lab, u, n) for h in "ab" for lab in ("x", "y") for u in ("ada", "bob") for n in ("n1", "n2")]
    found = [endpoint(*case) for case in cases]
    assert len(set(found)) == len(cases)
    # Parts do not run into each other.
    assert endpoint("h", "ab", "c", "n") != endpoint("h", "a", "bc", "n")
    for address in found:
        assert str(address) == address.exploded
        assert ip_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "own:x", "own:x=1.2.3.4", "x:x=1.2.3.4:22", "own:x=1.2.3.4:0", "all:=1.2.3.4:1"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(StateError):
        Target.parse(text)
    assert [Target.parse(str(each)) for each in TARGETS] == list(TARGETS)


@pytest.mark.parametrize("name", ["a\n    ProxyCommand sh", "-oProxyCommand=x", "a b", "%h", ""])
def test_a_hostile_name_cannot_get_into_the_configuration(name: str) -> None:
    address = endpoint("h", "demo", "ada", "n")
    door = Door("gw.example.org", 2222, "ssh-ed25519 AAAA")
    for bad in (
        GatewayWay("demo", door, "~/.ssh/x", name, (("n", address),)),
        GatewayWay("demo", door, "~/.ssh/x", "ada", ((name, address),)),
        GatewayWay("demo", Door(name, 2222, "k"), "~/.ssh/x", "ada", (("n", address),)),
    ):
        with pytest.raises(HyperscalerError):
            gateway_config(bad)


def test_the_configuration_holds_no_command() -> None:
    door, address = Door("2001:db8::7", 2222, "k"), endpoint("h", "demo", "ada", "n")
    text = gateway_config(GatewayWay("demo", door, "~/.ssh/x", "ada", (("n", address),), ((6443, address),)))
    words = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert not words & {"ProxyCommand", "LocalCommand", "Match", "PermitLocalCommand", "KnownHostsCommand"}
    assert "    HostName 2001:db8::7\n" in text


# ---------------------------------------------------------------- what lies where the gateway reads
@pytest.fixture
def place(tmp_path: Path) -> Path:
    keys_directory(tmp_path / "gw").mkdir(parents=True)
    return tmp_path / "gw"


def test_a_link_among_the_keys_is_not_read(place: Path, tmp_path: Path) -> None:
    (tmp_path / "planted").write_text("ssh-ed25519 AAAA\n")
    (keys_directory(place) / "x.keys").symlink_to(tmp_path / "planted")
    assert keys_files(place) == []


@ROOT_ONLY
def test_a_directory_of_others_or_open_to_them_is_refused(place: Path, tmp_path: Path) -> None:
    require_roots_directory(place)
    place.chmod(0o777)
    with pytest.raises(ServiceError, match="others than root"):
        require_roots_directory(place)
    place.chmod(0o755)
    os.chown(place, 12345, -1)
    with pytest.raises(ServiceError, match="others than root"):
        require_roots_directory(place)
    os.chown(place, 0, -1)
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(ServiceError, match="others than root"):
        require_roots_directory(tmp_path / "link")
    with pytest.raises(ServiceError, match="is off"):
        require_roots_directory(tmp_path / "absent")


@ROOT_ONLY
def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_text("kept")
    path = keys_path(place, "home", "demo")
    path.symlink_to(target)
    with KeysFile(place, "home", "demo", gid=54321) as keys:
        keys.write("line\n")
        assert not path.is_symlink()
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 54321, 0o640)
    assert target.read_text() == "kept"
    assert list(keys_directory(place).iterdir()) == []


@ROOT_ONLY
def test_what_a_killed_process_left_is_swept_and_what_a_living_one_keeps_is_not(place: Path) -> None:
    keys_path(place, "home", "dead").write_text("line\n")
    with KeysFile(place, "home", "demo", gid=0) as keys:
        keys.write("line\n")
        sweep(place)
        assert keys_files(place) == [keys_path(place, "home", "demo")]
        with pytest.raises(ServiceError, match="another process"), KeysFile(place, "home", "demo", gid=0):
            pass
    assert list(keys_directory(place).iterdir()) == []


class Relay:
    """The control connection, as far as it is used."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def sendall(self, line: bytes) -> None:
        self.lines.append(line)


@ROOT_ONLY
def test_a_list_of_users_that_cannot_be_read_opens_nothing(place: Path) -> None:
    relay, damaged = Relay(), False

    def wanted(now: float) -> tuple[tuple[object, ...], str]:
        if damaged:
            raise StateError("the list of the lab's users is damaged")
        return LAB.endpoints(book()), LAB.authorized_keys(book(), now)

    with KeysFile(place, "home", "demo", gid=0) as keys:
        part = LabPart(wanted, keys, relay)  # type: ignore[arg-type]
        part.look(1000.0)
        assert "gateway/demo/ada/1" in keys_path(place, "home", "demo").read_text()
        assert part.text == "1 user may come in by the host's gateway"
        part.look(1001.0)
        assert len(relay.lines) == 1, "nothing has changed"
        damaged = True
        part.look(time.time())
        assert keys_path(place, "home", "demo").read_text() == ""
        assert relay.lines[-1] == b"[]\n"
        assert "damaged" in part.text
