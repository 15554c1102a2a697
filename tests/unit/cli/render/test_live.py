"""The live view as a person sees it: frames on a terminal of 80 columns, in memory."""

from __future__ import annotations

import io
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from emulator.cli.render.live import LiveReporter
from emulator.cli.render.timings import Timings
from emulator.core.progress import Event, Status

SLURM, KUBERNETES = "Slurm", "Kubernetes"


class Terminal:
    """A terminal with a reporter on it, and a clock that stands still until it is moved on."""

    def __init__(self, *, lines: int = 24, encoding: str = "utf-8", timings: Path | None = None) -> None:
        self.time = 0.0
        self.screen = pyte.Screen(80, lines)
        self._stream = pyte.Stream(self.screen)
        self._file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
        console = Console(file=self._file, force_terminal=True, width=80, height=lines, legacy_windows=False)
        self.timings = Timings(timings)
        self.timings.load()
        self.reporter = LiveReporter(self.timings, console=console, now=lambda: self.time, refresh=False)
        self.reporter.start()

    def event(self, phase: str, subject: str, status: Status, message: str = "", *, cluster: str = "") -> None:
        self.reporter.event(Event(phase, subject, status, message, cluster=cluster))

    def print(self, text: str) -> None:
        """What others than the reporter write to the terminal."""
        self._file.write(text)

    def frame(self) -> list[str]:
        """The lines on the screen, blanks at their ends removed."""
        self.reporter.refresh()
        self._file.flush()
        buffer = self._file.buffer
        assert isinstance(buffer, io.BytesIO)
        self._stream.feed(buffer.getvalue().decode(self._file.encoding).replace("\n", "\r\n"))
        buffer.seek(0)
        buffer.truncate()
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def two_clusters(terminal: Terminal) -> None:
    """Slurm is verified while Kubernetes is still configured, as it is on every lab."""
    terminal.event("boot", "hpc-controller", Status.STARTED, "waiting for ssh", cluster=SLURM)
    terminal.event("boot", "cloud-control-plane", Status.STARTED, "waiting for ssh", cluster=KUBERNETES)
    terminal.time = 20.0
    terminal.event("boot", "hpc-controller", Status.DONE, "ssh answers", cluster=SLURM)
    terminal.time = 25.0
    terminal.event("boot", "cloud-control-plane", Status.DONE, "ssh answers", cluster=KUBERNETES)
    terminal.event("configure", "hpc-controller", Status.RUNNING, "Start slurmctld", cluster=SLURM)
    terminal.event("configure", "cloud-control-plane", Status.RUNNING, "Start the control plane", cluster=KUBERNETES)
    terminal.time = 60.0
    terminal.event("configure", "hpc-controller", Status.DONE, "configured", cluster=SLURM)
    terminal.event("verify", "munge", Status.DONE, "3 nodes trust each other", cluster=SLURM)
    terminal.event("verify", "job", Status.RUNNING, "waiting for the nodes", cluster=SLURM)


def test_both_clusters_are_on_the_screen_each_with_its_phase(terminal: Terminal) -> None:
    two_clusters(terminal)
    terminal.time = 70.0
    assert terminal.frame() == [
        "✓ boot      Slurm ssh answers 20.0s",
        "✓ boot      Kubernetes ssh answers 25.0s",
        "✓ configure Slurm configured 35.0s",
        "  configure Kubernetes                                                     45.0s",
        "… cloud-control-plane  Start the control plane                             45.0s",
        "  verify    Slurm                                                          10.0s",
        "✓ munge                3 nodes trust each other                             0.0s",
        "… job                  waiting for the nodes                               10.0s",
        "  1m10s",
    ]


def image_is_built(terminal: Terminal) -> None:
    """Slurm is configured while the image of Kubernetes is still built."""
    terminal.event("apply", "network/hpc", Status.STARTED, "create: not present", cluster=SLURM)
    terminal.event("apply", "image/cloud-base", Status.STARTED, "create: never built", cluster=KUBERNETES)
    terminal.event("apply", "firewall/lab", Status.STARTED, "create: not present")
    terminal.time = 2.0
    terminal.event("apply", "network/hpc", Status.DONE, "create", cluster=SLURM)
    terminal.event("apply", "firewall/lab", Status.DONE, "create")
    terminal.event("apply", "image/cloud-base", Status.RUNNING, "install packages: kubelet", cluster=KUBERNETES)
    terminal.event("apply", "domain/hpc-controller", Status.STARTED, "create: not present", cluster=SLURM)
    terminal.time = 5.0
    terminal.event("apply", "domain/hpc-controller", Status.DONE, "create", cluster=SLURM)
    terminal.event("boot", "hpc-controller", Status.STARTED, "waiting for ssh", cluster=SLURM)
    terminal.time = 40.0
    terminal.event("boot", "hpc-controller", Status.DONE, "ssh answers", cluster=SLURM)
    terminal.event("configure", "hpc-controller", Status.RUNNING, "Start slurmctld", cluster=SLURM)


def test_a_cluster_is_configured_beside_the_image_of_the_other(terminal: Terminal) -> None:
    image_is_built(terminal)
    terminal.time = 50.0
    assert terminal.frame() == [
        "✓ apply     Slurm 2 done 5.0s",
        "✓ apply create 2.0s",
        "✓ boot      Slurm ssh answers 35.0s",
        "  apply     Kubernetes                                                     50.0s",
        "… image/cloud-base     install packages: kubelet                           50.0s",
        "  configure Slurm                                                          10.0s",
        "… hpc-controller       Start slurmctld                                     10.0s",
        "  50.0s",
    ]


def test_effects_for_one_cluster_end_no_stage_of_the_other(terminal: Terminal) -> None:
    image_is_built(terminal)
    terminal.time = 60.0
    terminal.event("configure", "hpc-controller", Status.DONE, "configured", cluster=SLURM)  # its verification is next
    terminal.event("apply", "image/cloud-base", Status.DONE, "create", cluster=KUBERNETES)
    terminal.event("apply", "volume/cloud-control-plane", Status.STARTED, "create: not present", cluster=KUBERNETES)
    frame = [line.split() for line in terminal.frame()]
    assert ["✓", "hpc-controller", "configured", "20.0s"] in frame
    assert ["✓", "image/cloud-base", "create", "1m00s"] in frame
    assert not [line for line in frame if line[:2] == ["✓", "configure"]]


def test_rows_that_have_ended_stand_still(terminal: Terminal) -> None:
    two_clusters(terminal)
    before = [line for line in terminal.frame() if line.startswith("✓")]
    terminal.time = 500.0
    assert [line for line in terminal.frame() if line.startswith("✓")] == before


def test_a_cluster_that_is_verified_does_not_end_what_the_other_does(terminal: Terminal) -> None:
    two_clusters(terminal)
    terminal.event("verify", "job", Status.DONE, "job 1: ran on 2 nodes", cluster=SLURM)
    terminal.time = 600.0
    frame = terminal.frame()
    assert "… cloud-control-plane  Start the control plane                             9m35s" in frame
    terminal.event("configure", "cloud-control-plane", Status.DONE, "configured", cluster=KUBERNETES)
    terminal.event("verify", "nodes", Status.RUNNING, "2 of 2", cluster=KUBERNETES)
    frame = terminal.frame()
    assert "✓ configure Kubernetes configured 9m35s" in frame
    assert "  verify    Slurm                                                          9m00s" in frame


def test_at_the_end_every_stage_is_one_line(terminal: Terminal) -> None:
    two_clusters(terminal)
    terminal.time = 65.0
    terminal.event("verify", "job", Status.DONE, "job 1: ran on 2 nodes", cluster=SLURM)
    terminal.event("configure", "cloud-control-plane", Status.DONE, "configured", cluster=KUBERNETES)
    terminal.time = 1000.0  # verification of Kubernetes reported nothing
    terminal.reporter.stop()
    assert terminal.frame() == [
        "✓ boot      Slurm ssh answers 20.0s",
        "✓ boot      Kubernetes ssh answers 25.0s",
        "✓ configure Slurm configured 35.0s",
        "✓ configure Kubernetes configured 40.0s",
        "✓ verify    Slurm 2 done 5.0s",
    ]


def test_what_runs_is_never_hidden_without_a_word() -> None:
    terminal = Terminal(lines=12)
    for number in range(20):
        terminal.event("apply", f"domain/node-{number:02}", Status.STARTED, "create: not present")
    for number in range(5):
        terminal.event("apply", f"domain/node-{number:02}", Status.DONE, "create")
    frame = terminal.frame()
    assert len(frame) <= 12
    assert frame[0].split() == ["apply", "and", "8", "more", "running,", "5", "more", "done", "0.0s"]
    assert [line.split()[1] for line in frame[1:8]] == [f"domain/node-{number:02}" for number in range(5, 12)]


def test_neither_cluster_crowds_out_the_other() -> None:
    terminal = Terminal(lines=12)
    for number in range(20):
        terminal.event("configure", f"hpc-compute-{number}", Status.RUNNING, "Start slurmd", cluster=SLURM)
    terminal.event("configure", "cloud-control-plane", Status.RUNNING, "Start the control plane", cluster=KUBERNETES)
    frame = terminal.frame()
    assert any("cloud-control-plane" in line for line in frame)
    assert sum("hpc-compute" in line for line in frame) == 5


def test_failures_stay_on_the_screen(terminal: Terminal) -> None:
    terminal.event("boot", "hpc-compute-1", Status.STARTED, "waiting for ssh", cluster=SLURM)
    terminal.event("boot", "hpc-compute-1", Status.FAILED, "no answer: [bold]kernel panic[/bold]", cluster=SLURM)
    terminal.reporter.stop()
    assert terminal.frame() == ["✗ boot      Slurm hpc-compute-1: no answer: [bold]kernel panic[/bold]"]


def test_what_is_long_is_broken_between_words_and_a_path_not_at_all(terminal: Terminal) -> None:
    path = "/var/lib/hyperscaler/labs/production/disks/cloud-control-plane.qcow2"
    terminal.reporter.warn(f"the guest has written to its disk what nobody can read any more, at {path} of the lab")
    assert terminal.frame()[:3] == [
        "warning: the guest has written to its disk what nobody can read any more, at",
        f"  {path} of the",
        "  lab",
    ]


def test_a_terminal_without_utf_8_gets_ascii() -> None:
    terminal = Terminal(encoding="ascii")
    two_clusters(terminal)
    text = "\n".join(terminal.frame())
    assert text.isascii()
    assert "+ munge" in text and "> job" in text


def test_a_slow_step_says_how_long_it_took_the_last_time(tmp_path: Path) -> None:
    kept = tmp_path / "timings.json"
    first = Terminal(timings=kept)
    first.event("configure", "cloud-control-plane", Status.RUNNING, "Start the control plane", cluster=KUBERNETES)
    first.time = 240.0
    first.event("configure", "cloud-control-plane", Status.RUNNING, "Wait for the node", cluster=KUBERNETES)
    first.timings.save()
    second = Terminal(timings=kept)
    second.event("configure", "cloud-control-plane", Status.RUNNING, "Start the control plane", cluster=KUBERNETES)
    second.time = 9.0
    assert "(was" not in "\n".join(second.frame())
    second.time = 15.0
    assert second.frame()[1].endswith("15.0s (was 4m00s)")


def test_a_question_has_the_screen_for_itself(terminal: Terminal) -> None:
    terminal.event("plan", "demo", Status.STARTED, "looking at the host")
    terminal.frame()
    with terminal.reporter.paused():
        terminal.print("+ domain demo-a: not present\nApply 12 changes to this host? [y/N]: y\n")
    terminal.event("plan", "demo", Status.DONE, "12 changes")
    assert terminal.frame()[:2] == ["+ domain demo-a: not present", "Apply 12 changes to this host? [y/N]: y"]
    assert any("12 changes" in line for line in terminal.frame())
