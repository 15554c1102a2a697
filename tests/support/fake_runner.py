"""The one double of `ProcessRunner`: it starts nothing, answers from a script and records every call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emulator.adapters.system.process import command_error
from emulator.core.ports import Completed


@dataclass(frozen=True)
class Call:
    """A command as the product asked for it."""

    argv: tuple[str, ...]
    timeout: float = 0.0
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str | None = None
    cwd: Path | None = None


@dataclass(frozen=True)
class Say:
    """The output of a command and its exit status. A negative status stands for a signal, as in `Completed`."""

    stdout: str = ""
    stderr: str = ""
    status: int = 0


Reply = str | Say | None
"""Standard output of a command that ends well, all that a command can leave, or silence."""
Answer = Reply | BaseException | Callable[[Call], Reply]
"""A reply, an error to raise (a timeout, a program that is missing, a stop), or a function that acts as the program."""


class FakeRunner:
    """`ProcessRunner` with answers by the first words of a command.

    The longest beginning that fits answers; a command that fits none fails the test. As with the real runner, an exit
    status other than 0 is a `CommandError` where the caller asks for that (`check`), and each line of output is passed
    to `on_line`.
    """

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self.calls: list[tuple[str, ...]] = []  # the command lines, oldest first, without the wrapper
        self.made: list[Call] = []  # the same with all that was passed
        self._answers: dict[tuple[str, ...], Answer] = {}
        self._wrapper: tuple[str, ...] = ()
        self._lock = threading.Lock()
        for beginning, answer in (answers or {}).items():
            self.on(beginning, answer)

    def on(self, beginning: str, answer: Answer) -> None:
        """Answer commands that begin with these words (separated by blanks); "" stands for every command."""
        self._answers[tuple(beginning.split())] = answer

    def within(self, *wrapper: str) -> None:
        """Ignore these words before a command: a program that runs another one, as `unshare` or `ip netns exec`."""
        self._wrapper = wrapper

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
        call = Call(self._unwrapped(tuple(map(str, argv))), timeout, dict(env or {}), stdin, cwd)
        with self._lock:
            self.calls.append(call.argv)
            self.made.append(call)
        said = self.reply(call)
        done = Completed(call.argv, said.status, said.stdout, said.stderr)
        if on_line is not None:  # both streams are one then
            done = Completed(call.argv, said.status, said.stderr + said.stdout, "")
            for line in done.stdout.splitlines():
                on_line(line)
        if check and done.returncode != 0:
            raise command_error(done)
        return done

    def reply(self, call: Call) -> Say:
        """The answer of the script to a call. Doubles with faults of their own override it."""
        answer = self._answer_to(call.argv)
        if isinstance(answer, BaseException):
            raise answer
        said = answer(call) if callable(answer) else answer
        return said if isinstance(said, Say) else Say(said or "")

    def _unwrapped(self, words: tuple[str, ...]) -> tuple[str, ...]:
        size = len(self._wrapper)
        return words[size:] if size and words[:size] == self._wrapper else words

    def _answer_to(self, words: tuple[str, ...]) -> Answer:
        for size in range(len(words), -1, -1):
            if words[:size] in self._answers:
                return self._answers[words[:size]]
        raise AssertionError(f"nothing is scripted for the command {' '.join(words)!r}")
