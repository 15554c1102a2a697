"""What the namespaces of all labs share on a host: one lab's end must not pull it from under another's start."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.adapters.embedded import network_namespace
from emulator.adapters.embedded.network_namespace import NetworkNamespace, shared_notes
from emulator.core.errors import ConflictError
from tests.support.fake_runner import Call, FakeRunner, Say
from tests.support.waiting import PATIENCE


class Host(FakeRunner):
    """`ip` and `umount` with their rules; a namespace is a file in the directory, which is a mount or is not."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.names = root / "netns"
        self.mounted = False
        self.log: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}

    def reply(self, call: Call) -> Say:
        words = list(call.argv)
        action = " ".join(words[1:4]) if words[1] == "netns" else words[0]
        if words[0] == "umount" or words[1] == "netns":
            self.before.pop(action, lambda: None)()
            self.log.append(action)
        if words[1:3] in (["netns", "add"], ["netns", "attach"]):
            self.names.mkdir(exist_ok=True)
            self.mounted = True
            (self.names / words[3]).touch()
        elif words[1:3] == ["netns", "del"]:
            (self.names / words[3]).unlink()
        elif words[0] == "umount":
            if any(self.names.iterdir()):
                return Say(stderr="busy", status=32)
            self.mounted = False
        return Say()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(network_namespace, "NETNS_DIRECTORY", host.names)
    monkeypatch.setattr(network_namespace, "_NOTES", tmp_path / "notes")
    monkeypatch.setattr(network_namespace, "_MOUNT_NOTE", tmp_path / "notes" / "netns-mount")
    monkeypatch.setattr(network_namespace, "_is_mount", lambda path: host.mounted)
    monkeypatch.setattr(NetworkNamespace, "inode", lambda self: 1 if self.path.exists() else None)
    return host


def namespace(host: Host, name: str) -> NetworkNamespace:
    return NetworkNamespace(name, name, host)


def test_the_last_one_takes_the_mount_and_the_notes_with_it(host: Host) -> None:
    first, second = namespace(host, "hs-a"), namespace(host, "hs-b")
    first.ensure(adopt=True)
    second.ensure(adopt=True)
    first.delete()
    assert host.mounted and (network_namespace._NOTES / "netns-mount").exists()
    second.delete()
    assert not (host.mounted or host.names.exists() or network_namespace._NOTES.exists())


def test_a_namespace_is_not_made_while_another_lab_removes_the_mount(host: Host) -> None:
    ending, starting = namespace(host, "hs-a"), namespace(host, "hs-b")
    ending.ensure(adopt=True)
    thread = threading.Thread(target=lambda: starting.ensure(adopt=True))

    def begin() -> None:
        thread.start()
        thread.join(0.3)  # time enough to get in between, if anything let it

    host.before["umount"] = begin
    ending.delete()
    thread.join(PATIENCE)
    assert host.log[-2:] == ["umount", "netns add hs-b"]
    assert host.mounted and starting.path.exists()
    assert (network_namespace._NOTES / "netns-mount").exists(), "the second one knows that the mount is ours"


def test_a_mount_of_others_stays(host: Host) -> None:
    host.names.mkdir()
    host.mounted = True
    mine = namespace(host, "hs-a")
    mine.ensure(adopt=True)
    mine.delete()
    assert host.mounted and not network_namespace._NOTES.exists()


def test_notes_that_their_last_holder_removed_are_made_anew(host: Host) -> None:
    inside = threading.Event()
    seen: list[int] = []

    def hold() -> None:
        with shared_notes() as directory:
            seen.append(directory.stat().st_ino)
            inside.set()
            threading.Event().wait(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(PATIENCE)
    with shared_notes() as directory:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        (directory / "note").touch()
        assert directory.stat().st_mode & 0o777 == 0o700
    assert (network_namespace._NOTES / "note").exists()


def test_the_wait_for_another_lab_ends_and_names_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_namespace, "_LOCK_SECONDS", 0.05)
    with shared_notes(), pytest.raises(ConflictError, match=f"held by process {os.getpid()} "):
        namespace(host, "hs-a").ensure(adopt=True)
    assert host.log == []
