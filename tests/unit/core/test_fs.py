"""Files that are whole or not there, whatever an attacker planted and whatever the disk does; private directories."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.apply.gpu_ownership import GpuLedger
from emulator.core.errors import ConflictError, StateError
from emulator.core.fs import (
    append_line,
    finished_name,
    mounts_below,
    private_directory,
    publish_tree,
    remove_tree,
    remove_unfinished,
    replace_file,
    replace_link,
    replacing,
    sync,
    unfinished,
    write_new,
    write_private,
    write_whole,
)
from tests.support.lossy_disk import LossyDisk

Write = Callable[[Path, bytes], None]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory such as /tmp."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


# ------------------------------------------------------------------------------------------------------ writing
def test_a_shared_directory_stays_open(shared: Path) -> None:
    (shared / "kc").write_text("old, and readable by all")
    write_whole(shared / "kc", b"secret")
    assert (shared / "kc").read_bytes() == b"secret"
    assert (mode(shared / "kc"), mode(shared)) == (0o600, 0o1777)
    assert [path.name for path in shared.iterdir()] == ["kc"]


def test_a_directory_of_our_own_is_made_and_closed(shared: Path) -> None:
    write_private(shared / "lab" / "key", b"secret")
    assert (mode(shared / "lab" / "key"), mode(shared / "lab"), mode(shared)) == (0o600, 0o700, 0o1777)


def test_the_ledger_does_not_close_the_home_around_it(shared: Path) -> None:
    ledger = GpuLedger(shared / "gpu-owners.json", boot_id=lambda: "boot")
    ledger.claim("0000:41:00.0", "demo")
    assert ledger.of("demo") == ("0000:41:00.0",)
    assert (mode(shared / "gpu-owners.json"), mode(shared)) == (0o600, 0o1777)


def test_without_a_directory_nothing_is_made(shared: Path) -> None:
    with pytest.raises(StateError, match="cannot be written: No such file or directory"):
        write_whole(shared / "missing" / "kc", b"secret")
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("wanted", [0o400, 0o444, 0o600, 0o644, 0o755])
@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_the_mode_is_exact_whatever_the_umask(shared: Path, wanted: int, mask: int) -> None:
    before = os.umask(mask)
    try:
        replace_file(shared / "f", b"x", mode=wanted)
    finally:
        os.umask(before)
    assert mode(shared / "f") == wanted


def test_while_it_is_written_nobody_else_can_read_it(shared: Path) -> None:
    with replacing(shared / "f", mode=0o644) as file:
        file.write(b"x")
        file.flush()
        assert [(finished_name(path.name), mode(path)) for path in shared.iterdir()] == [("f", 0o600)]
        assert not (shared / "f").exists()
    assert mode(shared / "f") == 0o644


def test_owner_and_time_are_set_before_it_has_its_name(shared: Path) -> None:
    replace_file(shared / "f", b"x", owner=(os.geteuid(), os.getegid()), mtime_ns=1_000_000_000)
    status = (shared / "f").stat()
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (os.geteuid(), os.getegid(), 1_000_000_000)


def test_an_error_in_the_block_leaves_what_was_there(shared: Path) -> None:
    (shared / "f").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(shared / "f") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (shared / "f").read_text() == "old"
    assert [path.name for path in shared.iterdir()] == ["f"]


def test_what_a_killed_run_left_is_replaced(shared: Path) -> None:
    unfinished(shared / "f").write_bytes(b"half")
    write_whole(shared / "f", b"whole")
    assert [(path.name, path.read_bytes()) for path in shared.iterdir()] == [("f", b"whole")]


def test_a_reader_sees_the_old_or_the_new_file(shared: Path) -> None:
    path, done = shared / "f", threading.Event()
    write_whole(path, b"0" * 4096)
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            content = path.read_bytes()
            seen.add(content[:1] if content == content[:1] * 4096 else b"torn")

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        write_whole(path, b"%d" % (number % 10) * 4096)
    done.set()
    reader.join()
    assert b"torn" not in seen
    assert seen


@pytest.mark.parametrize(("before", "after"), [(b"", b"new\n"), (b"a\n", b"a\nnew\n"), (b"torn", b"torn\nnew\n")])
def test_a_line_is_appended_and_torn_ones_stay_apart(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(before)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    append_line(descriptor, b"new\n")
    os.close(descriptor)
    assert path.read_bytes() == after


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "log", os.write
    path.write_bytes(b"old\n")
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda number, line: write(number, line[: len(line) // 2]))
        with pytest.raises(OSError, match="No space left on device"):
            append_line(descriptor, b"a long line\n")
    os.close(descriptor)
    assert path.read_bytes() == b"old\n"


# ----------------------------------------------------------------------------------------------------- power loss
@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a simulated host, in which a lossy disk watches what the program writes."""
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


def lost_after(root: Path, write: Callable[[], None]) -> dict[str, bytes | None]:
    """What is on the disk after a power loss that follows `write` at once."""
    disk = LossyDisk(root)
    with disk.watched():
        write()
        return {name: content for name, (_, content) in disk.lost().items()}


def test_what_was_written_survives_a_power_loss(tmp_path: Path, home: Path) -> None:
    assert lost_after(tmp_path, lambda: write_whole(home / "f", b"x"))["home/f"] == b"x"


def test_a_new_directory_with_its_file_survives_a_power_loss(tmp_path: Path, home: Path) -> None:
    left = lost_after(tmp_path, lambda: write_private(home / "a" / "b" / "f", b"x"))
    assert (left["home/a/b"], left["home/a/b/f"]) == (None, b"x")


def test_the_loss_would_be_seen(tmp_path: Path, home: Path) -> None:
    def careless() -> None:
        (home / "f").write_bytes(b"x")

    assert "home/f" not in lost_after(tmp_path, careless)


# ------------------------------------------------------------------------------------------------------- attacks
@pytest.fixture(params=[write_whole, replace_file, write_private], ids=lambda write: write.__name__)
def write(request: pytest.FixtureRequest) -> Write:
    found: Write = request.param
    return found


@pytest.mark.parametrize("name", ["kc", ".kc.new"])
def test_a_planted_link_is_not_written_through(shared: Path, tmp_path: Path, write: Write, name: str) -> None:
    other = tmp_path / "other"
    other.write_text("not ours")
    (shared / name).symlink_to(other)
    write(shared / "kc", b"secret")
    assert other.read_text() == "not ours"
    assert not (shared / "kc").is_symlink()
    assert (shared / "kc").read_bytes() == b"secret"


def test_a_planted_hard_link_is_not_written_through(shared: Path, tmp_path: Path, write: Write) -> None:
    other = tmp_path / "other"
    other.write_text("not ours")
    for name in ("kc", ".kc.new"):
        os.link(other, shared / name)
    write(shared / "kc", b"secret")
    assert other.read_text() == "not ours"
    assert (mode(other), other.stat().st_nlink) == (0o644, 1)


def test_a_planted_fifo_does_not_hold_us_up(shared: Path, write: Write) -> None:
    for name in ("kc", ".kc.new"):
        os.mkfifo(shared / name)
    write(shared / "kc", b"secret")
    assert (shared / "kc").read_bytes() == b"secret"


def test_a_link_planted_just_before_the_file_is_made_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who guesses the temporary name."""
    other, really = tmp_path / "other", os.open

    def planting(path: str | Path, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        if flags & os.O_EXCL:
            os.symlink(other, path, dir_fd=dir_fd)
        return really(path, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", planting)
    with pytest.raises(StateError, match="cannot be written: File exists"):
        write_whole(shared / "kc", b"secret")
    assert not other.exists()
    assert not (shared / "kc").exists()


def test_a_directory_in_the_place_is_an_error_and_stays(shared: Path) -> None:
    (shared / "kc").mkdir()
    with pytest.raises(StateError, match="cannot be written: Is a directory"):
        write_whole(shared / "kc", b"secret")
    assert [path.name for path in shared.iterdir()] == ["kc"]


def test_a_directory_with_the_name_of_a_left_over_stays_and_is_in_nobody_s_way(shared: Path) -> None:
    (shared / ".kc.new").mkdir()
    write_whole(shared / "kc", b"secret")
    assert sorted(path.name for path in shared.iterdir()) == [".kc.new", "kc"]


# --------------------------------------------------------------------------------------------- several at a time
def test_of_two_writers_at_a_time_each_has_a_file_of_its_own(shared: Path) -> None:
    with replacing(shared / "f") as first:
        first.write(b"first")
        with replacing(shared / "f") as second:
            second.write(b"second")
        assert (shared / "f").read_bytes() == b"second"
        first.write(b", and still whole")
    assert (shared / "f").read_bytes() == b"first, and still whole"
    assert [path.name for path in shared.iterdir()] == ["f"]


WRITE_SLOWLY = """
import sys
from pathlib import Path
from emulator.core.fs import replacing
with replacing(Path(sys.argv[1])) as file:
    print("begun", flush=True)
    sys.stdin.readline()
    file.write(b"of the other process")
"""


@pytest.fixture
def other_writer(shared: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write `f`, and goes on when it gets a line."""
    argv = [sys.executable, "-c", WRITE_SLOWLY, str(shared / "f")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_a_writer_in_another_process_is_not_disturbed(shared: Path, other_writer: subprocess.Popen[str]) -> None:
    write_whole(shared / "f", b"of this one")
    remove_unfinished(shared / "f")
    other_writer.communicate("go on\n")
    assert other_writer.returncode == 0
    assert (shared / "f").read_bytes() == b"of the other process"
    assert [path.name for path in shared.iterdir()] == ["f"]


def test_what_a_killed_writer_left_goes_with_the_next_one(shared: Path, other_writer: subprocess.Popen[str]) -> None:
    other_writer.kill()
    other_writer.wait()
    assert [finished_name(path.name) for path in shared.iterdir()] == ["f"]
    write_whole(shared / "g", b"another file")
    assert len(list(shared.iterdir())) == 2
    write_whole(shared / "f", b"whole")
    assert sorted(path.name for path in shared.iterdir()) == ["f", "g"]


def test_a_process_that_got_the_id_of_a_killed_writer_keeps_nothing(shared: Path) -> None:
    (shared / f".f.{os.getppid()}-1-0.new").write_bytes(b"of a process that started in the first tick")
    remove_unfinished(shared / "f")
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "finished"),
    [(".f.new", "f"), (".f.12-345-0.new", "f"), (".f.12-345.new", "f.12-345"), ("f.new", None), (".new", None)],
)
def test_unfinished_files_are_known_by_their_names(name: str, finished: str | None) -> None:
    assert finished_name(name) == finished


def test_a_link_to_a_directory_is_replaced_and_not_entered(shared: Path, tmp_path: Path, write: Write) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (shared / "kc").symlink_to(inside)
    write(shared / "kc", b"secret")
    assert not (shared / "kc").is_symlink()
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize("call", ["open", "fchmod", "fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(shared: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (shared / "kc").write_text("old")

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StateError, match="cannot be written: No space left on device") as caught:
            write_whole(shared / "kc", b"new")
    assert caught.value.where == str(shared / "kc")
    assert caught.value.fix.startswith("free space on that file system")
    assert [(path.name, path.read_text()) for path in shared.iterdir()] == [("kc", "old")]


def test_a_file_system_without_space_is_an_error_in_words(shared: Path) -> None:
    """A real ENOSPC, and the block's own: `/dev/full` takes no byte."""
    with pytest.raises(OSError, match="No space left") as caught, replacing(shared / "kc") as file:
        os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
        file.write(b"x")
    assert caught.value.errno == errno.ENOSPC
    assert list(shared.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_we_may_not_write_to(shared: Path) -> None:
    shared.chmod(0o500)
    with pytest.raises(StateError, match="cannot be written: Permission denied"):
        write_whole(shared / "kc", b"secret")


def test_a_refused_write_is_an_error_in_words(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object, **_options: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(StateError, match="cannot be written: Permission denied"):
            write_whole(shared / "kc", b"secret")


def test_a_new_file_is_only_made_where_nothing_is(shared: Path, tmp_path: Path) -> None:
    write_new(shared / "f", "secret")
    assert (mode(shared / "f"), (shared / "f").read_text()) == (0o600, "secret")
    (shared / "link").symlink_to(tmp_path / "other")
    for taken in ("f", "link"):
        with pytest.raises(FileExistsError):
            write_new(shared / taken, "again")
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------------------------------------- directories
def test_a_planted_link_is_no_private_directory(shared: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    (shared / "lab").symlink_to(other)
    with pytest.raises(StateError, match="not a directory of our own"):
        private_directory(shared / "lab")
    assert mode(other) == 0o755


def test_a_file_is_no_private_directory(shared: Path) -> None:
    (shared / "lab").write_text("")
    with pytest.raises(StateError, match="a file is in the place of a directory"):
        private_directory(shared / "lab")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
def test_a_directory_of_another_account_is_not_ours(shared: Path) -> None:
    (shared / "lab").mkdir()
    os.chown(shared / "lab", 65534, 65534)
    with pytest.raises(StateError, match="not a directory of our own"):
        write_private(shared / "lab" / "key", b"secret")
    assert list((shared / "lab").iterdir()) == []


@pytest.mark.parametrize(("start", "end"), [(0o777, 0o700), (0o710, 0o710), (0o755, 0o700), (0o707, 0o700), (0, 0o700)])
def test_a_directory_of_ours_is_closed_but_for_the_way_of_its_group(shared: Path, start: int, end: int) -> None:
    (shared / "lab").mkdir()
    (shared / "lab").chmod(start)
    private_directory(shared / "lab")
    assert mode(shared / "lab") == end


# ---------------------------------------------------------------------------------------------- links and trees
def test_a_link_is_changed_in_one_step(tmp_path: Path) -> None:
    for target in ("one", "two"):
        replace_link(tmp_path / "current", target)
        assert (tmp_path / "current").readlink() == Path(target)
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_a_link_does_not_take_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_link(tmp_path / "current", "one")
    assert (tmp_path / "current").is_dir()


def test_a_tree_gets_its_name_in_one_step_and_replaces_nothing(tmp_path: Path) -> None:
    stage, final = tmp_path / "stage", tmp_path / "final"
    (stage / "below").mkdir(parents=True)
    publish_tree(stage, final)
    assert (final / "below").is_dir()
    stage.mkdir()
    with pytest.raises(OSError, match="not empty"):
        publish_tree(stage, final)
    assert (final / "below").is_dir()


def test_a_tree_is_removed_but_not_what_its_links_lead_to(tmp_path: Path) -> None:
    other, tree = tmp_path / "other", tmp_path / "tree"
    other.mkdir()
    tree.mkdir()
    (tree / "link").symlink_to(other)
    (tmp_path / "entry").symlink_to(other)
    for path in (tree, tmp_path / "entry", tmp_path / "missing"):
        remove_tree(path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_nothing_is_removed_through_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "a tree"
    (tree / "dev").mkdir(parents=True)
    read_text = Path.read_text

    def mounted(path: Path, encoding: str | None = None) -> str:
        if path != Path("/proc/self/mountinfo"):
            return read_text(path, encoding)
        point = str(tree / "dev").replace(" ", r"\040")
        return f"36 35 98:0 / {point} rw,noatime master:1 - ext3 /dev/root rw\n"

    monkeypatch.setattr(Path, "read_text", mounted)
    with pytest.raises(ConflictError, match="something is mounted") as caught:
        remove_tree(tree)
    assert caught.value.fix == f"umount {tree / 'dev'}"
    assert (tree / "dev").is_dir()


def test_mounts_of_a_neighbour_whose_name_begins_the_same_are_not_below() -> None:
    text = "36 35 98:0 / /srv/labs/demo rw - ext3 /dev/root rw\n37 35 98:0 / /srv/labs2 rw - ext3 /dev/root rw\ntorn\n"
    assert list(mounts_below(Path("/srv/labs"), text)) == [Path("/srv/labs/demo")]


def test_a_sync_of_what_is_missing_is_an_error_and_of_a_fifo_no_wait(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "fifo")
