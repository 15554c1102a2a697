"""What `--help` prints: whole sentences that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from emulator.cli.main import cli


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    context = click.Context(group)
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, verb))
        else:
            yield (*path, verb)


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_help_fits_a_terminal_and_cuts_nothing_off(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80)
    assert done.exit_code == 0
    usage, *lines = done.output.splitlines()
    assert max(map(len, [usage, *lines])) <= 80
    assert not [line for line in lines if line.endswith("...")]
