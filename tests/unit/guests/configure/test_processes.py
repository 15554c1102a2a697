"""Which processes belong to a run: from a process table made of files, and real ones that hide as ssh's masters do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator.guests.configure.processes import (
    RUN_TAG,
    control_directory,
    end_leftovers,
    end_run,
    search_for_left,
    search_for_run,
)

UNIX = "Num       RefCount Protocol Flags    Type St Inode Path\n"


def process(
    proc: Path, pid: int, environ: bytes = b"", cmdline: bytes = b"", sockets: dict[int, str] | None = None
) -> None:
    entry = proc / str(pid)
    for directory in ("fd", "ns", "net"):
        (entry / directory).mkdir(parents=True)
    (entry / "environ").write_bytes(environ)
    (entry / "cmdline").write_bytes(cmdline)
    (entry / "ns" / "net").write_bytes(b"")
    lines = [f"0000: 00000002 00000000 00010000 0001 01 {inode} {path}\n" for inode, path in (sockets or {}).items()]
    (entry / "net" / "unix").write_text(UNIX + "".join(lines))
    for number, inode in enumerate(sockets or {}):
        (entry / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


def test_tag_or_control_socket_and_nothing_else(tmp_path: Path) -> None:
    control = Path("/lab/ansible/hpc/cp")
    process(tmp_path, 11, b"PATH=/bin\0HYPERSCALER_RUN=mine\0")
    process(tmp_path, 12, b"HYPERSCALER_RUN=mine-too\0")
    process(tmp_path, 13, sockets={1013: "/lab/ansible/hpc/cp/0123456789.abcdefghijklmnop"})
    process(tmp_path, 14, sockets={1014: "/lab/ansible/hpc/cp-other/x"})
    process(tmp_path, os.getpid(), b"HYPERSCALER_RUN=mine\0")
    (tmp_path / "15").mkdir()  # ended while we looked
    (tmp_path / "self").mkdir()
    assert sorted(search_for_run("mine", control, proc=tmp_path).processes()) == [11, 13]


def test_what_a_process_says_in_its_arguments_is_nothing(tmp_path: Path) -> None:
    control = Path("/lab/ansible/hpc/cp")
    process(tmp_path, 11, b"PATH=/bin\0", b"ssh: /lab/ansible/hpc/cp/0123456789 [mux]\0")
    process(tmp_path, 12, b"NOTE=HYPERSCALER_RUN=mine\0", b"HYPERSCALER_RUN=mine\0/lab/ansible/hpc/cp/x\0")
    process(tmp_path, 13, sockets={})
    (tmp_path / "13" / "net" / "unix").write_text(f"{UNIX}0: 2 0 0 1 1 99 /lab/ansible/hpc/cp/of-another-process\n")
    assert search_for_run("mine", control, proc=tmp_path).processes() == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
def test_another_user_s_process_is_never_of_a_run(tmp_path: Path) -> None:
    process(tmp_path, 11, b"HYPERSCALER_RUN=mine\0")
    os.chown(tmp_path / "11", 12345, 12345)
    assert search_for_run("mine", Path("/lab/cp"), proc=tmp_path).processes() == ()


def test_what_is_left_of_any_run_in_a_directory(tmp_path: Path) -> None:
    directory = Path("/lab/ansible/hpc")
    process(tmp_path, 11, b"PATH=/bin\0HOME=/lab/ansible/hpc\0HYPERSCALER_RUN=one\0")
    process(tmp_path, 12, b"HOME=/lab/ansible/hpc2\0")
    process(tmp_path, 13, b"HOME=/root\0", sockets={1013: "/lab/ansible/hpc/cp/0123456789"})
    process(tmp_path, 14, b"HOME=/root\0", b"less\0/lab/ansible/hpc/cp/inventory.yaml\0")
    assert sorted(search_for_left(directory, proc=tmp_path).processes()) == [11, 13]


MASTER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""
"""Like one of ssh's masters: no environment, and nothing to know it by but its socket."""


@contextmanager
def master(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", MASTER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process
        process.kill()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hs-", dir="/tmp") as name:
        yield Path(name)


def test_a_master_is_ended_by_its_socket(short: Path) -> None:
    (short / "cp").mkdir()
    (short / "other").mkdir()
    with master(short / "cp" / "0123456789") as mine, master(short / "other" / "0123456789") as another:
        assert end_run("no-such-tag", short / "cp") == {mine.pid}
        assert mine.wait() != 0
        assert another.poll() is None


def test_a_master_of_a_killed_run_with_a_long_path_is_found(short: Path, tmp_path: Path) -> None:
    lab = tmp_path / ("x" * 100)
    lab.mkdir()
    (lab / "cp").symlink_to(short)
    with master(short / "0123456789") as left:
        assert control_directory(lab) == short
        assert end_leftovers(lab) == {left.pid}
        assert left.wait() != 0


def test_who_only_talks_about_a_run_lives_on(short: Path) -> None:
    """An editor that has the file open, a shell with the path in its arguments, a client with the same path."""
    text = f"{RUN_TAG}=mine {short}/cp/0123456789"
    argv = [sys.executable, "-I", "-c", "import sys; sys.stdin.read()", text]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, env={"NOTE": text}) as process:
        assert end_run("mine", short / "cp") == set()
        assert end_leftovers(short) == set()
        assert process.poll() is None
        process.kill()


def test_our_own_sockets_do_not_make_us_a_victim(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        (short / "cp").mkdir()
        listener.bind(str(short / "cp" / "mine"))
        assert search_for_run("mine", short / "cp").processes() == ()
