"""An image through Packer, from the recipe to a job: a real run of `packer build` in a virtual machine, the import into
an image store of its own, and a Slurm lab whose nodes stand on that very build. The tests run in this order."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.paths import Home
from emulator.images.packer.files import template_path
from emulator.images.store.store import ImageStore
from tests.support.labs import host_snapshot, hyperscaler, left_behind

pytestmark = pytest.mark.e2e

LAB = "e2e-packer"
TAG = "packer"
SPEC = f"""
version: "1.0"
metadata: {{name: {LAB}}}
clusters:
  hpc:
    controller: {{cpu_cores: 2, memory_gb: 2, disk_gb: 8}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 8}}
images: {{hpc: "hpc-base:{TAG}"}}
hypervisor: {{uri: embedded}}
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of the test's own: the host's images stay as they are. Short, for the sockets below it."""
    directory = Path(tempfile.mkdtemp(prefix="hs-packer-", dir="/var/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSCALER_HOME", str(directory))
        yield directory
        if Home.default().lab(LAB).root.exists():
            hyperscaler("destroy", LAB, "--yes", check=False)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def lab_file(home: Path) -> Path:
    path = home / "cluster.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def before(home: Path) -> dict[str, list[str]]:
    return host_snapshot()


def test_packer_makes_the_image_that_the_recipe_says(home: Path, before: dict[str, list[str]]) -> None:
    build = home / "cache" / "packer"
    hyperscaler("image", "packer-files", "hpc-base", build)
    started = time.monotonic()
    argv = ["packer", "build", "-color=false", "-only=qemu.base", f"-var-file={build / 'packer.pkrvars.json'}"]
    environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "PACKER_CACHE_DIR": str(build / "cache")}
    done = subprocess.run([*argv, template_path()], env=environment, check=False)
    assert done.returncode == 0
    print(f"packer build took {time.monotonic() - started:.0f} s")
    image = hyperscaler("image", "import", build, "--tag", TAG, "--json").json()
    print(f"import took {image['build_seconds']} s")
    store = ImageStore(Home.default().images, HostProcess())
    made = store.show(f"hpc-base:{TAG}")
    assert made.manifest.tools["packer"] != "unknown"
    assert store.needs_build("hpc-base") is None
    for name, artefact in made.manifest.artefacts.items():
        print(f"{artefact.sha256}  {name}")


def test_it_has_the_packages_of_a_fast_build(home: Path) -> None:
    store = ImageStore(Home.default().images, HostProcess())
    through_packer = store.show(f"hpc-base:{TAG}")
    fast = store.build("hpc-base", progress=lambda _phase, _line: None, force=True)
    print(f"the fast build took {fast.manifest.build_seconds} s")
    assert through_packer.manifest.packages == fast.manifest.packages
    assert through_packer.manifest.cmdline == fast.manifest.cmdline
    for name in ("vmlinuz", "initrd.img"):
        assert through_packer.manifest.artefacts[name] == fast.manifest.artefacts[name]


def test_a_lab_runs_on_it(lab_file: Path) -> None:
    provisioned = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert provisioned["checks"]
    assert all(check["ok"] for check in provisioned["checks"])
    image = ImageStore(Home.default().images, HostProcess()).show(f"hpc-base:{TAG}")
    for disk in (Home.default().lab(LAB).root / "disks").iterdir():
        described = subprocess.run(["qemu-img", "info", "-U", disk], capture_output=True, text=True, check=True).stdout
        assert f"backing file: {image.disk}\n" in described
    job = hyperscaler("ssh", LAB, "hpc-controller", "--", "srun", "-N1", "hostname")
    assert job.stdout.strip() == "hpc-compute-1"
    assert hyperscaler("plan", lab_file, "--json").json()["changes"] == []


def test_nothing_is_left(home: Path, before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes")
    left = left_behind(before, host_snapshot())
    assert {kind: what for kind, what in left.items() if kind != "files"} == {}
