"""A home directory has one name, however it is spelled; labs that were made under another one are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.apply.state import State
from emulator.core.hypervisors import EMBEDDED
from emulator.core.paths import Home
from emulator.core.progress import SilentReporter
from emulator.lab.names import namespace_name
from emulator.lab.open_journal import own_home
from emulator.operations.host.autostart import enable_autostart, has_autostart
from emulator.operations.host.program import Program
from emulator.operations.status import lab_status
from emulator.plan.model import Recorded
from emulator.plan.resources import Hypervisor, Volume
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, lab_text

HYPERVISORS = (EMBEDDED, SYSTEM_URI)


def home_of(monkeypatch: pytest.MonkeyPatch, spelled: Path | str) -> Home:
    monkeypatch.setenv("HYPERSCALER_HOME", str(spelled))
    return Home.default()


def test_one_home_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    monkeypatch.chdir(tmp_path)
    for spelled in (real, link, "link", real / ".." / "link" / ".", f"{real}/", f"//{real}"):
        assert home_of(monkeypatch, spelled) == Home(real), spelled
    assert home_of(monkeypatch, link / "new") == Home(real / "new")
    link.unlink()
    link.symlink_to(link)  # leads nowhere: what follows says so when it makes a directory
    assert home_of(monkeypatch, link) == Home(link)


def test_a_user_s_own_home_is_found_through_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.delenv("HYPERSCALER_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "link"))
    assert Home.default() == Home(tmp_path / "hyperscaler")


def test_root_s_home_keeps_its_name_also_as_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "system"
    link.symlink_to(tmp_path / "disk")
    monkeypatch.setattr(Home, "system", classmethod(lambda cls: cls(link)))
    for spelled in (link, tmp_path / "disk"):
        assert home_of(monkeypatch, spelled) == Home(link)
        assert namespace_name(home_of(monkeypatch, spelled), "demo") == "hs-demo"


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
@pytest.mark.parametrize("by_link_first", [True, False])
def test_a_lab_that_was_made_under_another_name_of_the_home_stays_as_it_is(
    host: SimulatedHost, hypervisor: str, by_link_first: bool
) -> None:
    link = Home(host.root.with_name("link"))
    link.root.symlink_to(host.home.root)
    names = (link, host.home) if by_link_first else (host.home, link)
    lab = host.lab_file(lab_text(hypervisor=hypervisor))
    host.home = names[0]
    host.provision(lab)
    enable_autostart(host.environment(), "demo", Program(Path("/usr/bin/hyperscaler")), SilentReporter())
    disks = host.disk_data()
    host.home = names[1]
    assert lab_status(host.environment(), "demo").problems == ()
    done = host.provision(lab)
    assert done.plan.is_empty and host.disk_data() == disks
    assert has_autostart(host.environment(), "demo")
    host.destroy()
    assert list((host.machine / "namespaces").iterdir()) == []
    assert not host.home.lab("demo").root.exists() and list(host.units.rglob("*.service")) == []
    assert [domain for domain in host.hypervisor(quiet=True).domains() if domain.owner] == []


def test_disks_under_two_names_follow_the_hypervisor(tmp_path: Path) -> None:
    real, link = Home(tmp_path / "real"), Home(tmp_path / "link")
    real.lab("demo").disks.mkdir(parents=True)
    link.root.symlink_to(real.root)

    def disk(name: str, home: Home) -> Volume:
        return Volume(name=name, path=str(home.lab("demo").disks / name), image="i", size_gib=1)

    daemon = Hypervisor(
        name="embedded", directory=str(link.lab("demo").hypervisor), namespace=namespace_name(link, "demo")
    )
    records = {item.id: Recorded(item, {}) for item in (disk("a", real), disk("b", real), daemon)}
    assert own_home(real, "demo", State(records)) == link
    del records[daemon.id]
    assert own_home(link, "demo", State(records)) == real
