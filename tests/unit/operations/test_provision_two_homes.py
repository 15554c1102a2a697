"""Labs of one name in two home directories share a libvirt, and nothing else."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.apply.ownership import LabIdentity
from emulator.core.errors import ConflictError, UsageError
from emulator.core.paths import Home
from emulator.core.ports import Ownership
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.environment import Environment
from emulator.operations.destroy import destroy
from emulator.operations.provision import Options, provision
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, comparable, differences, lab_text


def another_home(host: SimulatedHost) -> Environment:
    home = Home(host.root / "other")
    return dataclasses.replace(host.environment(), home=home, guest_accounts=host.guest_accounts(home))


def destroyed(env: Environment) -> None:
    destroy(env, "demo", SilentReporter(), StopFlag(), confirm=lambda _plan: True)


def test_destroying_under_another_home_takes_nothing(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI)))
    before = comparable(host.save())
    with pytest.raises(UsageError, match="there is no lab demo"):
        destroyed(another_home(host))
    left = differences(before, comparable(host.save()))
    assert {name for name in left if not name.startswith("other")} == set()


def test_provisioning_under_another_home_names_the_owner_and_its_home(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    before = comparable(host.save())
    with pytest.raises(ConflictError, match=rf"\(of lab demo in {host.home.root}\)"):
        provision(another_home(host), lab, Options(), SilentReporter(), StopFlag())
    left = differences(before, comparable(host.save()))
    assert {name for name in left if not name.startswith("other")} == set()


def unmark(host: SimulatedHost) -> None:
    """What an older version made: no home in the marks."""
    file = host.machine / "libvirt.json"
    text = file.read_text().replace(f' home=\\"{host.home.id}\\"', "")
    assert text != file.read_text()
    file.write_text(text)


@pytest.mark.parametrize("lose", [lambda _lab: None, lambda lab: lab.journal.unlink()])
def test_a_lab_of_an_older_version_is_still_the_lab_s(host: SimulatedHost, lose: Callable[[object], None]) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    unmark(host)
    assert host.plan(lab).is_empty
    lose(host.home.lab("demo"))
    assert {change.action for change in host.plan(lab).changes} <= {"adopt"}
    with pytest.raises(UsageError):
        destroyed(another_home(host))
    host.destroy()
    assert not [info for info in host.hypervisor(quiet=True).domains() if info.owner]


def test_the_disks_of_an_unmarked_domain_tell_whose_it_is(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI)))
    unmark(host)
    other = another_home(host)
    shutil.copytree(host.home.lab("demo").root, other.home.lab("demo").root, ignore=shutil.ignore_patterns("disks"))
    domain = host.hypervisor(quiet=True).domain("demo-hpc-controller")
    assert domain is not None
    mine, theirs = (
        LabIdentity("demo", home.id, home.lab("demo").disks, inherits=True) for home in (host.home, other.home)
    )
    assert mine.owns_domain(domain) and not theirs.owns_domain(domain)


def test_a_home_is_known_by_its_path_without_links(tmp_path: Path) -> None:
    (tmp_path / "a b\x01").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b\x01")
    assert Home(tmp_path / "link").id == Home(tmp_path / "a b\x01").id
    assert Home(tmp_path / "link").id.endswith("a%20b%01")
    assert Home(tmp_path / "absent").id != Home(tmp_path).id


def test_a_mark_of_another_lab_or_home_is_not_ours() -> None:
    lab = LabIdentity("demo", "/h", Path("/h/labs/demo/disks"))
    assert lab.owns(lab.mark("network/hpc", "d"))
    for mark in (
        None,
        Ownership("demo-2", "x", "d", "/h"),
        Ownership("demo", "x", "d", "/g"),
        Ownership("demo", "x", "d"),
    ):
        assert not lab.owns(mark)
