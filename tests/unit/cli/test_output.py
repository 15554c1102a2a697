"""Output survives whatever it goes to: a terminal without UTF-8, a full disk, a closed stdout, a reader that left."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

from emulator.cli import main as entry
from emulator.cli import output
from emulator.cli.main import VERBS
from emulator.cli.output import OutputError, Styled, draws_boxes, print_error, say, write
from emulator.core.data_files import share_dir
from emulator.core.errors import HyperscalerError
from tests.support import host_trees
from tests.support.program import LoadedProgram, loaded_program, started
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(share_dir() / "config" / "demo.yaml")
PRODUCTION = str(share_dir() / "config" / "production.yaml")
QUESTION = ("gpu", "plan", "--gpu", "A100-SXM4-80GB", "--demand", "1g.10gb=2")

Done = subprocess.CompletedProcess[bytes]
Sink = Callable[[Callable[..., Done], Sequence[str]], Done]

# Verbs that print something without a lab and without a change of the host; TREE is a recorded host.
PRINTING: tuple[tuple[str, ...], ...] = (
    ("--help",),
    ("--version",),
    ("validate", DEMO),
    ("validate", "--json", DEMO),
    ("status",),
    ("status", "--json"),
    ("history",),
    ("history", "--json"),
    QUESTION,
    (*QUESTION, "--json"),
    ("gpu", "plan", PRODUCTION),
    ("gpu", "discover", DEMO),
    ("gpu", "discover", "--json", DEMO),
    ("image", "list"),
    ("image", "list", "--json"),
    ("image", "gc"),
    ("host", "check", "--root", "TREE"),
    ("host", "check", "--root", "TREE", "--json"),
    ("host", "prepare", "--dry-run"),
    ("host", "prepare", "--dry-run", "--json"),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return host_trees.plant(tmp_path_factory.mktemp("host"), "intel")


@pytest.fixture(scope="module")
def loaded() -> Iterator[LoadedProgram]:
    with loaded_program() as program:
        yield program


class Program:
    """The program on a recorded host, with a home of its own: `run` it loaded, or `start` it as a user does."""

    def __init__(self, loaded: LoadedProgram, home: Path, tree: Path) -> None:
        self._loaded, self._home, self._tree = loaded, home, tree

    def run(self, words: Sequence[str], **given: Any) -> Done:
        return self._by(self._loaded.run, words, **given)

    def start(self, words: Sequence[str], **given: Any) -> Done:
        return self._by(started, words, **given)

    def _by(
        self,
        call: Callable[..., Done],
        words: Sequence[str],
        *,
        stdout: int = subprocess.PIPE,
        closed: Sequence[int] = (),
        **environment: str,
    ) -> Done:
        named = [str(self._tree) if word == "TREE" else word for word in words]
        home = {"HYPERSCALER_HOME": str(self._home)}
        return call(named, stdout=stdout, closed=closed, environment={**home, **environment})


@pytest.fixture
def program(loaded: LoadedProgram, tmp_path: Path, tree: Path) -> Program:
    return Program(loaded, tmp_path, tree)


# -------------------------------------------------------------------------------------------- full, closed, left
def into_full_disk(call: Callable[..., Done], words: Sequence[str]) -> Done:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        return call(words, stdout=full)
    finally:
        os.close(full)


def into_nothing(call: Callable[..., Done], words: Sequence[str]) -> Done:
    return call(words, closed=[1])


def into_left_pipe(call: Callable[..., Done], words: Sequence[str]) -> Done:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return call(words, stdout=writing)
    finally:
        os.close(writing)


SINKS: Mapping[str, Sink] = {
    "No space left on device": into_full_disk,
    "Bad file descriptor": into_nothing,
}


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
@pytest.mark.parametrize("why", SINKS)
def test_an_output_that_cannot_be_written_is_one_line(why: str, words: tuple[str, ...], program: Program) -> None:
    require_one_line(SINKS[why](program.run, words), why)


@pytest.mark.parametrize("why", SINKS)
def test_the_same_of_a_program_that_is_started(why: str, program: Program) -> None:
    require_one_line(SINKS[why](program.start, QUESTION), why)


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_reader_that_left_ends_the_output_in_silence(words: tuple[str, ...], program: Program) -> None:
    require_silence(into_left_pipe(program.run, words))


@pytest.mark.parametrize("words", [("--help",), ("validate", "--json", DEMO), QUESTION], ids=" ".join)
def test_the_same_of_a_reader_of_a_program_that_is_started(words: tuple[str, ...], program: Program) -> None:
    require_silence(into_left_pipe(program.start, words))


def require_silence(done: Done) -> None:
    """As the shell has it of a program that SIGPIPE ended."""
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith("warning:")]
    assert (done.returncode, said) == (141, [])


def test_an_error_keeps_its_code_when_the_reader_has_left(program: Program) -> None:
    assert into_left_pipe(program.run, ("status", "--json", "absent")).returncode == 2


def test_a_pipe_that_is_not_our_output_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """click takes every broken pipe for that of stdout, and would end without a word."""

    @click.command()
    def verb() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(entry, "cli", verb)
    monkeypatch.setitem(output._state, "json", False)  # whatever a test before this one asked for
    monkeypatch.setattr(sys, "argv", ["hyperscaler"])
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 1
    assert "error: Broken pipe: a program that was talked to has ended" in capfd.readouterr().err


def require_one_line(done: Done, why: str) -> None:
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(why)
    assert done.returncode == 1


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_into_a_full_disk(verb: str, program: Program) -> None:
    done = into_full_disk(program.run, (verb, "--help"))
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


def test_an_error_that_cannot_be_written_as_json_is_text(program: Program) -> None:
    done = into_full_disk(program.start, ("validate", "--json", "--nonsense"))
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: No such option")
    assert b"Traceback" not in done.stderr


def test_with_stdout_and_stderr_closed_the_code_is_all_there_is(program: Program) -> None:
    done = program.start(("status",), closed=[1, 2])
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_full_stderr_does_not_stop_the_work(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "emulator.cli.main", *QUESTION],
            cwd=ROOT,
            env={**os.environ, "HYPERSCALER_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 0
    assert b"A100" in done.stdout


def test_closed_streams_are_never_the_number_of_a_file(tmp_path: Path, tree: Path) -> None:
    """Otherwise the first file that is opened would be stdout to all that print."""
    code = (
        "import os, sys; from emulator.cli.output import prepare_streams; prepare_streams();"
        "file = open(sys.argv[1], 'w'); print('progress', file=sys.stderr); sys.exit(10 + file.fileno())"
    )
    target = tmp_path / "journal"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=ROOT,
        close_fds=True,
        preexec_fn=lambda: os.closerange(0, 3),
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode > 12
    assert target.read_bytes() == b""


# ------------------------------------------------------------------------------------------------------ encodings
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_every_encoding_will_do(words: tuple[str, ...], program: Program) -> None:
    wide, narrow = (program.run(words, PYTHONIOENCODING=encoding) for encoding in ("utf-8", "ascii"))
    assert narrow.returncode == wide.returncode
    text = narrow.stdout.decode("ascii")
    if "--json" in words:
        assert narrow.stdout == wide.stdout
        json.loads(text)
    else:
        assert len(text.splitlines()) == len(wide.stdout.decode().splitlines())


def test_a_picture_falls_back_to_ascii(program: Program) -> None:
    done = program.start(QUESTION, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert done.stdout == program.start((*QUESTION, "--ascii")).stdout
    assert done.stdout.isascii()
    assert not program.start(QUESTION, PYTHONIOENCODING="utf-8").stdout.isascii()


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_program_that_is_started_prints_the_same(encoding: str, program: Program) -> None:
    ran, begun = (call(QUESTION, PYTHONIOENCODING=encoding) for call in (program.run, program.start))
    assert (ran.returncode, ran.stdout, ran.stderr) == (begun.returncode, begun.stdout, begun.stderr)


@pytest.mark.parametrize(("name", "encoding"), [("läb", "ascii"), ("лаб", "latin-1"), ("läb", "utf-8")])
def test_json_is_ascii_whatever_the_file_says(name: str, encoding: str, tmp_path: Path, program: Program) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(f'version: "1.0"\nmetadata: {{name: {name}, description: "für Müller"}}\nclusters: {{hpc: {{}}}}\n')
    done = program.run(("validate", "--json", str(file)), PYTHONIOENCODING=encoding)
    assert done.returncode == 3
    assert done.stdout.isascii()
    assert name in str(json.loads(done.stdout))
    text = program.start(("validate", str(file)), PYTHONIOENCODING=encoding)
    assert text.returncode == 3
    assert b"Traceback" not in text.stderr
    text.stderr.decode(encoding)


def test_characters_that_an_encoding_lacks() -> None:
    code = (
        "from emulator.cli.output import prepare_streams, say; prepare_streams(); say('läb ─│┌█ ✓ 𝄞 \\udcff → done …')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"l\\xe4b -|+# + \\U0001d11e ? > done .\n"


@pytest.mark.parametrize(("encoding", "can"), [("utf-8", True), ("latin-1", False), ("ascii", False), ("cp437", False)])
def test_what_can_draw_boxes(encoding: str, can: bool) -> None:
    assert draws_boxes(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is can


# ------------------------------------------------------------------------------------------------------- the sink
def test_control_characters_do_not_get_through(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[31mred\x07\x9b2J\r", Styled("\x1b]0;title\x07", "red"), "\nb")
    say("\x1b[2J", err=True)
    done = capsys.readouterr()
    assert done.out == "a�[31mred��2J��]0;title�\nb\n"
    assert done.err == "�[2J\n"


def test_colours_are_for_terminals_only() -> None:
    parent, child = pty.openpty()
    code = "from emulator.cli.output import *; prepare_streams(); say(Styled('a\\x1b[5m', 'red', bold=True), 'b')"
    seen = {}
    for no_colour in ("", "1"):
        environment = {**os.environ, "NO_COLOR": no_colour}
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=child, check=True, timeout=PATIENCE
        )
        seen[no_colour] = os.read(parent, 4096).decode()
    with suppress(OSError):
        os.close(child)
        os.close(parent)
    assert seen == {"": "\x1b[31m\x1b[1ma�[5m\x1b[0mb\r\n", "1": "a�[5mb\r\n"}


def test_a_closed_stream_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(OutputError, match="the output cannot be written: it is closed"):
        write("x")
    monkeypatch.setattr(sys, "stderr", stream)
    print_error(HyperscalerError("what", where="where", fix="fix"))


def test_nothing_else_in_the_verbs_writes_to_a_stream() -> None:
    for path in sorted((ROOT / "emulator").rglob("*.py")):
        if path.name == "output.py" and path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("print", "click.echo", "click.secho", "print_exc"), f"{path}:{node.lineno}"
                assert not name.startswith(("sys.stdout.write", "sys.stderr.write")), f"{path}:{node.lineno}"
