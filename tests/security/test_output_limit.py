"""A guest or a program that prints without end is ended: it takes no more of the host than a limit of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.adapters.system import process
from emulator.adapters.system.process import OUTPUT_LIMIT, HostProcess
from emulator.core.errors import CommandError, CommandTimeoutError
from emulator.core.units import MIB
from tests.support.waiting import PATIENCE, Clock

ENDLESS = ["sh", "-c", "echo $$ > {pid}; while :; do echo flooded by a guest{to}; done"]
FLOOD = "import os\nwhile True: os.write({fd}, b'flood ' * 10000)"


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("to", ["", " >&2"], ids=["stdout", "stderr"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("check", [False, True])
def test_an_endless_command_is_ended_at_the_limit(tmp_path: Path, to: str, streaming: bool, check: bool) -> None:
    pid = tmp_path / "pid"
    argv = [word.format(pid=pid, to=to) for word in ENDLESS]
    lines: list[str] = []
    with pytest.raises(CommandError, match=r"printed more than 1\.0 MiB and was ended: ") as caught:
        HostProcess(output_limit=MIB).run(
            argv, timeout=PATIENCE, check=check, on_line=lines.append if streaming else None
        )
    assert not isinstance(caught.value, CommandTimeoutError)
    assert "flooded by a guest" in caught.value.what and len(caught.value.what) < 400
    assert "sh -c" in caught.value.where and "| head" in caught.value.fix
    assert not alive(int(pid.read_text()))
    assert sum(len(line) + 1 for line in lines) <= MIB


def test_a_line_without_an_end_is_no_way_around_it() -> None:
    argv = [sys.executable, "-c", FLOOD.format(fd=1)]
    with pytest.raises(CommandError, match="printed more than"):
        HostProcess(output_limit=MIB).run(argv, timeout=PATIENCE, on_line=print)


def test_both_streams_count_together() -> None:
    script = "import sys; sys.stdout.write('o' * 600_000); sys.stderr.write('e' * 600_000)"
    with pytest.raises(CommandError, match="printed more than"):
        HostProcess(output_limit=MIB).run([sys.executable, "-c", script], timeout=PATIENCE)
    done = HostProcess(output_limit=2 * MIB).run([sys.executable, "-c", script], timeout=PATIENCE)
    assert len(done.stdout) == len(done.stderr) == 600_000


def test_the_limit_itself_is_still_allowed() -> None:
    script = f"import sys; sys.stdout.write('o' * {MIB})"
    assert len(HostProcess(output_limit=MIB).run([sys.executable, "-c", script], timeout=PATIENCE).stdout) == MIB


def test_output_that_never_pauses_does_not_outrun_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(process, "time", clock)

    def is_read(_line: str) -> None:
        clock.sleep(1)

    with pytest.raises(CommandTimeoutError, match="did not end within 2 s"):
        HostProcess().run(["yes"], timeout=2, on_line=is_read)
    assert clock.now > 2


def test_six_hundred_megabytes_of_a_guest_do_not_become_memory_of_the_host(tmp_path: Path) -> None:
    """Through the ssh of a guest shell, in a process of its own, whose peak the kernel counts."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\nexec head -c 600000000 /dev/zero\n")
    ssh.chmod(0o755)
    program = (
        "import resource\n"
        "from ipaddress import IPv4Address\n"
        "from pathlib import Path\n"
        "from emulator.adapters.system.process import HostProcess\n"
        "from emulator.core.errors import CommandError\n"
        "from emulator.core.ports import GuestAddress\n"
        "from emulator.guests.ssh import OpenSshShell\n"
        "shell = OpenSshShell(Path('/k'), Path('/h'), (), HostProcess())\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    shell.run(GuestAddress('n', IPv4Address('10.0.0.1'), 'root'), 'cat /dev/zero', timeout=900, check=False)\n"
        "except CommandError as error:\n"
        "    print(error.what[:60])\n"
        "print('grew', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    environment = {**os.environ, "PATH": f"{ssh.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment
    )
    assert "printed more than 32.0 MiB" in done.stdout
    grew = re.search(r"grew (\d+)", done.stdout)
    assert grew is not None
    assert int(grew[1]) * 1024 < 4 * OUTPUT_LIMIT


FLOOD_MODULE = """\
#!/usr/bin/python3
import os
left, block = 600_000_000, b"x" * 1_000_000
while left > 0:
    left -= os.write(1, block)
"""
RUN = """\
import resource, sys
from pathlib import Path
from emulator.core.paths import LabPaths
from emulator.guests.configure.playbook import PlaybookRun, run_playbook
from emulator.guests.inventory.model import AnsibleInventory, InventoryGroup, InventoryHost

root = Path(sys.argv[1])
local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
inventory = AnsibleInventory((InventoryHost("here", local),), (InventoryGroup("hpc", hosts=("here",)),))
run = PlaybookRun(root / "play" / "play.yml", inventory, LabPaths(root / "lab"), "hpc", {})
result = run_playbook(run, timeout=900, on_event=lambda *_: None, cancelled=lambda: False)
print("failed", [failure.task for failure in result.failures])
print("peak", max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def test_six_hundred_megabytes_in_answer_to_a_playbook_do_not_either(tmp_path: Path) -> None:
    play = tmp_path / "play"
    (play / "library").mkdir(parents=True)
    (play / "ansible.cfg").write_text("[defaults]\nlibrary = library\n")
    (play / "library" / "flood.py").write_text(FLOOD_MODULE)
    (play / "play.yml").write_text("- hosts: hpc\n  gather_facts: false\n  tasks:\n    - name: Flood\n      flood:\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "failed ['Flood']" in done.stdout
    peak = re.search(r"peak (\d+)", done.stdout)
    assert peak is not None
    assert int(peak[1]) * 1024 < 800 * MIB
