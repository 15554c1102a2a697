"""Reading what the user named, which may be anything."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from emulator.labfile.load import load_spec

MINIMAL = 'version: "1.0"\nmetadata: {name: x}\nclusters: {hpc: {}}\n'


def only_finding(path: Path) -> str:
    spec, report = load_spec(path)
    assert spec is None
    (finding,) = report.findings
    return finding.render().removeprefix(str(path)).replace("\n    fix: ", " | ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ':1:1: error: the file is empty | begin with `version: "1.0"`; see config/minimal.yaml for an example'),
        (
            b"# only a comment\n",
            ':1:1: error: the file is empty | begin with `version: "1.0"`; see config/minimal.yaml for an example',
        ),
        (
            b"\x7fELF\x02\x01\x01\0\0\0",
            ": error: this is a binary file, not YAML text | name the lab file, such as cluster.yaml",
        ),
        (
            "version: ä\n".encode("latin-1"),
            ":1:10: error: not UTF-8 text: byte 0xe4 fits no character | save the file as UTF-8",
        ),
        (
            MINIMAL.encode("utf-16"),
            ": error: this is UTF-16 text, and a lab file is UTF-8 | save it as UTF-8",
        ),
        (b"#" * (10 * 1024 * 1024), ": error: larger than the limit of 1024 KiB | is this the right file?"),
        (
            b"hello\n",
            ":1:1: error: expected a mapping with version, metadata and clusters, got 'hello'"
            ' | begin with `version: "1.0"`; see config/minimal.yaml for an example',
        ),
        (
            b"- 1\n",
            ":1:1: error: expected a mapping with version, metadata and clusters, got a list"
            ' | begin with `version: "1.0"`; see config/minimal.yaml for an example',
        ),
    ],
)
def test_contents_that_are_no_lab(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "lab.yaml"
    path.write_bytes(content)
    assert only_finding(path) == expected


def test_a_missing_file(tmp_path: Path) -> None:
    expected = ": error: there is no such file | check the name; `ls *.yaml` lists the candidates here"
    assert only_finding(tmp_path / "nope.yaml") == expected


def test_a_directory(tmp_path: Path) -> None:
    assert only_finding(tmp_path).startswith(": error: this is a directory, not a file")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert only_finding(pipe).startswith(": error: this is a named pipe, not a file")


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket paths are limited to 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        assert only_finding(Path("s")).startswith(": error: this is a socket, not a file")


def test_a_device() -> None:
    assert only_finding(Path("/dev/zero")).startswith(": error: this is a device, not a file")


def test_a_name_that_no_file_can_have() -> None:
    spec, report = load_spec(Path("a\0b"))
    assert spec is None
    assert "cannot be read" in report.findings[0].what


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    assert ": error: cannot be read: Too many levels of symbolic links" in only_finding(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(MINIMAL)
    path.chmod(0)
    assert only_finding(path).startswith(": error: no permission to read this file")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("\ufeff" + MINIMAL, encoding="utf-8")
    spec, report = load_spec(path)
    assert report.findings == ()
    assert spec is not None
    assert spec.source == path


def test_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_bytes(MINIMAL.replace("\n", "\r\n").encode())
    assert load_spec(path)[1].findings == ()
