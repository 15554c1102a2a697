"""Directories of volumes: what a student's pod leaves in one cannot reach beyond it, not even when root removes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import yaml

from emulator.core.data_files import share_dir

MANIFEST = share_dir() / "config/kubernetes/modules/manifests/local-path.yaml"


def run(script: str, volume: Path) -> None:
    """What the helper pod does on the node, `setup` or `teardown`: with busybox, or this machine's own programs."""
    programs = volume.parents[1] / "programs"
    if not programs.exists():
        programs.mkdir()
        (programs / "busybox").write_text('#!/bin/sh\nexec "$@"\n')
        (programs / "busybox").chmod(0o755)
    own = "" if shutil.which("busybox") else f"{programs}:"
    documents = yaml.safe_load_all(MANIFEST.read_text())
    (config,) = [each["data"] for each in documents if each and each["kind"] == "ConfigMap"]
    done = subprocess.run(
        ["/bin/sh", "-c", config[script], "x", "-p", str(volume)],
        env={"PATH": f"{own}{os.environ['PATH']}", "VOL_DIR": str(volume)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_volume_is_open_to_its_pods_and_closed_to_who_is_on_the_node(tmp_path: Path) -> None:
    volume = tmp_path / "local-path" / "pvc-1_student-ada_data"
    before = os.umask(0o077)
    try:
        run("setup", volume)
        run("setup", volume)  # a claim whose first helper was not seen to end
    finally:
        os.umask(before)
    assert volume.stat().st_mode & 0o7777 == 0o777
    assert volume.parent.stat().st_mode & 0o7777 == 0o700


def test_what_lies_in_a_volume_leads_nowhere_when_it_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "etc"
    outside.mkdir()
    (outside / "shadow").write_text("kept")
    volume, other = (tmp_path / "local-path" / name for name in ("pvc-1_student-ada_data", "pvc-2_student-eve_data"))
    for each in (volume, other):
        run("setup", each)
    (other / "work").write_text("kept")
    (volume / "link").symlink_to(outside)
    (volume / "file-link").symlink_to(outside / "shadow")
    (volume / "back").symlink_to("../pvc-2_student-eve_data")
    (volume / "-rf ..\n$(touch hurt)").write_text("")
    deep = volume / "d"
    deep.mkdir()
    (deep / "up").symlink_to("../../..")
    run("teardown", volume)
    assert not volume.exists()
    assert (outside / "shadow").read_text() == (other / "work").read_text() == "kept"
    assert not (tmp_path / "hurt").exists()
    run("teardown", volume)  # once more, as after a helper that was not seen to end
