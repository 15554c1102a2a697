"""A lab's directory that was copied or renamed leads nobody to the lab that it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.apply.state import State
from emulator.core.errors import ConflictError, ExitCode
from emulator.core.hypervisors import EMBEDDED
from emulator.core.paths import Home
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.environment import Environment
from emulator.lab.open_journal import open_record, own_home
from emulator.lab.run import open_provisioned
from emulator.operations.destroy import destroy
from emulator.operations.gpu.release import release
from emulator.operations.provision import Options, preview, provision
from emulator.operations.status import lab_status, list_labs
from emulator.plan.model import Recorded
from emulator.plan.resources import Firewall, Hypervisor, Resource, Secret, Volume
from tests.support.simulated_world import (
    SIMULATED_GPUS,
    SYSTEM_URI,
    SimulatedHost,
    comparable,
    differences,
    gpu_section,
    lab_text,
)

QUIET = SilentReporter()
HYPERVISORS = (EMBEDDED, SYSTEM_URI)


def destroyed(env: Environment, name: str) -> None:
    destroy(env, name, QUIET, StopFlag(), confirm=lambda _plan: True)


def released(env: Environment, name: str) -> None:
    release(env, name, QUIET, StopFlag(), confirm=lambda _plan: True)


def opened(env: Environment, name: str) -> None:
    open_provisioned(env, open_record(env.home, name))


def changed(host: SimulatedHost, before: dict[str, str]) -> set[str]:
    return set(differences(before, comparable(host.save())))


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
@pytest.mark.parametrize("work", [destroyed, released, opened])
def test_a_copied_lab_is_refused_and_the_lab_itself_is_left_alone(
    host: SimulatedHost, hypervisor: str, work: Callable[[Environment, str], None]
) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=hypervisor)))
    copy = host.home.lab("demo-backup").root
    shutil.copytree(host.home.lab("demo").root, copy)
    before = comparable(host.save())
    with pytest.raises(ConflictError, match="the journal is another lab's") as caught:
        work(host.environment(), "demo-backup")
    assert caught.value.exit_code is ExitCode.CONFLICT
    assert caught.value.where == str(copy / "journal.jsonl")
    assert str(host.home.lab("demo").root) in caught.value.fix and f"rm -r {copy}" in caught.value.fix
    assert changed(host, before) == set()
    assert host.destroy().changes  # the lab itself is as well as ever
    assert copy.is_dir() and not host.home.lab("demo").root.exists()


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_a_renamed_lab_is_refused_until_it_has_its_name_back(host: SimulatedHost, hypervisor: str) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=hypervisor)))
    old, new = host.home.lab("demo").root, host.home.lab("prod").root
    old.rename(new)
    before = comparable(host.save())
    with pytest.raises(ConflictError, match="the journal is another lab's") as caught:
        destroyed(host.environment(), "prod")
    assert f"mv {new} {old}" in caught.value.fix
    assert changed(host, before) == set()
    new.rename(old)
    host.destroy()
    assert [domain.name for domain in host.hypervisor(quiet=True).domains() if domain.owner] == []


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_a_copied_home_does_not_touch_the_lab_in_the_first_one(host: SimulatedHost, hypervisor: str) -> None:
    lab = host.lab_file(lab_text(hypervisor=hypervisor))
    host.provision(lab)
    first, second = host.home, Home(host.root / "other")
    shutil.copytree(first.root, second.root)
    before = comparable(host.save())
    host.home = second
    for work in (
        lambda: provision(host.environment(), lab, Options(), QUIET, StopFlag()),
        lambda: preview(host.environment(), lab, QUIET),
        lambda: destroyed(host.environment(), "demo"),
    ):
        with pytest.raises(ConflictError, match="the journal is another lab's"):
            work()
        assert changed(host, before) == set()


def test_status_lists_a_copy_as_damaged_and_the_lab_as_well(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    shutil.copytree(host.home.lab("demo").root, host.home.lab("copy").root)
    lines = {line.name: line for line in list_labs(host.environment())}
    assert lines["demo"].problem == "" and lines["demo"].nodes == 2
    assert "another lab's" in lines["copy"].problem
    status = lab_status(host.environment(), "copy")
    assert status.nodes == () and "another lab's" in status.problems[0] and "rm -r" in status.problems[0]
    assert lab_status(host.environment(), "demo").problems == ()


def test_a_copy_says_nothing_of_gpus(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", gpus=SIMULATED_GPUS)
    try:
        lab = host.lab_file(lab_text(extra=gpu_section()))
        host.provision(lab)
        owners = host.home.gpu_owners.read_text()
        shutil.copytree(host.home.lab("demo").root, host.home.lab("a-copy").root)
        host.home.gpu_owners.write_text("damaged")
        host.provision(lab)
        assert '"a-copy"' not in host.home.gpu_owners.read_text() and '"demo"' in owners
    finally:
        host.close()


def recorded(*resources: Resource) -> State:
    return State({resource.id: Recorded(resource, {}) for resource in resources})


def test_any_record_that_is_not_the_lab_s_own_is_enough(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lab = home.lab("demo")

    def secret(path: Path | str) -> Secret:
        return Secret(name="munge", path=str(path), size_bytes=1, encoding="raw")

    own: tuple[Resource, ...] = (
        secret(lab.munge_key),
        Firewall(name="lab", table="hyperscaler_demo", zones=(), rules=()),
    )
    assert own_home(home, "demo", recorded(*own)) == home
    for other in (
        secret("/etc/passwd"),
        secret("relative"),
        secret(home.lab("demo-2").munge_key),
        secret(lab.root / ".." / "demo-2" / "secrets" / "munge.key"),
        secret(lab.root),
        Hypervisor(name="embedded", directory=str(lab.hypervisor), namespace="hs-other-123456"),
        Firewall(name="lab", table="hyperscaler_other", zones=(), rules=()),
    ):
        with pytest.raises(ConflictError, match="another lab's"):
            own_home(home, "demo", recorded(*own, other))


def test_a_lab_s_directory_that_is_a_link_to_another_lab_s_is_no_lab(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lab("demo").disks.mkdir(parents=True)
    home.lab("alias").root.symlink_to(home.lab("demo").root)
    disk = Volume(name="a", path=str(home.lab("demo").disks / "a.qcow2"), image="i", size_gib=1)
    assert own_home(home, "demo", recorded(disk)) == home
    with pytest.raises(ConflictError, match="another lab's"):
        own_home(home, "alias", recorded(disk))
