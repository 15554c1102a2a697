"""Text of guests, lab files and drivers is hostile: none of it steers the terminal or forges a line of the log."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.cli import output
from emulator.cli.render import progress, run_log
from emulator.cli.render.live import LiveReporter
from emulator.cli.render.timings import Timings
from emulator.core.errors import CommandError, HyperscalerError
from emulator.core.paths import LabPaths
from emulator.core.ports import log
from emulator.core.progress import Event, Reporter, Status, shown
from emulator.core.units import LINE_LIMIT, printable
from emulator.guests.configure import printable_log
from emulator.guests.configure.model import TaskStatus
from emulator.guests.configure.playbook import PlaybookRun, run_playbook
from emulator.guests.configure.printable_log import make_log_printable
from emulator.guests.inventory.model import AnsibleInventory, InventoryGroup, InventoryHost
from emulator.lab.wait_for_ssh import last_lines
from tests.support.waiting import PATIENCE

ATTACKS = {
    "clear the screen": "\x1b[2J\x1b[H",
    "set the title": "\x1b]0;root@host\x07",
    "write to the clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "C1 control sequence": "\x9b2J",
    "go back": "done\b\b\b\b",
    "overwrite the line": "failed\rall is well",
    "ring": "\x07",
    "turn the direction": "\u202egnp.exe",
    "isolate": "\u2066x\u2069",
    "invisible": "a\u200bb\u2060c\ufeff",
    "line separator": "one\u2028two\u2029three",
    "NUL": "a\0b",
    "half a character": "\udcff\ud800",
    "delete": "a\x7fb",
    "endless": "x" * 1_000_000,
}
hostile = pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)


def check_harmless(text: str) -> None:
    """No character but visible ones and line feeds, and no line that is longer than a few screens."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)[:200]
        assert len(line) < LINE_LIMIT + 400
    text.encode("utf-8")


@hostile
def test_the_sink(text: str) -> None:
    check_harmless(printable(text))
    check_harmless(printable(f"before\n{text}\nafter"))
    event = shown(Event("verify", text, Status.FAILED, text))
    check_harmless(event.subject)
    check_harmless(event.message)


def test_the_sink_keeps_what_is_readable() -> None:
    assert printable("Müller\tµs → 漢字\r\nsecond") == "Müller    µs → 漢字\nsecond"
    assert printable("x" * 12, line_limit=10) == "xxxxxxxxxx ... (2 more characters)"
    assert printable("x" * 10, line_limit=10) == "x" * 10


REPORTERS: dict[str, Callable[[], Reporter]] = {
    "plain": progress.PlainReporter,
    "quiet": progress.QuietReporter,
    "live": lambda: LiveReporter(Timings(None)),
}


@hostile
@pytest.mark.parametrize("make", REPORTERS.values(), ids=REPORTERS)
def test_progress(capsys: pytest.CaptureFixture[str], make: Callable[[], Reporter], text: str) -> None:
    reporter = make()
    reporter.event(Event("configure", "node", Status.RUNNING, f"task {text}"))
    reporter.event(Event("verify", f"check {text}", Status.FAILED, f"said {text}", 1.0))
    reporter.event(Event("verify", "other", Status.DONE, f"said {text}", 1.0))
    reporter.note(f"note {text}")
    reporter.warn(f"warning {text}")
    if isinstance(reporter, LiveReporter):
        reporter.stop()
    said = capsys.readouterr()
    assert "warning" in said.err and said.out == ""
    check_harmless(said.err.replace("\r\n", "\n"))


def test_markup_of_a_guest_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = LiveReporter(Timings(None))
    reporter.event(Event("verify", "[bold]node[/bold]", Status.FAILED, "[link=http://evil]here[/link]"))
    reporter.stop()
    assert "[bold]node[/bold]: [link=http://evil]here[/link]" in capsys.readouterr().err


def test_no_message_passes_for_a_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    progress.PlainReporter().note("guest says\n[    1.0s] verify    slurm: ok all is well")
    assert all(line.startswith(("[", "    ")) for line in capsys.readouterr().err.splitlines())


@hostile
def test_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    error = HyperscalerError(f"what {text}", where=f"where {text}", fix=f"fix {text}")
    output.print_error(error)
    check_harmless(capsys.readouterr().err)
    monkeypatch.setitem(output._state, "json", True)
    output.print_error(error)
    said = capsys.readouterr().out
    assert said.isascii() and all(line.isprintable() for line in said.splitlines())
    assert json.loads(said)["error"]["what"] == f"what {text}", "JSON holds the text as it is"


@hostile
def test_what_a_command_says_in_an_error(capsys: pytest.CaptureFixture[str], text: str) -> None:
    script = "import sys; sys.stderr.buffer.write(sys.stdin.buffer.read()); sys.exit(3)"
    fed = text.encode("utf-8", "replace").decode()
    with pytest.raises(CommandError) as caught:
        HostProcess().run([sys.executable, "-c", script], timeout=PATIENCE, stdin=fed)
    output.print_error(caught.value)
    check_harmless(capsys.readouterr().err)


@hostile
def test_a_record_of_the_log(text: str) -> None:
    record = logging.LogRecord("hyperscaler", logging.INFO, __file__, 1, "said %s", (text,), None)
    check_harmless(run_log._PrintableFormatter("%(levelname)s %(message)s").format(record))


# pytest passes captured records on between its processes, which it cannot do with half a character.
@pytest.mark.parametrize("text", [text for name, text in ATTACKS.items() if name != "half a character"])
def test_the_log_of_a_command(tmp_path: Path, text: str) -> None:
    with run_log.run_log(tmp_path, "verify"):
        log.info("%s", text)
        log.debug("a guest said: %s", f"{text}\n2026-01-01 00:00:00,000 INFO MainThread all is well")
        try:
            raise HyperscalerError(text)
        except HyperscalerError:
            log.exception("it failed")
    written = next(tmp_path.glob("*-verify.log")).read_text(encoding="utf-8")
    check_harmless(written)
    begun = [line for line in written.split("\n") if line and not line.startswith("    ")]
    assert len(begun) == 3, "each line that is not set in begins a record"


def test_the_tail_of_a_console(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    for text in ATTACKS.values():
        console.write_text(f"boot\n{text}\n", encoding="utf-8", errors="replace")
        for line in printable(last_lines(console)).split("\n"):
            assert line.isprintable() and line.startswith("    | ")


# ---------------------------------------------------------------- Ansible's log
def quiet(node: str, task: str, status: TaskStatus) -> None:
    del node, task, status


def test_ansible_s_log(tmp_path: Path) -> None:
    play = tmp_path / "play" / "play.yml"
    play.parent.mkdir()
    (play.parent / "ansible.cfg").write_text("[defaults]\n")
    said = "".join(text for text in ATTACKS.values() if len(text) < 100)
    raw = tmp_path / "said"
    raw.write_bytes(said.encode("utf-8", "replace"))
    play.write_text(
        "- hosts: hpc\n  gather_facts: false\n  tasks:\n"
        f"    - name: Say it\n      ansible.builtin.command: cat {raw}\n      register: seen\n"
        "    - name: Show it\n      ansible.builtin.debug: {var: seen.stdout}\n"
        f"    - name: Fail with it\n      ansible.builtin.shell: cat {raw} >&2; exit 3\n"
    )
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = AnsibleInventory((InventoryHost("here", local),), (InventoryGroup("hpc", hosts=("here",)),))
    run = PlaybookRun(play, inventory, LabPaths(tmp_path / "lab"), "hpc", {})
    result = run_playbook(run, timeout=PATIENCE, on_event=quiet, cancelled=bool)
    assert not result.ok and result.log is not None
    log = result.log.read_text(encoding="utf-8")
    assert "Show it" in log and "Fail with it" in log
    check_harmless(log)
    assert result.log.stat().st_mode & 0o777 == 0o600


def test_a_log_without_an_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printable_log, "LOG_LIMIT", 200_000)
    log = tmp_path / "stdout"
    log.write_text("x" * 500_000 + "\n" + "short\n" * 100_000)
    make_log_printable(log)
    text = log.read_text()
    assert len(text) < 250_000 and text.endswith("... the rest is left out\n")
    make_log_printable(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
