"""The one way to stdout and stderr: data on stdout, all else on stderr; with `--json` pure JSON, errors included.

Whatever is printed comes through here, so that no control character of a driver, guest or file reaches the terminal, a
character that the terminal's encoding lacks is replaced, and an output that cannot be written is an error in words.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import select
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

import click

from emulator.cli.wrapping import wrapped
from emulator.core.errors import CommandError, HyperscalerError, UsageError
from emulator.core.units import LINE_LIMIT, printable

_state = {"json": False}

_ASCII = str.maketrans(
    {
        **dict.fromkeys("─━═–—·•", "-"),
        **dict.fromkeys("│┃║", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝", "+"),
        **dict.fromkeys("█▓▒░", "#"),
        "…": ".",
        "✓": "+",
        "✗": "x",
        "→": ">",
        "\N{REPLACEMENT CHARACTER}": "?",
    }
)
"""Characters that the program itself draws with -> one of ASCII of the same width."""
_FALLBACK = "hyperscaler-ascii"


_SHORT = 80
"""Characters of a part of a line that is never cut."""

READER_LEFT = 141
"""Exit code when the reader of stdout had enough, as a shell gives it for a program that SIGPIPE ended."""


class OutputError(HyperscalerError):
    """stdout is full or closed, so that what was asked for could not be printed."""


class ReaderLeftError(OutputError):
    """Who read stdout has closed it, as `head` does: nothing is wrong, and nobody is there to read about it."""


@dataclass(frozen=True, slots=True)
class Styled:
    """Text with a colour of click's and weight; both are left out where the output is no terminal. What is `whole` is
    not broken into lines: a command that is there to be copied."""

    text: str
    colour: str | None = None
    bold: bool = False
    whole: bool = False


# ------------------------------------------------------------------------------------------------------- streams
def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, whatever they are; to be called before anything opens a file.

    A standard stream that the caller closed would otherwise be None, and the next file that is opened (a journal) would
    get its number, and with it what other programs print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one. stdout is opened for reading only: a write to it has to fail.
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    codecs.register_error(_FALLBACK, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_FALLBACK)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that the stream's encoding lacks: a sign of the same shape, else `\\xe4`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def draws_boxes(stream: TextIO) -> bool:
    """Whether the stream's encoding has the characters that pictures are drawn with."""
    try:
        "─│█✓".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads the stream: colours, and tables that fit its width."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def finish_streams() -> None:
    """See to it that all that was printed is out; to be called last. What cannot be written is dropped, so that the
    interpreter does not complain of it after us.

    Raises:
        OutputError: it cannot be written.
    """
    write("")


def reader_left() -> bool:
    """Whether stdout is a pipe or a connection whose reader is gone."""
    ends = select.poll()
    try:
        ends.register(sys.stdout.fileno(), 0)  # poll reports errors and ends without being asked for them
    except (OSError, ValueError):  # closed
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in ends.poll(0))


def write(text: str, *, err: bool = False) -> None:
    """Write text that is safe to write: rendered by rich or `say`.

    Raises:
        ReaderLeftError: the reader of stdout closed it.
        OutputError: stdout is full or closed. What goes to stderr is lost then, and nothing else: progress that cannot
            be shown is no reason to stop the work.
    """
    stream = sys.stderr if err else sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        _abandon(stream)
        if isinstance(error, BrokenPipeError) and not err:
            raise ReaderLeftError("the reader of the output has closed it") from error
        if not err:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "it is closed"
            raise OutputError(f"the output cannot be written: {why}") from error


def _abandon(stream: TextIO) -> None:
    """Send what the stream still holds, and all that follows, nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


# ---------------------------------------------------------------------------------------------------------- text
def say(*parts: str | Styled, err: bool = False, nl: bool = True, wrap: bool | None = None) -> None:
    """Print a line of these parts, without control characters; line breaks stay.

    Args:
        parts: of the line.
        err: to stderr instead of stdout.
        nl: end the line.
        wrap: break lines between words where they are longer than the terminal; by default what goes to stderr, which
            is for people. Elsewhere than on a terminal no line is ever broken.

    Raises:
        OutputError: stdout is full or closed.
    """
    terminal = is_terminal(sys.stderr if err else sys.stdout)
    styled = terminal and not os.environ.get("NO_COLOR")
    made = [Styled(part) if isinstance(part, str) else part for part in parts]
    # The long ones share what a line may have.
    limit = LINE_LIMIT // max(1, sum(len(part.text) > _SHORT for part in made))
    texts = [printable(part.text, line_limit=limit) for part in made]
    if terminal and (err if wrap is None else wrap):
        width = shutil.get_terminal_size((80, 24)).columns
        lines = wrapped(texts, width, [part.whole for part in made])
        text = "\n".join(
            "".join(_shown(made[number], piece, styled=styled) for number, piece in line) for line in lines
        )
    else:
        text = "".join(_shown(part, text, styled=styled) for part, text in zip(made, texts, strict=True))
    write(text + ("\n" if nl else ""), err=err)


def _shown(part: Styled, text: str, *, styled: bool) -> str:
    plain = part.colour is None and not part.bold
    return click.style(text, fg=part.colour, bold=part.bold or None) if styled and not plain else text


# ---------------------------------------------------------------------------------------------------------- JSON
def json_option(function: Any) -> Any:
    """`--json`: pure JSON on stdout."""

    def remember(_ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        _state["json"] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, is_eager=True, help="Print JSON on stdout."
    )(function)


def print_json(data: Mapping[str, Any] | list[Any]) -> None:
    """JSON in ASCII: it reads the same whatever the encoding.

    Raises:
        OutputError: stdout is full or closed.
    """
    write(json.dumps(data, indent=2) + "\n")


# -------------------------------------------------------------------------------------------------------- errors
def print_usage_error(error: click.UsageError, words: Sequence[str]) -> None:
    """What the parser refused, in the form that `words`, the command line, asks for: the options are not read yet."""
    ours = words[: words.index("--")] if "--" in words else words
    if "--json" not in ours:
        text = io.StringIO()
        error.show(file=text)
        say(text.getvalue(), err=True, nl=False)
        return
    _state["json"] = True
    command = error.ctx.command_path if error.ctx else "hyperscaler"
    print_error(UsageError(error.format_message(), fix=f"{command} --help"))


def print_error(error: HyperscalerError | str) -> None:
    """The error in the form that the caller asked for; as text where that form cannot be written."""
    if isinstance(error, str):
        error = HyperscalerError(error)
    if _state["json"] and not isinstance(error, OutputError):
        with suppress(OutputError):
            print_json({"error": error.to_json(), **error.details})
            return
    where = Styled(error.where, whole=isinstance(error, CommandError))
    say(Styled("error:", "red", bold=True), " ", where, ": " if error.where else "", error.what, err=True)
    if error.fix:
        say(f"  fix: {error.fix}", err=True)
