"""Where our own programs that stay running are, and how they are started."""

from __future__ import annotations

import sys
from pathlib import Path

import emulator

ENTRY = Path(emulator.__file__).with_name("services") / "__main__.py"
"""It is started by its path: `python -I` then imports the package that it is in, whatever the environment says."""


def own_command() -> tuple[str, ...]:
    """How our own programs are run, apart from the program's name."""
    return (sys.executable, "-I", str(ENTRY))


def command_of(program: str) -> tuple[str, ...]:
    """A service's program: an absolute path, or the name of one of our own."""
    return (program,) if program.startswith("/") else (*own_command(), program)
