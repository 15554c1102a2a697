"""What a command says with its exit code reaches the shell."""

from __future__ import annotations

import re

from emulator.core.data_files import share_dir

CLICKS_ENDING = re.compile(r"exceptions\.Exit|ctx\.exit\(")


def test_no_command_ends_by_an_exception_of_clicks() -> None:
    """`main` runs click without its own ending, which takes such a code for a command's result: the shell sees 0."""
    commands = share_dir() / "emulator" / "cli" / "commands"
    assert list(commands.rglob("exercise.py"))
    assert [file.name for file in commands.rglob("*.py") if CLICKS_ENDING.search(file.read_text())] == []
