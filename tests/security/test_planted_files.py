"""Another user who may write where root works: planted links, files, pipes and directories lead root nowhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from emulator.adapters.simulated.nvml.store import GpuStore
from emulator.apply.audit import AuditLog
from emulator.apply.journal import Journal
from emulator.apply.lock import exclusive_lock
from emulator.cli.main import cli
from emulator.cli.render.gpu import write_svg
from emulator.cli.render.run_log import run_log
from emulator.core.errors import ConflictError, ExitCode, HyperscalerError, StateError
from emulator.core.fs import replace_file, replace_link, write_whole
from emulator.core.ports import log
from emulator.core.trust.opening import open_directory, open_own
from emulator.core.trust.owners import require_roots
from emulator.images.store.store import ImageStore
from emulator.kubernetes.release.cache_lock import cache_lock
from tests.support.fake_runner import FakeRunner

SOMEBODY = 12345
PRECIOUS = "root:x:0:0\n"
NOTHING = lambda _step, _line: None  # noqa: E731

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of root's that the attacker would like to be written to."""
    path = tmp_path / "passwd"
    path.write_text(PRECIOUS)
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of another user."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    os.chown(directory, SOMEBODY, SOMEBODY)
    return directory


def lock(path: Path) -> None:
    with exclusive_lock(path / "demo.lock", purpose="x"):
        pass


def image_lock(path: Path) -> None:
    with ImageStore(path, FakeRunner()).locked("cloud-base"):
        pass


def image_use_lock(path: Path) -> None:
    with ImageStore(path, FakeRunner()).kept("cloud-base"):
        pass


def kubernetes_lock(path: Path) -> None:
    with cache_lock(path, NOTHING):
        pass


def gpus(path: Path) -> None:
    with GpuStore(path).change():
        pass


def journal(path: Path) -> None:
    Journal(path / "journal.jsonl").append({"event": "note"})


def audit(path: Path) -> None:
    AuditLog(path / "audit.jsonl").append({"id": "1"})


# what opens a file to change it in place, and where the file is
IN_PLACE: dict[str, tuple[Callable[[Path], None], str]] = {
    "lock of a lab": (lock, "demo.lock"),
    "lock of images": (image_lock, "cloud-base/.lock"),
    "lock of images in use": (image_use_lock, "cloud-base/.use.lock"),
    "lock of the Kubernetes cache": (kubernetes_lock, "lock"),
    "lock of simulated GPUs": (gpus, "gpus.lock"),
    "journal": (journal, "journal.jsonl"),
    "audit log": (audit, "audit.jsonl"),
}
in_place = pytest.mark.parametrize(("work", "name"), IN_PLACE.values(), ids=IN_PLACE)


def planted(home: Path, name: str) -> Path:
    place = home / name
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@in_place
def test_a_link_in_the_place_of_a_file(tmp_path: Path, victim: Path, work: Callable[[Path], None], name: str) -> None:
    planted(tmp_path / "home", name).symlink_to(victim)
    with pytest.raises(StateError, match="not a file of hyperscaler's own: it is a symbolic link") as told:
        work(tmp_path / "home")
    assert told.value.where == str(tmp_path / "home" / name)
    assert victim.read_text() == PRECIOUS


@in_place
def test_a_link_to_nothing_makes_nothing(tmp_path: Path, work: Callable[[Path], None], name: str) -> None:
    planted(tmp_path / "home", name).symlink_to(tmp_path / "cron.d")
    with pytest.raises(StateError):
        work(tmp_path / "home")
    assert not (tmp_path / "cron.d").exists()


@in_place
def test_a_second_name_of_a_file_of_root_s(
    tmp_path: Path, victim: Path, work: Callable[[Path], None], name: str
) -> None:
    os.link(victim, planted(tmp_path / "home", name))
    with pytest.raises(StateError, match="hard link"):
        work(tmp_path / "home")
    assert victim.read_text() == PRECIOUS


@in_place
def test_a_file_of_another_user(tmp_path: Path, work: Callable[[Path], None], name: str) -> None:
    place = planted(tmp_path / "home", name)
    place.write_text("held by process 1\n")
    os.chown(place, SOMEBODY, SOMEBODY)
    with pytest.raises(StateError, match=f"it belongs to another user .uid {SOMEBODY}."):
        work(tmp_path / "home")
    assert place.read_text() == "held by process 1\n"


@in_place
def test_a_pipe_holds_nobody_up(tmp_path: Path, work: Callable[[Path], None], name: str) -> None:
    os.mkfifo(planted(tmp_path / "home", name))
    with pytest.raises(StateError, match="it is no regular file"):
        work(tmp_path / "home")


@in_place
def test_a_link_of_another_user_on_the_way(
    tmp_path: Path, theirs: Path, work: Callable[[Path], None], name: str
) -> None:
    """`theirs/home` leads to a directory of root's now, and could lead to another one a moment later."""
    (tmp_path / "real").mkdir()
    planted(tmp_path / "real", name)
    (theirs / "home").symlink_to(tmp_path / "real")
    os.chown(theirs / "home", SOMEBODY, SOMEBODY, follow_symlinks=False)
    with pytest.raises(StateError, match=f"symbolic link there belongs to another user .uid {SOMEBODY}."):
        work(theirs / "home")
    assert not (tmp_path / "real" / name).exists()


def test_the_log_of_a_run_is_not_led_away(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "20260101T000000")
    (tmp_path / "20260101T000000-provision.log").symlink_to(victim)
    with run_log(tmp_path, "provision"):
        log.log(logging.INFO, "x::0:0::/root:/bin/sh")
    assert victim.read_text() == PRECIOUS
    assert "it is a symbolic link" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- output into others' directories
WRITERS: dict[str, Callable[[Path], None]] = {
    "kubeconfig --output": lambda path: write_whole(path, b"secret"),
    "bundle create": lambda path: replace_file(path, b"secret", mode=0o644, ending=".part"),
    "a pointer": lambda path: replace_link(path, "secret"),
    "gpu plan --svg": lambda path: write_svg(path, ()),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@writers
def test_what_is_planted_at_the_place_is_replaced(theirs: Path, victim: Path, write: Callable[[Path], None]) -> None:
    for name in ("out", ".out.new", ".out.part"):
        (theirs / name).symlink_to(victim)
    write(theirs / "out")
    assert victim.read_text() == PRECIOUS
    assert (theirs / "out").lstat().st_uid == 0


@writers
def test_a_directory_that_is_a_link_of_theirs(tmp_path: Path, theirs: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "sudoers.d").mkdir()
    (theirs / "results").symlink_to(tmp_path / "sudoers.d")
    os.chown(theirs / "results", SOMEBODY, SOMEBODY, follow_symlinks=False)
    with pytest.raises(HyperscalerError, match="belongs to another user"):
        write(theirs / "results" / "out")
    assert list((tmp_path / "sudoers.d").iterdir()) == []


def test_links_of_root_s_are_followed(tmp_path: Path) -> None:
    """/var/lib/hyperscaler may be one, to a larger disk; relative, absolute and through other links."""
    (tmp_path / "disk" / "labs").mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(tmp_path / "disk")
    (tmp_path / "relative").symlink_to("absolute")
    (tmp_path / "up").symlink_to("disk/labs/../../relative")
    for name in ("absolute", "relative", "up"):
        write_whole(tmp_path / name / "labs" / name, b"x")
        assert (tmp_path / "disk" / "labs" / name).read_bytes() == b"x"


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_directory(tmp_path / "a" / "x")


def test_no_descriptor_stays_open(tmp_path: Path, victim: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "link").symlink_to(victim)
    for _ in range(20):
        with pytest.raises(StateError):
            open_own(tmp_path / "link", os.O_RDWR)
        with pytest.raises(OSError, match="Not a directory"):
            open_directory(victim)
        os.close(open_own(victim, os.O_RDONLY))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ----------------------------------------------------------------------------------------------- the home directory
@contextmanager
def as_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("HYPERSCALER_HOME", str(home))
        yield


def verb(*words: str) -> HyperscalerError | None:
    result = CliRunner().invoke(cli, words)
    error = result.exception
    assert error is None or isinstance(error, HyperscalerError | SystemExit), error
    return error if isinstance(error, HyperscalerError) else None


@pytest.mark.parametrize("words", [("status",), ("history",), ("destroy", "demo", "--yes"), ("image", "list")])
def test_root_does_not_work_in_a_home_of_another_user(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    with as_home(monkeypatch, theirs):
        error = verb(*words)
    assert isinstance(error, ConflictError)
    assert error.exit_code is ExitCode.CONFLICT
    assert f"{theirs}: this belongs to another user (uid {SOMEBODY})" in error.what
    assert error.where == str(theirs)
    assert f"chown -R root:root {theirs}" in error.fix
    assert list(theirs.iterdir()) == []


def test_root_does_not_work_where_another_user_can_exchange_the_home(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs / "home").mkdir()
    for home in (theirs / "home", theirs / "not there yet"):
        with as_home(monkeypatch, home):
            error = verb("status")
        assert error is not None
        assert str(theirs) in error.what


def test_root_does_not_follow_another_user_s_link_to_its_home(
    tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads to a home of root's now, and to another place the next time that it is resolved."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with as_home(monkeypatch, tmp_path / "link"):
        assert verb("history") is None
        os.chown(tmp_path / "link", SOMEBODY, SOMEBODY, follow_symlinks=False)
        error = verb("history")
    assert error is not None
    assert f"{tmp_path / 'link'}: this belongs to another user" in error.what


def test_a_home_that_all_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)
    with pytest.raises(ConflictError, match="others can write to it"):
        require_roots(tmp_path / "home", what="home directory")
    (tmp_path / "home").chmod(0o710)
    require_roots(tmp_path / "home", what="home directory")
    require_roots(tmp_path / "home" / "below" / "that", what="home directory")


def test_other_users_work_where_they_may(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: SOMEBODY)
    require_roots(theirs, what="home directory")
