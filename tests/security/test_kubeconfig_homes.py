"""The control plane writes a kubeconfig into a home that its user has filled with traps. Real processes and files of a
uid that nobody has: what root would do for the user is what the attacks are after."""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.playbook_modules import load

kubeconfigs = load("roles/k8s_users/files/kubeconfigs.py", "kubeconfigs")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to write as another user")

UID = 58235
TEXT = kubeconfigs.MARK + "{}\n"
SECRET = "of root's alone\n"


@dataclass(frozen=True)
class Place:
    home: Path
    roots: Path
    """A directory of root's, with a file that the user cannot read."""

    @property
    def config(self) -> Path:
        return self.home / ".kube/config"

    def account(self) -> pwd.struct_passwd:
        return pwd.struct_passwd(("eve", "x", UID, UID, "", str(self.home), "/bin/sh"))

    def write(self, seconds: int = 20) -> bool:
        done: bool = kubeconfigs.as_user(
            self.account(), lambda: kubeconfigs.write_config(str(self.home), TEXT), seconds=seconds
        )
        return done


@pytest.fixture
def place() -> Iterator[Place]:
    # Not pytest's own directory, which only root can enter.
    with tempfile.TemporaryDirectory() as root:
        top = Path(root)
        top.chmod(0o711)
        made = Place(top / "eve", top / "roots")
        made.home.mkdir(mode=0o700)
        os.chown(made.home, UID, UID)
        made.roots.mkdir(mode=0o755)
        (made.roots / "secret").write_text(SECRET)
        (made.roots / "secret").chmod(0o600)
        yield made


def test_an_honest_home_gets_its_file(place: Place) -> None:
    assert place.write()
    assert place.config.read_text() == TEXT
    for path, mode in ((place.config, 0o600), (place.config.parent, 0o700)):
        seen = path.stat()
        assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (UID, UID, mode)
    assert place.write(), "a second time"


def link_to_a_file(place: Place) -> None:
    place.config.parent.mkdir()
    place.config.symlink_to(place.roots / "secret")


def link_to_a_new_file(place: Place) -> None:
    place.config.parent.mkdir()
    place.config.symlink_to(place.roots / "planted")


def link_to_a_directory(place: Place) -> None:
    (place.home / ".kube").symlink_to(place.roots)


def link_for_the_temporary_file(place: Place) -> None:
    place.config.parent.mkdir()
    (place.config.parent / ".config.hyperscaler").symlink_to(place.roots / "secret")
    os.lchown(place.config.parent / ".config.hyperscaler", UID, UID)


def pipe(place: Place) -> None:
    place.config.parent.mkdir()
    os.mkfifo(place.config)


def directory(place: Place) -> None:
    place.config.mkdir(parents=True)


def no_rights(place: Place) -> None:
    place.home.chmod(0o500)


@pytest.mark.parametrize(
    "trap",
    [
        link_to_a_file,
        link_to_a_new_file,
        link_to_a_directory,
        link_for_the_temporary_file,
        pipe,
        directory,
        no_rights,
    ],
)
def test_a_trap_in_a_home_reaches_nothing_of_roots(place: Place, trap: Callable[[Place], None]) -> None:
    trap(place)
    if (place.home / ".kube").is_dir() and not (place.home / ".kube").is_symlink():
        os.chown(place.home / ".kube", UID, UID)
    began = time.monotonic()
    place.write(seconds=60)
    assert time.monotonic() - began < 50, "a pipe without a reader is not waited for"
    assert (place.roots / "secret").read_text() == SECRET
    assert sorted(path.name for path in place.roots.iterdir()) == ["secret"]
    assert (place.roots / "secret").stat().st_uid == 0


def test_one_who_makes_the_node_wait_waits_alone(place: Place) -> None:
    began = time.monotonic()
    assert not kubeconfigs.as_user(place.account(), lambda: time.sleep(600), seconds=1)
    assert time.monotonic() - began < 300


def test_one_who_stops_the_process_that_writes_for_them_waits_alone(place: Place) -> None:
    """It runs under their uid, so `kill -STOP -1` in a loop meets it; an alarm does not wake it."""
    began = time.monotonic()
    assert not kubeconfigs.as_user(place.account(), lambda: os.kill(os.getpid(), signal.SIGSTOP), seconds=1)
    assert time.monotonic() - began < 300


def test_who_writes_for_the_user_has_none_of_roots_rights(place: Place) -> None:
    def try_it() -> None:
        (place.roots / "secret").read_text()

    assert not kubeconfigs.as_user(place.account(), try_it)

    def look_at_ids() -> None:
        if os.getresuid() != (UID, UID, UID) or os.getresgid() != (UID, UID, UID) or os.getgroups():
            raise PermissionError

    assert kubeconfigs.as_user(place.account(), look_at_ids)
