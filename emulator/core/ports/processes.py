"""The port to host commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished process. `stdout` and `stderr` are decoded as UTF-8 with replacement."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class ProcessRunner(Protocol):
    """Runs host commands. No shell, ever."""

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `argv` until it exits. A command that prints without end is ended with an error, whatever `check` says.

        Args:
            argv: program and arguments.
            timeout: seconds; then the whole process group is killed, unless it still uses the processor.
            check: raise `CommandError` on a non-zero exit status.
            env: variables added to the environment (never a secret in argv: pass it here or on stdin).
            stdin: text fed to the process; otherwise its standard input is empty.
            on_line: called with each line of combined output as it appears; stdout is then also returned.
        """
        ...
