from __future__ import annotations

from pathlib import Path

from emulator.core.console_log import marked_lines
from emulator.lab.wait_for_ssh import last_lines


def test_a_host_key_is_found_behind_any_amount_of_output(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_bytes(b"booting\nhyperscaler-host-key: ssh-ed25519 AAAA\n" + b"noise\n" * 100_000)
    assert marked_lines(console) == "hyperscaler-host-key: ssh-ed25519 AAAA\n"


def test_a_line_without_end_and_hostile_bytes_do_no_harm(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_bytes(b"x" * 1_000_000 + b"\n\xff\xfe hyperscaler-host-key: \x1b[2J\n")
    assert len(marked_lines(console)) < 5000
    assert "\x1b" not in last_lines(console)


def test_no_console_yet(tmp_path: Path) -> None:
    assert marked_lines(tmp_path / "absent") == ""
    assert "nothing yet" in last_lines(tmp_path / "absent")
