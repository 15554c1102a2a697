"""A Slurm lab on the host's own libvirt, whose guests are not root's unless a domain says so: disks and images are in
directories that nobody else may enter. The tests run in this order."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.core.paths import Home
from emulator.core.ports.guest_accounts import is_reserved
from tests.support.labs import host_snapshot, hyperscaler, left_behind
from tests.support.system_libvirt import system_libvirt

pytestmark = pytest.mark.e2e

LAB = "e2e-system"
SPEC = f"""
version: "1.0"
metadata: {{name: {LAB}}}
clusters:
  hpc:
    controller: {{cpu_cores: 2, memory_gb: 2, disk_gb: 8}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 8}}
hypervisor: {{uri: "qemu:///system"}}
"""
VIRSH = ("virsh", "--quiet", "--connect", "qemu:///system")


@pytest.fixture(scope="module")
def before() -> dict[str, list[str]]:
    return host_snapshot()


@pytest.fixture(scope="module")
def within(before: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    with system_libvirt() as words:
        yield words
        if Home.default().lab(LAB).root.exists():
            hyperscaler("destroy", LAB, "--yes", check=False, within=words)


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "cluster.yaml"
    path.write_text(SPEC)
    return path


def seen(within: tuple[str, ...], *words: str) -> list[str]:
    """What libvirt and the kernel have there, line by line."""
    done = subprocess.run([*within, *words], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def everything(within: tuple[str, ...]) -> dict[str, list[str]]:
    return {
        "domains": seen(within, *VIRSH, "list", "--all", "--name"),
        "networks": seen(within, *VIRSH, "net-list", "--all", "--name"),
        "pools": seen(within, *VIRSH, "pool-list", "--all", "--name"),
        "tables": seen(within, "nft", "list", "tables"),
        "links": [line.split(":")[1] for line in seen(within, "ip", "-o", "link") if line],
    }


def test_the_lab_comes_up_and_verifies_itself(within: tuple[str, ...], lab_file: Path) -> None:
    blank = everything(within)
    provisioned = hyperscaler("provision", lab_file, "--yes", "--json", within=within).json()
    assert provisioned["checks"] and all(check["ok"] for check in provisioned["checks"])
    assert len(everything(within)["domains"]) == len(blank["domains"]) + 2
    owners = [path.stat().st_uid for path in Home.default().lab(LAB).disks.iterdir()]
    assert len(set(owners)) == len(owners) == 2 and all(map(is_reserved, owners)), "a user for each guest"
    images = {path.stat().st_uid for path in Home.default().images.rglob("*") if path.is_file()}
    assert images == {0}, "golden images keep their owner"


def test_a_job_runs_and_nothing_is_left_to_do(within: tuple[str, ...], lab_file: Path) -> None:
    job = hyperscaler("ssh", LAB, "hpc-controller", "--", "srun", "-N1", "hostname", within=within)
    assert job.stdout.strip() == "hpc-compute-1"
    assert hyperscaler("plan", lab_file, "--json", within=within).json()["changes"] == []
    assert hyperscaler("status", LAB, "--json", within=within).json()["hypervisor"] == "qemu:///system"


def test_the_lab_is_stopped_and_started(within: tuple[str, ...], lab_file: Path) -> None:
    seen(within, *VIRSH, "destroy", f"{LAB}-hpc-compute-1")
    hyperscaler("provision", lab_file, "--yes", within=within)
    assert hyperscaler("plan", lab_file, "--json", within=within).json()["changes"] == []


def test_nothing_is_left(within: tuple[str, ...], before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes", within=within)
    accounts = Home.system().guest_accounts
    assert not accounts.exists() or f'"lab": "{LAB}"' not in accounts.read_text()
    after = everything(within)
    assert not [name for name in after["domains"] if LAB in name]
    assert not [name for name in after["networks"] if name not in ("", "default")]
    assert [name for name in after["links"] if name.strip() != "lo"] == []
    assert after["tables"] == [""] and after["pools"] == [""]
    left = left_behind(before, host_snapshot())
    daemons = ("libvirtd", "virtlogd")
    assert [item for kind, items in left.items() for item in items if not any(word in item for word in daemons)] == []
