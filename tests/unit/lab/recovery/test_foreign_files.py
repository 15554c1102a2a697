"""`destroy` removes a lab's directory, but never what somebody else put into it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.core.errors import ConflictError, StateError
from emulator.core.fs import mounts_below
from emulator.core.paths import LabPaths
from emulator.lab.open_journal import open_record
from emulator.lab.recovery.foreign_files import refuse_foreign_files
from tests.support.simulated_world import SimulatedHost, comparable, differences, lab_text


def copy_of_a_disk(lab: LabPaths) -> None:
    shutil.copy(lab.disks / "hpc-compute-1.qcow2", lab.disks / "hpc-compute-1.backup.qcow2")


def directory_among_the_disks(lab: LabPaths) -> None:
    (lab.disks / "old").mkdir()
    (lab.disks / "old" / "thesis.qcow2").write_text("years of work")


def leave(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("years of work")


STRANGERS: dict[str, tuple[Callable[[LabPaths], object], str]] = {
    "a copy of a disk": (copy_of_a_disk, "disks/hpc-compute-1.backup.qcow2"),
    "a directory among the disks": (directory_among_the_disks, "disks/old"),
    "a hidden file": (lambda lab: (lab.disks / ".data.img").write_text("data"), "disks/.data.img"),
    "a link": (lambda lab: (lab.disks / "hpc-compute-7.qcow2").symlink_to("/etc/passwd"), "disks/hpc-compute-7.qcow2"),
    "a file of the name of a node": (
        lambda lab: (lab.disks / "hpc-compute-7.qcow2").write_text("data"),
        "disks/hpc-compute-7.qcow2",
    ),
    "notes": (lambda lab: (lab.root / "notes.txt").write_text("notes"), "notes.txt"),
    "a hidden directory": (lambda lab: (lab.root / ".git").mkdir(), ".git"),
    "a disk beside the keys": (lambda lab: leave(lab.ssh / "data.bin"), "ssh/data.bin"),
    "a directory beside the keys": (lambda lab: leave(lab.ssh / "old" / "id"), "ssh/old"),
    "a directory of a file's name": (lambda lab: leave(lab.console / "notes.log" / "x"), "console/notes.log"),
    "results among the host keys": (lambda lab: leave(lab.ssh / "hosts" / "table.csv"), "ssh/hosts/table.csv"),
    "results among the consoles": (lambda lab: leave(lab.console / "run1.txt"), "console/run1.txt"),
    "results among the logs": (lambda lab: leave(lab.logs / "thesis.log"), "logs/thesis.log"),
    "results in the output": (lambda lab: leave(lab.output / "plot.png"), "output/plot.png"),
    "a playbook": (lambda lab: leave(lab.ansible / "my.yaml"), "ansible/my.yaml"),
    "a disk with Ansible's": (lambda lab: leave(lab.ansible / "hpc" / "x" / "home.RAW"), "ansible/hpc/x/home.RAW"),
    "a disk in libvirt's pool": (
        lambda lab: leave(lab.hypervisor / "lib" / "images" / "a.qcow2"),
        "hypervisor/lib/images/a.qcow2",
    ),
    "a disk with the secrets": (
        lambda lab: leave(lab.secrets / "access" / "ann" / "d.img"),
        "secrets/access/ann/d.img",
    ),
    "a directory": (lambda lab: (lab.root / "results").mkdir(), "results"),
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("record", ["kept", "lost"])
def test_what_is_not_the_lab_s_is_named_and_nothing_is_taken_away(host: SimulatedHost, name: str, record: str) -> None:
    host.provision(host.lab_file(lab_text()))
    put, told = STRANGERS[name]
    put(host.home.lab("demo"))
    if record == "lost":
        host.home.lab("demo").journal.unlink()
    before = comparable(host.save())
    with pytest.raises(ConflictError, match=f"not hyperscaler's: {told}\n") as caught:
        host.destroy()
    assert "move them" in caught.value.fix
    assert differences(before, comparable(host.save())) == {}


def test_half_made_files_are_the_lab_s_own(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    lab = host.home.lab("demo")
    for file in (lab.disks / ".hpc-compute-3.qcow2.partial", lab.root / ".cluster.yaml.new"):
        file.write_text("half")
    (lab.root / "journal.jsonl.damaged-20260101T000000").write_text("?")
    host.destroy()
    assert not lab.root.exists()


def test_what_the_program_and_its_tools_make_is_the_lab_s_own(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    lab = host.home.lab("demo")
    for file in (
        *(lab.ssh / name for name in ("ca_ed25519.pub", "known_hosts.old", ".config.new", ".id_ed25519.new.pub")),
        *(lab.ssh / "hosts" / name for name in ("authority", "hpc-compute-1.pub", "hpc-compute-1-cert.pub")),
        *(lab.console / f"hpc-compute-1.log{end}" for end in ("", ".0", ".12")),
        *(lab.logs / f"20260101T000000-{verb}.log" for verb in ("provision", "gpu-release")),
        *(lab.output / name for name in ("mdev_map.json", ".mdev_map.json.new")),
        *(lab.gpu / name for name in ("gpus.json", "gpus.lock", "gpus.new", "owners.json.damaged-20260101T000000")),
        *(lab.gpu / name for name in (".owners.json.lock", ".owners.json.layout", ".owners.json.new")),
        lab.ansible / "hpc" / "artifacts" / "run" / "job_events" / "1-a.json",
        lab.ansible / "cloud" / ".ansible" / "tmp" / "x",
    ):
        leave(file)
    refuse_foreign_files(host.environment(), open_record(host.home, "demo"))


def test_a_file_beside_the_simulated_gpus_is_named(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    leave(host.home.lab("demo").gpu / "notes")
    with pytest.raises(ConflictError, match="not hyperscaler's: gpu/notes\n"):
        refuse_foreign_files(host.environment(), open_record(host.home, "demo"))


def test_a_lab_s_directory_that_is_a_link_is_left_alone(host: SimulatedHost, tmp_path: Path) -> None:
    host.provision(host.lab_file(lab_text()))
    root = host.home.lab("demo").root
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="not where it should be"):
        host.destroy()
    assert (tmp_path / "elsewhere" / "disks" / "hpc-compute-1.qcow2").exists()


def test_every_path_of_a_lab_is_among_its_entries() -> None:
    """Else `destroy` would refuse to remove what the program itself has made."""
    lab = LabPaths(Path("/home/labs/demo"))
    paths = [getattr(lab, name) for name, value in vars(LabPaths).items() if isinstance(value, property)]
    tops = {path.relative_to(lab.root).parts[0] for path in paths}
    assert tops == set(LabPaths.ENTRIES)


def test_mounts_in_the_directory_are_seen() -> None:
    text = (
        "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
        "31 22 0:28 / /home/labs/demo rw - ext4 /dev/vdb rw\n"
        "32 22 0:29 / /home/labs/demo/disks/my\\040data rw - nfs server:/data rw\n"
        "33 22 0:30 / /home/labs/demo-2/disks rw - nfs server:/data rw\n"
    )
    assert list(mounts_below(Path("/home/labs/demo"), text)) == [Path("/home/labs/demo/disks/my data")]
