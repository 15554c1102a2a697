"""A user that may open a device for a moment, on a file with a real access control list."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from emulator.adapters.embedded import network_namespace
from emulator.adapters.libvirt.device_access import _XATTR, _change, opened_for
from emulator.core.errors import HypervisorError
from emulator.core.ports.guest_accounts import GuestAccount

GUEST, OTHER = GuestAccount(2113929217, 2113929216), GuestAccount(2113929219, 2113929216)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(network_namespace, "_NOTES", tmp_path / "notes")
    path = tmp_path / "kvm"
    path.touch(mode=0o660)
    path.chmod(0o660)
    try:
        os.getxattr(path, _XATTR)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            pytest.skip("this file system has no access control lists")
    return path


def lists(path: Path) -> list[str]:
    return [name for name in os.listxattr(path) if "acl" in name]


def may_open(path: Path, account: GuestAccount) -> bool:
    """Tried by a process of the account."""
    for directory in path.parents[:4]:
        directory.chmod(directory.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            os.close(os.open(path, os.O_RDWR))
            status = 0
        except PermissionError:
            status = 2
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) in (0, 2)
    return os.waitstatus_to_exitcode(ended) == 0


def test_the_entry_is_there_for_the_moment_and_gone_afterwards(device: Path) -> None:
    before = device.stat().st_mode
    with opened_for(GUEST, device):
        assert lists(device)
    assert not lists(device) and device.stat().st_mode == before


def test_a_closed_device_stays_closed_to_its_group(device: Path) -> None:
    """The mask of a list shows as the group's rights, and must not stay."""
    device.chmod(0o600)
    with opened_for(GUEST, device):
        assert stat.S_IMODE(device.stat().st_mode) == 0o660
    assert stat.S_IMODE(device.stat().st_mode) == 0o600 and not lists(device)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_it_lets_in_exactly_that_user(device: Path) -> None:
    assert not may_open(device, GUEST)
    with opened_for(GUEST, device):
        assert may_open(device, GUEST) and not may_open(device, OTHER)
    assert not may_open(device, GUEST)


def test_what_others_have_stays(device: Path) -> None:
    _change(device, OTHER.uid, allowed=True)
    before = os.getxattr(device, _XATTR)
    with opened_for(GUEST, device):
        assert os.getxattr(device, _XATTR) != before
        with opened_for(GuestAccount(1000, 1000), device):
            pass
    assert os.getxattr(device, _XATTR) == before


def test_guests_that_start_at_once_do_not_lose_their_entries(device: Path) -> None:
    seen: list[bool] = []

    def start(number: int) -> None:
        with opened_for(GuestAccount(GUEST.uid + number, GUEST.gid), device):
            seen.append(bool(lists(device)))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 8 and not lists(device) and stat.S_IMODE(device.stat().st_mode) == 0o660


@pytest.mark.parametrize("mode", [0o666, 0o606])
def test_a_device_that_is_open_to_all_is_left_alone(device: Path, mode: int) -> None:
    device.chmod(mode)
    with opened_for(GUEST, device):
        assert not lists(device)


def test_a_device_of_the_account_s_group_is_left_alone(device: Path) -> None:
    with opened_for(GuestAccount(GUEST.uid, device.stat().st_gid), device):
        assert not lists(device)
    device.chmod(0o640)
    with opened_for(GuestAccount(GUEST.uid, device.stat().st_gid), device):
        assert lists(device)


def test_a_host_without_the_device(tmp_path: Path) -> None:
    with opened_for(GUEST, tmp_path / "absent"):
        pass


def test_an_entry_that_a_crash_left_is_taken_away_at_the_next_start(device: Path) -> None:
    _change(device, GUEST.uid, allowed=True)
    with opened_for(GUEST, device):
        pass
    assert not lists(device)


def test_a_guest_that_does_not_start_leaves_no_entry(device: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened_for(GUEST, device):
        raise ZeroDivisionError
    assert not lists(device)


def test_a_device_without_such_lists_is_named(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_words: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("os.setxattr", refused)
    with pytest.raises(HypervisorError, match="not supported") as caught, opened_for(GUEST, device):
        raise AssertionError("unreachable")
    assert caught.value.where == str(device)
