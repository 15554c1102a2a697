"""A simulated host with a lab whose guests answer the commands of exercises by the last line of their scripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from emulator.core.errors import HyperscalerError
from emulator.core.ports import Completed, GuestAddress
from emulator.guests.ports import Access
from emulator.lab.environment import Environment
from tests.support.exercise_labs import EXERCISE
from tests.support.simulated_world import LAB, SimulatedHost, lab_text

Answer = Completed | HyperscalerError


def said(stdout: str = "", code: int = 0, stderr: str = "") -> Completed:
    return Completed(("ssh",), code, stdout, stderr)


@dataclass
class ExerciseHost:
    """`answers`: script -> what it comes to; a script without an answer succeeds. `on_run` sees each as it runs."""

    host: SimulatedHost
    exercises: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    on_run: Callable[[str], None] = lambda _script: None

    def __post_init__(self) -> None:
        self.host.provision(self.host.lab_file(lab_text()))
        self.write("own")

    def write(self, name: str, text: str = EXERCISE) -> None:
        (self.exercises / name).mkdir(parents=True, exist_ok=True)
        (self.exercises / name / "exercise.yaml").write_text(text)

    def environment(self) -> Environment:
        env = self.host.environment()
        return dataclasses.replace(env, guests=cast(Any, _Guests(env.guests, self)))

    @property
    def records(self) -> list[str]:
        directory = self.host.home.lab(LAB).exercises
        return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []

    # ------------------------------------------------------------ `GuestShell`
    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        del timeout, stdin
        assert not check
        script = command.rpartition("\n")[2].rstrip("'")
        who = next((word for word in command.split() if word.startswith("EXERCISE_USER=")), "")
        self.ran.append(f"{guest.name} {who.removeprefix('EXERCISE_USER=')} {script}")
        self.on_run(script)
        answer = self.answers.get(script, said())
        if isinstance(answer, HyperscalerError):
            raise answer
        return answer

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        del guest, timeout
        return True


class _Guests:
    """All of the simulated guests, but for their shell."""

    def __init__(self, guests: Any, shell: ExerciseHost) -> None:
        self._guests, self._shell = guests, shell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guests, name)

    def shell(self, access: Access) -> ExerciseHost:
        del access
        return self._shell
