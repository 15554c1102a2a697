"""What verbs print: data on stdout, everything else on stderr; with `--json` pure JSON, errors included."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from emulator.core.errors import HyperscalerError, UsageError
from emulator.core.units import printable

_state = {"json": False}


def json_option(function: Any) -> Any:
    """`--json`: pure JSON on stdout."""

    def remember(_ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        _state["json"] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, is_eager=True, help="Print JSON on stdout."
    )(function)


def print_usage_error(error: click.UsageError, words: Sequence[str]) -> None:
    """What the parser refused, in the form that `words`, the command line, asks for: the options are not read yet."""
    ours = words[: words.index("--")] if "--" in words else words
    if "--json" not in ours:
        error.show()
        return
    _state["json"] = True
    command = error.ctx.command_path if error.ctx else "hyperscaler"
    print_error(UsageError(error.format_message(), fix=f"{command} --help"))


def print_json(data: Mapping[str, Any] | list[Any]) -> None:
    """JSON in ASCII: it survives every locale, and nothing in its strings reaches the terminal as it is."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")
    sys.stdout.flush()


def print_error(error: HyperscalerError | str) -> None:
    """The error in the form that the caller asked for."""
    if isinstance(error, str):
        error = HyperscalerError(error)
    if _state["json"]:
        print_json({"error": error.to_json(), **error.details})
        return
    styled = sys.stderr.isatty()
    head = click.style("error:", fg="red", bold=True) if styled else "error:"
    where = f"{error.where}: " if error.where else ""
    click.echo(f"{head} {printable(f'{where}{error.what}')}", err=True)
    if error.fix:
        click.echo(f"  fix: {printable(error.fix)}", err=True)
