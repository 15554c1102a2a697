"""A cluster keeps the Debian release that it was made with when the product's default changes."""

from __future__ import annotations

import pytest

from emulator.core.debian import releases
from emulator.core.debian.releases import Release, SlurmFeature
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.planning.release_on_disks import slurm_on_disks
from emulator.plan.model import Action, Plan
from tests.support.simulated_world import SimulatedHost

LAB = """\
version: "1.0"
metadata: {{name: demo}}
clusters:
  hpc:
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    compute_nodes: {{count: {compute}, cpu_cores: 1, memory_gb: 1, disk_gb: 10, gpu_enabled: false}}
{images}hypervisor: {{uri: embedded}}
"""
OLDER = "Debian 12 as before, though new labs get Debian 13; to change over, destroy the lab and provision it again"


def plan(host: SimulatedHost, images: str = "", *, compute: int = 1) -> Plan:
    return host.plan(host.lab_file(LAB.format(images=images, compute=compute)))


def provision(host: SimulatedHost, images: str = "", *, compute: int = 1) -> None:
    host.provision(host.lab_file(LAB.format(images=images, compute=compute)))


def bases(host: SimulatedHost) -> dict[str, str]:
    """Image under the disk of each node."""
    volumes = (record for key, record in host.state().resources.items() if key.startswith("volume/"))
    return {record.resource.name: str(record.handle["base"]).split("/")[-2] for record in volumes}


class Product:
    """Versions of the product, by the release that new labs get."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def gives(self, release: Release) -> None:
        self._monkeypatch.setattr(releases, "DEFAULT_RELEASE", release)


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> Product:
    made = Product(monkeypatch)
    made.gives(Release.BOOKWORM)
    return made


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_default_that_changes_replaces_nothing_and_is_said(
    host: SimulatedHost, product: Product, is_recorded: bool
) -> None:
    provision(host)
    product.gives(Release.TRIXIE)
    if not is_recorded:
        host.home.lab("demo").journal.unlink()
    found = plan(host)
    assert {change.action for change in found.changes} <= ({Action.ADOPT} if not is_recorded else set())
    assert f"hpc-controller, hpc-compute-1: {OLDER}" in found.notes


def test_a_lab_of_debian_12_keeps_it_also_when_it_grows(host: SimulatedHost, product: Product) -> None:
    product.gives(Release.BOOKWORM)
    provision(host)
    product.gives(Release.TRIXIE)
    assert set(bases(host).values()) == {"hpc-base"}
    found = plan(host)
    assert found.is_empty
    assert f"hpc-controller, hpc-compute-1: {OLDER}" in found.notes
    grown = host.provision(host.lab_file(LAB.format(images="", compute=2)))
    assert [note for note in grown.plan.notes if OLDER in note], "what `provision` prints before it asks"
    assert set(bases(host).values()) == {"hpc-base"}


def test_what_is_added_gets_the_release_of_its_cluster(host: SimulatedHost, product: Product) -> None:
    provision(host)
    product.gives(Release.TRIXIE)
    provision(host, compute=2)
    assert set(bases(host).values()) == {"hpc-base"}
    assert plan(host, compute=2).is_empty


def test_a_new_lab_gets_the_default_and_says_nothing(host: SimulatedHost, product: Product) -> None:
    product.gives(Release.TRIXIE)
    found = plan(host)
    assert not [note for note in found.notes if "Debian" in note]
    provision(host)
    assert set(bases(host).values()) == {"hpc-base-trixie"}


def test_a_release_in_the_file_is_a_wish_that_the_plan_shows(host: SimulatedHost, product: Product) -> None:
    product.gives(Release.BOOKWORM)
    provision(host)
    found = plan(host, "images: {release: trixie}\n")
    replaced = {change.resource.id: change.reason for change in found.changes if change.action is Action.REPLACE}
    assert "image hpc-base -> hpc-base-trixie" in replaced["volume/hpc-compute-1"]
    assert not [note for note in found.notes if "Debian" in note]


@pytest.mark.parametrize("images", ["images: {release: bookworm}\n", "images: {hpc: hpc-base-bookworm}\n"])
def test_a_file_can_hold_on_to_a_release(host: SimulatedHost, product: Product, images: str) -> None:
    product.gives(Release.TRIXIE)
    provision(host, images)
    assert set(bases(host).values()) == {"hpc-base"}
    assert plan(host, images).is_empty
    assert not [note for note in plan(host, images).notes if "Debian" in note]


@pytest.mark.parametrize(("made_with", "features"), [(Release.BOOKWORM, False), (Release.TRIXIE, True)])
def test_slurm_is_what_the_nodes_were_made_with(
    host: SimulatedHost, product: Product, made_with: Release, *, features: bool
) -> None:
    """Whatever new labs get: compute nodes with 22.05 cannot ask slurmctld for a file that it does not hand out."""
    product.gives(made_with)
    provision(host)
    product.gives(Release.BOOKWORM if made_with is Release.TRIXIE else Release.TRIXIE)
    spec = load_recorded_lab(host.home, "demo").spec
    assert slurm_on_disks(spec, host.state().resources) == (frozenset(SlurmFeature) if features else frozenset())
    assert slurm_on_disks(spec, {}) == (frozenset() if features else frozenset(SlurmFeature))
