"""`scripts/setup.sh` says what goes on while it runs for minutes. Its programs are stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Makes a `.venv` whose Python is a pip that takes its time, or fails. The real pip reads what it is asked for first: it
# installs nothing when asked for help, but refuses options that it does not have.
PYTHON = """\
#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir -p .venv/bin
cat >.venv/bin/python <<'PIP'
#!/bin/sh
shift 2
"{pip}" -m pip "$@" --help >/dev/null || exit 9
case "$*" in *host.txt*) ;; *) exit 0 ;; esac
echo "Collecting ansible-core==2.19.0"
printf 'Downloading \\033[31mansible.whl (2.1 MB)\\n'
sleep 2.5
exit {status}
PIP
chmod +x .venv/bin/python
"""


def setup(tree: Path, *, status: int = 0, pause: str = "1") -> subprocess.CompletedProcess[str]:
    for name in ("scripts", "constraints"):
        shutil.copytree(ROOT / name, tree / name)
    (tree / "scripts" / "system-packages.txt").write_text("# none\n")
    shutil.copy(ROOT / "pyproject.toml", tree)
    python = tree / "python"
    python.write_text(PYTHON.replace("{status}", str(status)).replace("{pip}", sys.executable))
    python.chmod(0o755)
    return subprocess.run(
        [tree / "scripts" / "setup.sh"],
        env={**os.environ, "PYTHON": str(python), "SETUP_PAUSE": pause},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_long_step_says_now_and_then_what_it_does(tmp_path: Path) -> None:
    done = setup(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "setup: all Debian packages are there"
    assert "usually in one to three minutes" in lines[1]
    beats = [line for line in lines if " s so far: " in line]
    assert beats
    assert any("Downloading [31mansible.whl (2.1 MB)" in line for line in beats)
    assert "\033" not in done.stdout
    assert lines[-1].startswith("setup: done after ")


def test_pip_knows_every_option_that_it_is_given(tmp_path: Path) -> None:
    done = setup(tmp_path)
    assert done.returncode == 0
    assert "no such option" not in done.stdout + done.stderr


def test_a_quick_step_says_nothing_more(tmp_path: Path) -> None:
    assert " s so far" not in setup(tmp_path, pause="600").stdout


@pytest.mark.parametrize("status", [1, 7])
def test_a_failed_step_shows_what_it_said_and_is_not_taken_for_done(tmp_path: Path, status: int) -> None:
    done = setup(tmp_path, status=status)
    assert done.returncode == status
    assert "Collecting ansible-core==2.19.0" in done.stderr
    assert "failed after " in done.stderr
    assert f"(status {status})" in done.stderr
    assert not list((tmp_path / ".venv").glob(".installed-*"))
