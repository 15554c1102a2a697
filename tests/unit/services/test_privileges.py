"""Services give up what they do not need of root's rights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.adapters.services.own_programs import own_command
from emulator.supervisor.in_place import read_in_place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from emulator.services.privileges import Capability, keep_only
keep_only([Capability.DAC_OVERRIDE])
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")), flush=True)
open(sys.argv[2], "a").close()
os.execv("/bin/sh", ["sh", "-c", 'grep CapEff /proc/self/status; chown 0:0 "$1"', "sh", sys.argv[2]])
"""


def test_nothing_else_is_left_to_it_or_to_what_it_starts(tmp_path: Path) -> None:
    theirs = tmp_path / "console.log"
    theirs.touch(mode=0o600)
    os.chown(theirs, 60600, 60600)
    argv = [sys.executable, "-I", "-c", PROGRAM, str(Path(__file__).parents[3]), str(theirs)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    inheritable, permitted, effective, _bounding, ambient = (int(word, 16) for word in done.stdout.split()[:5])
    assert (inheritable, permitted, effective, ambient) == (0, 2, 2, 0)
    assert int(done.stdout.split()[-1], 16) & ~2 == 0, "and nothing comes back"
    assert done.returncode != 0 and "Operation not permitted" in done.stderr
    assert theirs.stat().st_uid == 60600


def test_the_service_of_consoles_cuts_with_what_it_keeps(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.mkdir(mode=0o710)
    log = console / "a.log"
    log.write_bytes(b"x" * 5000)
    os.chown(log, 60600, 60600)
    log.chmod(0o600)
    argv = [*own_command(), "console-limits", str(console), "--limit", "1000", "--kept", "100"]
    environment = {"HYPERSCALER_NOTE": str(tmp_path / "note"), "HYPERSCALER_START": "1"}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "each console log is limited to 1000 B, 4.8 KiB removed\n"
            fields = Path(f"/proc/{process.pid}/status").read_text().partition("CapEff:")[2].split()
            assert int(fields[0], 16) & ~(1 << 1 | 1 << 2 | 1 << 24) == 0
            process.terminate()
            assert process.wait() == 0
        finally:
            process.kill()
    assert log.stat().st_size < 300
    assert read_in_place(tmp_path / "note")["start"] == "1"
