"""What `make demo` runs after the set-up, with a node that takes words apart as ssh's does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from emulator.core.data_files import share_dir
from tests.support.waiting import PATIENCE

# Like ssh, which joins the words of a command: the shell of the node reads them again.
HYPERSCALER = """#!/bin/sh
[ "$1" = ssh ] || exit 0
shift 4
PATH="$PWD/node:$PATH" exec sh -c "$*"
"""
# A pod that is Pending at the first look. kubectl takes each further word for the name of another pod.
KUBECTL = """#!/bin/sh
case $1 in
  get)
    if [ $# -ne 5 ] || [ "$2 $3 $4" != "pod gpu-pod -o" ]; then echo "NotFound: $*" >&2; exit 1; fi
    if [ -e looked ]; then phase=@END@; else phase=Pending; fi
    touch looked
    echo "$phase:True True:{}" ;;
  apply)
    cat >manifest
    if [ -e refuse ]; then cp manifest refused; rm refuse; echo "Client.Timeout exceeded" >&2; exit 1; fi ;;
  logs) echo "the words of the pod" ;;
esac
"""


def demo(directory: Path, end: str) -> subprocess.CompletedProcess[str]:
    for name in ("scripts/demo.sh", "config/examples/gpu-pod.yaml"):
        (directory / name).parent.mkdir(parents=True)
        shutil.copy(share_dir() / name, directory / name)
    programs = {".venv/bin/hyperscaler": HYPERSCALER, "node/kubectl": KUBECTL.replace("@END@", end)}
    programs["node/srun"] = "#!/bin/sh\n"
    for name, text in programs.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return subprocess.run(
        ["bash", directory / "scripts" / "demo.sh"],
        env={**os.environ, "DEMO_PAUSE": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_pod_is_waited_for_until_it_has_succeeded(tmp_path: Path) -> None:
    done = demo(tmp_path, "Succeeded")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the words of the pod" in done.stdout
    assert "What to try next" in done.stdout


def test_an_api_server_that_is_too_busy_is_asked_once_more_with_the_same_pod(tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    done = demo(tmp_path, "Succeeded")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "Client.Timeout exceeded",
        "demo: once more (1), the API server may have been too busy",
    ]
    pod = (share_dir() / "config/examples/gpu-pod.yaml").read_text()
    assert (tmp_path / "refused").read_text() == (tmp_path / "manifest").read_text() == pod


def test_a_pod_that_fails_is_the_end_of_the_demo(tmp_path: Path) -> None:
    done = demo(tmp_path, "Failed")
    assert done.returncode == 1
    assert "the pod did not end well: it is Failed" in done.stderr
