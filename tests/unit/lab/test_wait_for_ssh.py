from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


def test_a_console_is_searched_from_its_end_and_not_for_ever(tmp_path: Path) -> None:
    """Sparse: 100 GiB of zeros would take minutes, once a second."""
    console = tmp_path / "console"
    console.write_bytes(b"hyperscaler-host-key: long ago\n")
    with console.open("r+b") as stream:
        stream.truncate(100 << 30)
        stream.seek(0, 2)
        stream.write(b"\nhyperscaler-host-key: of this boot\n")
    assert marked_lines(console) == "hyperscaler-host-key: of this boot\n"


def test_a_guest_that_prints_faster_than_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read finds more; without a bound there would be no end."""
    console = tmp_path / "console"
    console.write_bytes(b"hyperscaler-host-key: x\n")
    really = Path.open

    def growing(path: Path, mode: str) -> Any:
        stream = really(path, "rb")

        class Growing:
            """A file that ends nowhere."""

            def __enter__(self) -> Growing:
                return self

            def __exit__(self, *_: object) -> None:
                stream.close()

            def seek(self, *where: int) -> int:
                return stream.seek(*where)

            def read(self, most: int) -> bytes:
                return stream.read(most) or b"x" * most

            def readline(self, most: int) -> bytes:
                return stream.readline(most) or b"x" * most

        return Growing()

    monkeypatch.setattr(Path, "open", growing)
    assert marked_lines(console) == "hyperscaler-host-key: x\n"
