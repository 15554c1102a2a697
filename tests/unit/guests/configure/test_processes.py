"""Which processes belong to a run, from a process table made of files."""

from __future__ import annotations

import os
from pathlib import Path

from emulator.guests.configure.processes import processes_left, processes_of_run


def process(proc: Path, pid: int, environ: bytes = b"", cmdline: bytes = b"") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "environ").write_bytes(environ)
    (proc / str(pid) / "cmdline").write_bytes(cmdline)


def test_tag_or_control_directory_and_nothing_else(tmp_path: Path) -> None:
    control = Path("/lab/ansible/hpc/cp")
    process(tmp_path, 11, b"PATH=/bin\0HYPERSCALER_RUN=mine\0")
    process(tmp_path, 12, b"HYPERSCALER_RUN=mine-too\0")
    process(tmp_path, 13, b"", b"ssh: /lab/ansible/hpc/cp/0123456789 [mux]\0")
    process(tmp_path, 14, b"", b"ls\0/lab/ansible/hpc/cp-other/x\0")
    process(tmp_path, os.getpid(), b"HYPERSCALER_RUN=mine\0")
    (tmp_path / "15").mkdir()  # ended while we looked
    (tmp_path / "self").mkdir()
    assert sorted(processes_of_run("mine", control, proc=tmp_path)) == [11, 13]


def test_what_is_left_of_any_run_in_a_directory(tmp_path: Path) -> None:
    directory = Path("/lab/ansible/hpc")
    process(tmp_path, 11, b"PATH=/bin\0HOME=/lab/ansible/hpc\0HYPERSCALER_RUN=one\0")
    process(tmp_path, 12, b"HOME=/lab/ansible/hpc2\0")
    process(tmp_path, 13, b"HOME=/root\0", b"ssh: /lab/ansible/hpc/cp/0123456789 [mux]\0")
    process(tmp_path, 14, b"HOME=/root\0", b"less\0/lab/ansible/hpc/inventory.yaml\0")
    assert sorted(processes_left(directory, proc=tmp_path)) == [11, 13]
