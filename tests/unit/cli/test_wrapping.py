"""Lines for a terminal: broken between words alone."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.cli.wrapping import wrapped
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[3]


def lines(*texts: str, width: int = 20, whole: tuple[bool, ...] = ()) -> list[str]:
    return ["".join(piece for _, piece in line) for line in wrapped(texts, width, whole)]


def test_words_stay_whole_and_lines_keep_their_beginning() -> None:
    assert lines("error:", " the disk of the node is full\n    a list of its largest files") == [
        "error: the disk of",
        "  the node is full",
        "    a list of its",
        "      largest files",
    ]


def test_what_is_longer_than_a_line_is_left_to_the_terminal() -> None:
    path = "/var/lib/hyperscaler/labs/demo"
    assert lines(f"{path} is no directory of ours") == [path, "  is no directory of", "  ours"]


@pytest.mark.parametrize("indent", ["", "  ", "    "])
def test_a_remedy_is_there_to_be_copied(indent: str) -> None:
    fix = f"{indent}fix: hyperscaler destroy demo --yes && hyperscaler provision demo.yaml"
    assert lines(fix) == [fix]


def test_so_is_the_command_that_failed() -> None:
    command = "ip -n hs-demo link set lo up"
    assert lines("error: ", command, ": the command failed", whole=(False, True)) == [
        "error:",
        f"  {command}:",
        "  the command failed",
    ]


def test_each_piece_knows_its_text() -> None:
    assert wrapped(["error:", " the disk of the node"], 16) == [
        [(0, "error:"), (1, " the")],
        [(1, "  "), (1, "disk of the")],
        [(1, "  "), (1, "node")],
    ]


@given(st.lists(st.text("ab c\n/-:", max_size=60), max_size=4), st.integers(4, 40))
def test_nothing_is_lost_and_no_word_is_broken(texts: list[str], width: int) -> None:
    whole = "".join(texts)
    shown = "\n".join(lines(*texts, width=width))
    assert shown.split() == whole.split()
    assert all(len(line) <= width or len(line.split()) == 1 or "fix:" in line for line in shown.split("\n"))


FAILS = """
from emulator.cli.output import prepare_streams, print_error
from emulator.core.errors import CommandError, ConfigError
prepare_streams()
print_error(ConfigError(
    "the control-plane of this cluster has less memory than kubelet, the API server and etcd need together",
    where="/srv/labs/production.yaml:12:7",
    fix="hyperscaler validate /srv/labs/production.yaml --host --verbose --json",
))
where = "qemu-img create -f qcow2 -b /srv/images/base.qcow2 -F qcow2 /srv/a"
print_error(CommandError("the command failed", where=where))
"""


def at_80_columns(program: str) -> str:
    ours, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        environment = {**os.environ, "NO_COLOR": "1"}
        environment.pop("COLUMNS", None)
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            stdin=its,
            stdout=its,
            stderr=its,
            check=True,
            timeout=PATIENCE,
        )
        return os.read(ours, 65536).decode().replace("\r\n", "\n")
    finally:
        os.close(its)
        os.close(ours)


def test_errors_on_a_terminal_of_80_columns() -> None:
    assert at_80_columns(FAILS).splitlines() == [
        "error: /srv/labs/production.yaml:12:7: the control-plane of this cluster has",
        "  less memory than kubelet, the API server and etcd need together",
        "  fix: hyperscaler validate /srv/labs/production.yaml --host --verbose --json",
        "error: qemu-img create -f qcow2 -b /srv/images/base.qcow2 -F qcow2 /srv/a: the",
        "  command failed",
    ]


def test_elsewhere_no_line_is_broken() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert len(done.stderr.splitlines()) == 3
