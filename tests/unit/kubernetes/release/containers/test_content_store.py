"""The containerd that fills a node's store: what is left of it when the tool is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.kubernetes.release.containers import content_store
from emulator.kubernetes.release.containers.content_store import ContentStore
from tests.support.waiting import alive, end, number_in, until

PROGRAMS = {
    "containerd": "#!/bin/sh\necho $$ >{root}/pid\nexec sleep 900\n",
    "ctr": '#!/bin/sh\ncase "$*" in *version*) exit 0;; esac\necho $$ >{root}/importing\nexec sleep 900\n',
}


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
    importing, daemon = number_in(tmp_path / "importing"), number_in(tmp_path / "pid")
    assert alive(daemon)
    os.kill(tool, signal.SIGKILL)
    os.waitpid(tool, 0)
    until(lambda: not alive(daemon), "the end of containerd")
    end(importing)


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
