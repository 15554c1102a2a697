"""The process runner against real, tiny processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from emulator.adapters.system import process
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.session_time import SessionWork
from emulator.core.errors import CommandError, CommandTimeoutError, HostNotFitError
from tests.support.waiting import PATIENCE, Clock, alive, end, until

PYTHON = sys.executable


def test_streams_and_status_are_kept_apart() -> None:
    done = HostProcess().run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_failure_names_the_pasteable_command_and_the_end_of_the_output() -> None:
    with pytest.raises(CommandError) as caught:
        HostProcess().run(["sh", "-c", "echo no such pool >&2; exit 4"], timeout=PATIENCE)
    assert str(caught.value) == (
        "sh -c 'echo no such pool >&2; exit 4': the command failed with exit status 4: no such pool"
    )


def test_a_killed_command_names_the_signal() -> None:
    with pytest.raises(CommandError, match="killed by SIGTERM"):
        HostProcess().run(["sh", "-c", "kill -TERM $$"], timeout=PATIENCE)


@pytest.mark.parametrize(
    ("program", "fix"),
    [
        ("mmdebstrap", "apt-get install mmdebstrap"),
        ("qemu-img", "apt-get install qemu-utils"),
        ("ip", "apt-get install iproute2"),
        ("no-such-program", "install no-such-program or put it on PATH"),
    ],
)
def test_a_missing_program_is_named_with_its_package(program: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostNotFitError) as caught:
        HostProcess().run([program], timeout=PATIENCE)
    assert caught.value.what == f"the program {program} is not installed"
    assert caught.value.fix == fix


def test_a_missing_directory_is_not_taken_for_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"directory .* does not exist"):
        HostProcess().run(["true"], timeout=PATIENCE, cwd=tmp_path / "absent")


def test_a_nul_byte_is_an_error_of_ours() -> None:
    with pytest.raises(CommandError, match="cannot be started"):
        HostProcess().run(["echo", "a\0b"], timeout=PATIENCE)


@pytest.fixture
def over_once_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner's clock stands still until a program has printed something; then it is a year later."""
    clock = Clock()

    class Output(process._Output):
        def _check(self) -> None:
            super()._check()
            clock.sleep(365 * 86400)

    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "_Output", Output)


@pytest.mark.usefixtures("over_once_it_prints")
@pytest.mark.parametrize("streaming", [False, True])
def test_the_deadline_kills_the_children_too(streaming: bool) -> None:
    script = "sleep 900 & echo begun as $!; wait"
    with pytest.raises(CommandTimeoutError, match=r"did not end within 60 s.*: begun") as caught:
        HostProcess().run(["sh", "-c", script], timeout=60, on_line=print if streaming else None)
    assert "sleep 900" in caught.value.where
    child = int(caught.value.what.rpartition(" ")[2])
    until(lambda: not alive(child), "the end of a child")


@pytest.mark.usefixtures("over_once_it_prints")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_daemon_that_keeps_the_pipe_open_cannot_outlast_the_deadline(streaming: bool) -> None:
    daemon = ["setsid", "-f", "sh", "-c", "echo $$; exec sleep 900"]
    with pytest.raises(CommandTimeoutError) as caught:
        HostProcess().run(daemon, timeout=60, on_line=print if streaming else None)
    child = int(caught.value.what.rpartition(" ")[2])
    assert alive(child), "it has the pipe still"
    end(child)


@pytest.mark.parametrize("streaming", [False, True])
def test_silence_does_not_outlast_the_deadline(streaming: bool) -> None:
    with pytest.raises(CommandTimeoutError, match=r"did not end within 0\.3 s\n"):
        HostProcess().run(["sleep", "900"], timeout=0.3, on_line=print if streaming else None)


def test_much_output_on_both_streams_and_much_input_do_not_deadlock() -> None:
    script = (
        "import sys; sys.stderr.write('e'*2000000); sys.stdout.write('o'*2000000); "
        "sys.stdout.flush(); print(len(sys.stdin.read()))"
    )
    done = HostProcess().run([PYTHON, "-c", script], timeout=PATIENCE, stdin="i" * 3_000_000)
    assert len(done.stderr) == 2_000_000
    assert done.stdout.endswith("o3000000\n")


def test_lines_arrive_one_by_one_with_both_streams_and_the_last_fragment() -> None:
    lines: list[str] = []
    script = "import sys; n=sys.stdin.read(); print('a'); sys.stdout.flush(); sys.stderr.write('b\\n'); "
    script += "sys.stderr.flush(); sys.stdout.write('\\xff' * 3 + n)"
    done = HostProcess().run(
        [PYTHON, "-c", script],
        timeout=PATIENCE,
        stdin="end",
        on_line=lines.append,
        env={"PYTHONIOENCODING": "latin-1"},
    )
    assert lines == ["a", "b", "���end"]
    assert done.stdout == "a\nb\n���end"


def test_lines_are_seen_before_the_process_ends() -> None:
    script = "read answer; echo got $answer"
    lines: list[str] = []
    done = HostProcess().run(["sh", "-c", script], timeout=PATIENCE, stdin="yes\n", on_line=lines.append)
    assert lines == ["got yes"]
    assert done.returncode == 0


def test_an_error_in_the_line_callback_ends_the_process() -> None:
    seen: list[int] = []

    def refuse(line: str) -> None:
        seen.append(int(line))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        HostProcess().run(["sh", "-c", "echo $$; exec sleep 300"], timeout=PATIENCE, on_line=refuse)
    assert not alive(seen[0])


def test_standard_input_is_empty_and_the_environment_is_extended(tmp_path: Path) -> None:
    done = HostProcess().run(
        ["sh", "-c", 'cat; echo "$LC_ALL $SECRET $PWD"'], timeout=PATIENCE, env={"SECRET": "s3"}, cwd=tmp_path
    )
    assert done.stdout == f"C.UTF-8 s3 {tmp_path}\n"


def test_the_command_has_a_session_of_its_own() -> None:
    done = HostProcess().run([PYTHON, "-c", "import os; print(os.getsid(0) == os.getpid())"], timeout=PATIENCE)
    assert done.stdout == "True\n"


class Command:
    """A command on a clock of the test's own: the processor seconds that it has had after so many seconds."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, worked: Callable[[float], float], *, wants: bool = False
    ) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(process, "work_of_session", lambda _session: SessionWork(worked(self.seconds), wants))
        monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        self.deadline = process._Deadline(1, 60.0)

    def outlasts(self, seconds: float) -> bool:
        while self.seconds < seconds:
            try:
                self.seconds += max(self.deadline.left(), 0.1)
            except process._GivenUpError as error:
                self.said = str(error)
                return False
        return True


def test_a_command_that_does_nothing_is_ended_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(monkeypatch, lambda _seconds: 1.0)
    assert not command.outlasts(1000)
    assert 60 <= command.seconds <= 64
    assert command.said == ""


def test_a_command_that_is_at_work_has_more_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a seventh of a core, on a host where thirteen others want the other."""
    assert Command(monkeypatch, lambda seconds: seconds / 7).outlasts(600)


def test_a_command_that_gets_no_processor_has_more_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is runnable whenever it is looked at: the host has no time for it."""
    assert Command(monkeypatch, lambda _seconds: 0.0, wants=True).outlasts(600)


def test_a_command_that_works_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(monkeypatch, lambda seconds: seconds)
    assert not command.outlasts(1000)
    assert 240 <= command.seconds <= 244
    assert command.said.startswith(", and was still at work after 24")


def test_a_command_that_works_slowly_for_ever_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(monkeypatch, lambda seconds: seconds / 10)
    assert not command.outlasts(5000)
    assert 960 <= command.seconds <= 964


def test_the_processor_time_of_a_real_command_is_seen() -> None:
    """It computes for ever; what it is given is a tenth of a second, so that it is ended after four tenths of work."""
    with pytest.raises(CommandTimeoutError, match=r"did not end within 0\.1 s"):
        HostProcess().run([PYTHON, "-c", "while True: pass"], timeout=0.1)


def test_a_group_is_not_signalled_once_its_leader_was_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on its id may be that of another process's group."""
    signalled: list[int] = []
    monkeypatch.setattr("os.killpg", lambda group, _number: signalled.append(group))
    with subprocess.Popen(["true"], start_new_session=True) as child:
        process._signal_group(child, signal.SIGKILL)
        child.wait()
        process._signal_group(child, signal.SIGKILL)
    assert signalled == [child.pid]
