"""hyperscaler ssh LAB NODE [-- CMD]"""

from __future__ import annotations

import os

import click

from emulator.cli.options import lab_argument


@click.command("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@lab_argument
@click.argument("node")
@click.argument("command_line", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
def command(lab: str, node: str, command_line: tuple[str, ...]) -> None:
    """Open a shell on NODE of LAB, or run CMD there. The host key is checked; the exit code is CMD's."""
    from emulator.operations.connect import ssh_argv
    from emulator.wiring import real_environment

    # Options end at NODE, so click hands the customary `--` on as a word.
    words = command_line[1:] if command_line[:1] == ("--",) else command_line
    argv = ssh_argv(real_environment(), lab, node, words)
    os.execvp(argv[0], argv)  # noqa: S606  the terminal belongs to ssh from here on
