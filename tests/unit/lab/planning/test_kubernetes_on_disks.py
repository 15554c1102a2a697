"""Workers that are added to a cluster get the Kubernetes of its control plane, whatever the sources would give now."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from emulator.core.debian.releases import image_of
from emulator.core.errors import ConflictError, StateError, UsageError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.host.acceleration import AccelerationDecision
from emulator.images.build.builder import BUILDER_VERSION, DISK, INITRD, KERNEL
from emulator.images.build.input_tree import input_digest
from emulator.images.build.input_version import record_path
from emulator.images.lab_images import LabImages
from emulator.images.recipe import load_recipe
from emulator.images.store.checksums import artefact, digest_of
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.manifest import MANIFEST_NAME, Manifest
from emulator.images.store.pointers import CURRENT
from emulator.images.store.store import ImageStore
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.kubernetes_on_disks import VERSION_FACT
from emulator.lab.planning.plan import open_to_plan, plan_lab
from emulator.labfile.model import KubernetesSpec
from emulator.operations.provision import Options, provision
from emulator.plan.model import Change, Plan
from tests.support.simulated_world import SimulatedHost

LAB = """\
version: "1.0"
metadata: {{name: demo}}
clusters:
  cloud:
    control_plane: {{cpu_cores: 2, memory_gb: 3, disk_gb: 10}}
    worker_nodes:
      cpu_workers: {{count: {workers}, cpu_cores: 1, memory_gb: 2, disk_gb: 10}}
    kubernetes_config: {{version: "{version}", source: "{source}"}}
hypervisor: {{uri: embedded}}
"""
HEAD, FIRST, SECOND = "cloud-control-plane", "cloud-cpu-worker-1", "cloud-cpu-worker-2"
IMAGE = image_of("cloud-base", None)


class Source:
    """What the sources of Kubernetes give now: the tree of one release, or nothing that could be had at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.version = "1.37.2"
        self.is_made = True
        self.asked = 0

    def tree(self) -> Path:
        tree = self._directory / self.version
        record = tree / record_path("kubernetes")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"version": self.version}))
        return tree

    def ready(self) -> Path | None:
        self.asked += 1
        return self.tree() if self.is_made else None

    def make(self, progress: Callable[[str], None]) -> Path:
        raise AssertionError("nothing is to be made")

    def describe(self) -> str:
        return f"Kubernetes {self.version} from a test"


class Host:
    """A machine with a real image store in it, whose builds are small files."""

    def __init__(self, simulated: SimulatedHost) -> None:
        self.simulated = simulated
        self.source = Source(simulated.files / "releases")
        self.store = ImageStore(simulated.home.images, cast(Any, None))
        self.wants: list[str] = []
        """The versions that the image store was opened for, oldest first."""

    def image(self, packages: str = "", *, says_version: bool = True) -> GoldenImage:
        """A build of what the source gives now; it is the current one then."""
        home = self.store.root / IMAGE
        scratch = home / ".work-test"
        scratch.mkdir(parents=True)
        for name in (DISK, INITRD, KERNEL):
            (scratch / name).write_text(f"{name} {self.source.version} {packages}")
        recipe = load_recipe(IMAGE)
        artefacts = {name: artefact(scratch / name) for name in (DISK, INITRD, KERNEL)}
        manifest = Manifest(
            name=IMAGE,
            digest=digest_of(artefacts),
            recipe_digest=recipe.digest(builder_version=BUILDER_VERSION),
            builder_version=BUILDER_VERSION,
            suite="bookworm",
            architecture="amd64",
            kernel_version="6.1",
            cmdline=recipe.cmdline,
            virtual_size=1,
            built_at="2026-01-01T00:00:00+00:00",
            build_seconds=1.0,
            artefacts=artefacts,
            inputs={"kubernetes": input_digest(self.source.tree())},
            versions={"kubernetes": self.source.version} if says_version else {},
        )
        (scratch / MANIFEST_NAME).write_text(manifest.to_json())
        final = home / manifest.digest[:12]
        scratch.rename(final)
        self.store.pointers(IMAGE).set(CURRENT, final.name)
        return self.store.open(final)

    def environment(self) -> Environment:
        inputs = {"kubernetes": self.source}

        def images(wants: KubernetesSpec | None) -> LabImages:
            self.wants.append(wants.version if wants else "")
            return LabImages(self.store, inputs)

        return dataclasses.replace(self.simulated.environment(), images=images)

    def lab(self, *, workers: int = 1, version: str = "", source: str = "auto") -> LoadedLab:
        return self.simulated.lab_file(LAB.format(workers=workers, version=version, source=source))

    def plan(self, loaded: LoadedLab) -> Plan:
        env, state, spec = self.environment(), self.simulated.state(), loaded.spec
        lab = open_to_plan(env, open_record(env.home, spec.name), spec)
        return plan_lab(lab, state, spec, AccelerationDecision(accelerated=False))

    def provision(self, loaded: LoadedLab) -> None:
        provision(self.environment(), loaded, Options(), SilentReporter(), StopFlag())

    def base(self, node: str) -> str:
        """Digest of the image under the node's disk, as its directory has it."""
        handle = self.simulated.state().resources[f"volume/{node}"].handle
        return Path(str(handle["base"])).parent.name


@pytest.fixture
def machine(host: SimulatedHost) -> Host:
    return Host(host)


def change_of(plan: Plan, resource: str) -> Change:
    return next(change for change in plan.changes if change.resource.id == resource)


@pytest.mark.parametrize("source", ["auto", "upstream"])
@pytest.mark.parametrize("is_made", [True, False])
def test_a_worker_that_is_added_gets_the_control_planes_kubernetes(machine: Host, is_made: bool, source: str) -> None:
    """In the meantime another lab has fetched a newer one, or the cache was cleared and upstream can be reached."""
    first = machine.image()
    machine.provision(machine.lab())
    machine.source.version = "1.34.1"
    machine.image()
    machine.source.is_made, machine.source.asked = is_made, 0
    machine.provision(machine.lab(workers=2, source=source))
    assert machine.base(SECOND) == machine.base(HEAD) == first.directory.name
    assert machine.source.asked == 0, "what the sources have does not count"
    assert machine.plan(machine.lab(workers=2)).is_empty


def test_the_newest_packages_are_taken_where_the_kubernetes_is_the_same(machine: Host) -> None:
    machine.image()
    machine.provision(machine.lab())
    patched = machine.image("newer packages")
    machine.provision(machine.lab(workers=2))
    assert machine.base(SECOND) == patched.directory.name


def test_without_a_control_plane_the_source_decides(machine: Host) -> None:
    """It was never made, or its disk is gone, so that it is made anew: workers that are made then follow no other."""
    machine.image()
    machine.provision(machine.lab())
    machine.source.version = "1.34.1"
    newer = machine.image()
    (machine.simulated.home.lab("demo").disks / f"{HEAD}.qcow2").unlink()
    machine.provision(machine.lab(workers=2))
    assert machine.base(HEAD) == machine.base(SECOND) == newer.directory.name


def test_a_lab_whose_record_was_lost_is_followed_too(machine: Host) -> None:
    first = machine.image()
    machine.provision(machine.lab())
    machine.simulated.home.lab("demo").journal.unlink()
    machine.source.version = "1.34.1"
    machine.image()
    machine.provision(machine.lab(workers=2))
    assert machine.base(SECOND) == first.directory.name


@pytest.mark.parametrize("workers", [1, 2])
def test_another_version_than_the_control_planes_is_refused_before_anything_is_made(
    machine: Host, workers: int
) -> None:
    machine.image()
    machine.provision(machine.lab())
    before = machine.simulated.save()
    wanted = machine.lab(workers=workers, version="1.35")
    (blocker,) = machine.plan(wanted).blockers
    assert blocker.resource_id == f"volume/{HEAD}"
    assert blocker.fix.startswith("write version: 1.37.2 or remove the key")
    with pytest.raises(
        ConflictError, match=r"has Kubernetes 1\.37\.2 on its disk, and the file now asks for version 1"
    ):
        machine.provision(wanted)
    kept = {name: content for name, content in machine.simulated.save().items() if "/disks/" in name}
    assert kept == {name: content for name, content in before.items() if "/disks/" in name}
    assert machine.simulated.state().facts["phase/verify"] == "done", "nothing was begun"


@pytest.mark.parametrize("version", ["1.37", "v1.37.2"])
def test_the_version_that_the_control_plane_has_is_no_other(machine: Host, version: str) -> None:
    machine.image()
    machine.provision(machine.lab())
    plan = machine.plan(machine.lab(version=version))
    assert plan.is_empty
    assert plan.blockers == ()


def test_an_image_of_an_earlier_version_is_followed_though_it_does_not_say_its_kubernetes(machine: Host) -> None:
    first = machine.image(says_version=False)
    machine.provision(machine.lab())
    machine.source.version = "1.34.1"
    machine.image()
    assert machine.plan(machine.lab(version="1.35")).blockers == (), "the playbook refuses it"
    machine.provision(machine.lab(workers=2))
    assert machine.base(SECOND) == first.directory.name


def test_a_control_planes_image_that_is_damaged_is_named(machine: Host) -> None:
    image = machine.image()
    machine.provision(machine.lab())
    machine.source.version = "1.34.1"
    machine.image()
    image.kernel.unlink()
    with pytest.raises(StateError, match="cannot be used for new ones: vmlinuz is missing") as caught:
        machine.plan(machine.lab(workers=2))
    assert caught.value.where == str(image.directory)


def test_a_control_planes_image_that_is_gone_is_named(machine: Host) -> None:
    image = machine.image()
    machine.provision(machine.lab())
    machine.source.version = "1.34.1"
    machine.image()
    for file in image.directory.iterdir():
        file.unlink()
    image.directory.rmdir()
    reason = change_of(machine.plan(machine.lab(workers=2)), f"volume/{HEAD}").reason
    assert f"its golden image {image.disk} is gone; the disk cannot be read" in reason
    assert "kubernetes 1.34.1" in reason


# ------------------------------------------------------------ what a plan says
def test_a_plan_says_which_kubernetes_new_disks_get(machine: Host) -> None:
    image = machine.image()
    plan = machine.plan(machine.lab())
    expected = f"not present; made from {IMAGE} {image.digest[:12]}, kubernetes 1.37.2"
    assert {change_of(plan, f"volume/{name}").reason for name in (HEAD, FIRST)} == {expected}
    machine.source.version = "1.34.1"
    machine.image()
    assert machine.plan(machine.lab()).digest != plan.digest


def test_the_image_that_is_to_be_made_says_which_kubernetes(machine: Host) -> None:
    digests = set()
    for version in ("1.37.2", "1.35.4"):
        for machine.source.is_made in (True, False):
            machine.source.version = version
            plan = machine.plan(machine.lab())
            assert f"Kubernetes {version} from a test" in change_of(plan, f"image/{IMAGE}").reason
            assert change_of(plan, f"volume/{HEAD}").reason == "not present"
            digests.add(plan.digest)
    assert len(digests) == 4


def test_a_source_that_cannot_give_it_is_told_as_before(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def ready() -> Path:
        raise UsageError("there is no bundle")

    monkeypatch.setattr(machine.source, "ready", ready)
    with pytest.raises(UsageError, match="there is no bundle"):
        machine.plan(machine.lab())


# ------------------------------------------------------------ after an upgrade, and on the way to one
def upgraded(machine: Host, version: str) -> None:
    open_record(machine.simulated.home, "demo").store.fact(VERSION_FACT, version)


def test_another_minor_version_that_there_is_a_way_to_is_for_upgrade(machine: Host) -> None:
    machine.source.version = "1.36.5"
    machine.image()
    machine.provision(machine.lab())
    (blocker,) = machine.plan(machine.lab(version="1.37")).blockers
    assert blocker.what.endswith("the file now asks for version 1.37, which `upgrade` brings to its nodes")
    assert blocker.fix == "hyperscaler upgrade demo --to 1.37 --file FILE, or write version: 1.36.5"


def test_a_newer_default_replaces_nothing_and_is_told(machine: Host) -> None:
    """A new lab gets 1.37 now; this one was made when 1.36 was the newest, or with a source that gave it."""
    machine.source.version = "1.36.5"
    machine.image()
    machine.provision(machine.lab())
    machine.source.version = "1.37.2"
    machine.image()
    plan = machine.plan(machine.lab())
    assert plan.is_empty and plan.blockers == ()
    assert plan.notes == (
        f"{HEAD} has Kubernetes 1.36.5 and keeps it, like all nodes of its cluster; to have 1.37:"
        " hyperscaler upgrade demo --to 1.37",
    )


def test_a_worker_that_is_added_after_an_upgrade_gets_the_clusters_version(machine: Host) -> None:
    machine.source.version = "1.36.5"
    machine.image()
    machine.provision(machine.lab())
    upgraded(machine, "1.37.2")
    machine.source.version = "1.37.2"
    newer = machine.image()
    for version in ("1.37", ""):
        plan = machine.plan(machine.lab(version=version))
        assert plan.is_empty and (plan.blockers, plan.notes) == ((), ())
    machine.provision(machine.lab(workers=2, version="1.37"))
    assert machine.base(SECOND) == newer.directory.name
    assert machine.wants[-1] == "1.37"
    (blocker,) = machine.plan(machine.lab(workers=2, version="1.36")).blockers
    assert "has Kubernetes 1.37.2 on its disk" in blocker.what and "cannot be changed in place" in blocker.what


def test_without_a_version_in_the_file_it_is_the_minor_version_of_the_cluster(machine: Host) -> None:
    machine.source.version = "1.36.5"
    machine.image()
    machine.provision(machine.lab())
    upgraded(machine, "1.37.2")
    machine.plan(machine.lab())
    assert machine.wants[-1] == "1.37", "the newest may be 1.38 by then"


def test_a_control_plane_that_is_made_anew_has_what_its_image_has(machine: Host) -> None:
    machine.source.version = "1.36.5"
    first = machine.image()
    machine.provision(machine.lab())
    upgraded(machine, "1.37.2")
    (machine.simulated.home.lab("demo").disks / f"{HEAD}.qcow2").unlink()
    machine.provision(machine.lab(version="1.36"))
    assert machine.base(HEAD) == first.directory.name
    assert machine.simulated.state().facts[VERSION_FACT] == ""
    assert machine.plan(machine.lab(version="1.36")).blockers == ()
