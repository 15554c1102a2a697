"""The containerd that fills a node's store: what is left of it when the tool is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.kubernetes.release.containers import content_store
from emulator.kubernetes.release.containers.content_store import ContentStore

PROGRAMS = {
    "containerd": "#!/bin/sh\necho $$ >{root}/pid\nexec sleep 300\n",
    "ctr": '#!/bin/sh\ncase "$*" in *version*) exit 0;; esac\ntouch {root}/importing\nexec sleep 5\n',
}


def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="filling a store needs root")
def test_it_ends_with_a_tool_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_store, "_SOCKETS", tmp_path)
    programs = tmp_path / "tools/usr/bin"
    programs.mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text.format(root=tmp_path))
        (programs / name).chmod(0o755)
    tool = os.fork()
    if tool == 0:
        ContentStore(programs, tmp_path / "work", HostProcess()).fill(tmp_path / "root", [tmp_path / "a.tar"])
        os._exit(1)
    until((tmp_path / "importing").exists)
    daemon = int((tmp_path / "pid").read_text())
    assert runs(daemon)
    os.kill(tool, signal.SIGKILL)
    os.waitpid(tool, 0)
    until(lambda: not runs(daemon))


def test_sockets_of_killed_runs_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_store, "_SOCKETS", tmp_path)
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    kept = [f"hyperscaler-containerd-{os.getpid()}.sock", "hyperscaler-containerd-x.sock", "other.sock"]
    for name in [*kept, f"hyperscaler-containerd-{gone}.sock", f"hyperscaler-containerd-{gone}.sock.ttrpc"]:
        (tmp_path / name).touch()
    content_store._forget_sockets_of_the_dead()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
