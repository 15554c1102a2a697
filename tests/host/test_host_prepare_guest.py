"""`host prepare` and `host restore` for real: on a machine that is thrown away, with its own apt, GRUB and systemd.

The machine is a guest from the product's own image. It has no network: a disk brings the program, GRUB, and empty
packages of the names on the product's list, in a repository for apt; the guest writes its answers there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.paths import Home
from emulator.host.prepare.steps import GRUB_FILE, NOUVEAU_FILE, SYSCTL_FILE
from emulator.host.wanted_packages import wanted_packages
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
THROWAWAY = ROOT / "tests" / "support" / "throwaway_host"
# grub-mkconfig and what it calls; for the rest of their dependencies empty packages do.
GRUB_PACKAGES = ("gettext-base", "grub-common", "grub2-common", "libdevmapper1.02.1")
BOOT_SECONDS = 600.0
UNIT = "throwaway.service"
MACHINE_ID = "5f0c1d3e9a7b4c62b8d4e6f70a1b2c3e"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guest wrote."""
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs root and qemu-system-x86_64")
    image = ImageStore(Home.default().images, HostProcess()).build("hpc-base", progress=lambda phase, line: None)
    directory = tmp_path_factory.mktemp("throwaway")
    cargo = directory / "cargo.img"
    _load(directory / "cargo", cargo, image)
    _boot(image, directory, cargo)
    _run("debugfs", "-R", f"rdump /out {directory}", cargo)
    return directory / "out"


def _run(*argv: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(list(map(str, argv)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)


def _load(cargo: Path, disk: Path, image: GoldenImage) -> None:
    """The disk that the guest finds as /dev/vdb."""
    (cargo / "out").mkdir(parents=True)
    for name in ("emulator", "schemas", "playbooks", "config", "scripts"):
        shutil.copytree(ROOT / name, cargo / "program" / name)
    libraries = next(Path(entry) for entry in sys.path if (Path(entry) / "click").is_dir())
    for name in ("click", "yaml"):
        shutil.copytree(libraries / name, cargo / "site" / name)
    for name in ("run.sh", "snapshot.py"):
        shutil.copy(THROWAWAY / name, cargo / name)
    (cargo / "debs").mkdir()
    # Unsandboxed: apt's own user cannot write into this directory.
    _run("apt-get", "download", "-o", "APT::Sandbox::User=root", *GRUB_PACKAGES, cwd=cargo / "debs")
    there = {*image.manifest.packages, *GRUB_PACKAGES}
    needed = {name for package in (cargo / "debs").iterdir() for name in _depends(package)}
    for name in needed - there:
        _stand_in(cargo / "debs", name)
    missing = [name for name in wanted_packages() if name not in {*there, *needed}]
    assert missing
    (cargo / "repo.later").mkdir()
    index = "".join(_stand_in(cargo / "repo.later", name) for name in missing)
    (cargo / "repo.later" / "Packages").write_text(index)
    with disk.open("wb") as file:
        file.truncate(256 * 2**20)
    _run("mke2fs", "-q", "-t", "ext4", "-d", cargo, disk)


def _depends(package: Path) -> list[str]:
    """Names of the packages that one depends on, of alternatives the first."""
    done = subprocess.run(["dpkg-deb", "-f", package, "Depends"], capture_output=True, text=True, check=True)
    return [re.split(r"[ :|(]", word.strip())[0] for word in done.stdout.split(",") if word.strip()]


def _stand_in(directory: Path, name: str) -> str:
    """Build a package that has a name and nothing in it; returns its paragraph in apt's index."""
    tree = directory / name
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 999\nArchitecture: all\nMaintainer: nobody\nDescription: stands in for it\n"
    (tree / "DEBIAN" / "control").write_text(control)
    _run("dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, directory / f"{name}.deb")
    shutil.rmtree(tree)
    content = (directory / f"{name}.deb").read_bytes()
    return f"{control}Filename: ./{name}.deb\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"


def _boot(image: GoldenImage, directory: Path, cargo: Path) -> None:
    """Until the guest has powered off by itself: the command on its kernel's command line is all that it runs."""
    disk = directory / "disk.raw"
    _run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image.disk, disk)
    # The image masks the generator of systemd.run=, for which guests have no use.
    unit = directory / UNIT
    unit.write_text(
        "[Unit]\nSuccessAction=poweroff\nFailureAction=poweroff\nAfter=basic.target\nWants=basic.target\n"
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'mount /dev/vdb /mnt && sh /mnt/run.sh'\n"
    )
    steps = directory / "debugfs"
    steps.write_text(f"cd /etc/systemd/system\nwrite {unit} {UNIT}\n")  # it writes into the present directory alone
    _run("debugfs", "-w", "-f", steps, disk)
    os.truncate(disk, 6 * 2**30)
    own = [f"systemd.unit={UNIT}"]
    console = directory / "console.log"
    argv = [
        *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{console}"),
        *("-drive", f"file={disk},if=none,id=disk,format=raw,cache=unsafe", "-device", "virtio-blk-pci,drive=disk"),
        *("-drive", f"file={cargo},if=none,id=cargo,format=raw", "-device", "virtio-blk-pci,drive=cargo"),
        *("-device", "virtio-rng-pci", "-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *(
            "-append",
            " ".join((*image.manifest.cmdline, "systemd.hostname=throwaway", f"systemd.machine_id={MACHINE_ID}", *own)),
        ),
    ]
    process = subprocess.Popen(argv)
    try:
        assert process.wait(BOOT_SECONDS) == 0
    except subprocess.TimeoutExpired:
        pytest.fail(f"the guest does not end: {console.read_text(errors='replace')[-2000:]}")
    finally:
        process.kill()
        process.wait()


def answer(answers: Path, name: str) -> Any:
    text = (answers / name).read_text()
    assert text, (answers / f"{name}.err").read_text()
    return json.loads(text)


def status(answers: Path, name: str) -> int:
    return int((answers / f"{name}.rc").read_text())


def test_the_guest_was_set_up(answers: Path) -> None:
    assert status(answers, "setup") == 0, (answers / "setup.err").read_text()
    assert answer(answers, "before")["chrony"] == ["disabled", "inactive"]


def test_what_apt_says_is_told_and_the_others_go_on(answers: Path) -> None:
    """Without a repository no package can be had; everything else is done all the same."""
    first = answer(answers, "first")
    assert status(answers, "first") == 1
    said = {failure["title"]: failure["why"] for failure in first["failed"]}
    (title,) = said  # not the modules that this kernel does not have
    assert title.startswith("install ")
    assert "Unable to locate package" in said[title]
    assert [step for step in first["done"] if "grub" in step or "initramfs" in step or "ada" in step]


def test_apt_installs_what_is_missing(answers: Path) -> None:
    second = answer(answers, "second")
    assert [title for title in second["done"] if title.startswith("install ")]
    assert (status(answers, "second"), second["failed"]) == (0, [])


def test_the_machine_is_prepared(answers: Path) -> None:
    before, prepared = answer(answers, "before"), answer(answers, "prepared")
    files = prepared["files"]
    assert {NOUVEAU_FILE, GRUB_FILE, SYSCTL_FILE} <= files.keys() - before["files"].keys()
    # Debian's grub-mkconfig has read our file beside the machine's own.
    lines = [line for line in (answers / "grub").read_text().splitlines() if "/vmlinuz-" in line and "linux" in line]
    assert lines and "iommu=pt" in lines[0].split()  # and on Intel's processors intel_iommu=on
    assert prepared["inotify"].strip() == "512"
    assert prepared["chrony"] == ["enabled", "active"]
    assert {"kvm", "libvirt"} <= set(prepared["groups"].split())
    assert NOUVEAU_FILE.lstrip("/") in (answers / "initramfs").read_text().split()


def test_the_next_run_changes_nothing(answers: Path) -> None:
    third = answer(answers, "third")
    assert (status(answers, "third"), third["done"], third["failed"], third["skipped"]) == (0, [], [], [])
    assert answer(answers, "again") == answer(answers, "prepared")


def test_restore_leaves_the_machine_as_it_was(answers: Path) -> None:
    assert status(answers, "restore") == 0, answer(answers, "restore")
    before, restored = answer(answers, "before"), answer(answers, "restored")
    paths = before["files"].keys() | restored["files"].keys()
    assert {path for path in paths if before["files"].get(path) != restored["files"].get(path)} == set()
    assert restored == before
    assert NOUVEAU_FILE.lstrip("/") not in (answers / "initramfs-restored").read_text().split()
