"""A list of accounts that is lost or damaged comes back from the labs' records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.apply.guest_accounts.ledger import NoAccounts
from emulator.core.ports import DomainState
from emulator.core.ports.guest_accounts import GuestAccount
from emulator.lab.lab_files import LoadedLab
from emulator.lab.recovery.account_repair import accounts_of
from tests.support.guest_accounts import CountedNumbers
from tests.support.recording_reporter import RecordingReporter
from tests.support.simulated_world import LAB, SYSTEM_URI, SimulatedHost, lab_text

NODE = "hpc-controller"
SHARED = GuestAccount(64055, 107)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    host = SimulatedHost(tmp_path / "host")
    yield host
    host.close()


@pytest.fixture
def lab(host: SimulatedHost) -> LoadedLab:
    """Provisioned on the host's libvirt."""
    loaded = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(loaded)
    return loaded


def labels(host: SimulatedHost) -> dict[str, str]:
    domains = host.hypervisor(quiet=True).domains()
    return {info.name: info.account for info in domains if info.owner is not None}


def test_each_guest_is_defined_for_an_account_of_its_own(host: SimulatedHost, lab: LoadedLab) -> None:
    accounts = [GuestAccount.of_label(label) for label in labels(host).values()]
    assert len({account.uid for account in accounts if account}) == 2
    assert {account.gid for account in accounts if account} == {host.guest_accounts().of_lab(LAB).gid}
    assert set(accounts_of(host.state()).values()) == set(accounts)


@pytest.mark.parametrize("damage", ["lost", "torn"])
def test_the_guests_keep_their_accounts(host: SimulatedHost, lab: LoadedLab, damage: str) -> None:
    before, entries = labels(host), host.guest_accounts().entries()
    file = host.guest_accounts().path
    file.unlink() if damage == "lost" else file.write_bytes(file.read_bytes()[:-10])
    reporter = RecordingReporter()
    done = host.provision(lab, reporter=reporter)
    assert done.plan.is_empty and labels(host) == before
    assert host.guest_accounts().entries() == entries
    warned = [text for text in reporter.warnings if "guests' accounts is damaged" in text]
    assert len(warned) == (damage == "torn")


def test_a_damaged_list_has_the_accounts_of_all_labs_again(host: SimulatedHost, lab: LoadedLab) -> None:
    other = lab_text(hypervisor="embedded", name="other")
    host.provision(host.lab_file(other, "other"))
    entries = host.guest_accounts().entries()
    host.guest_accounts().path.write_text("{")
    host.provision(lab)
    assert host.guest_accounts().entries() == entries


def test_a_lab_of_an_earlier_version_keeps_running_and_gets_accounts_at_the_next_start(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guests run as one account, which the domains name and the record does not."""
    lab, hypervisor = host.lab_file(lab_text(hypervisor=SYSTEM_URI)), host.hypervisor(quiet=True)
    with monkeypatch.context() as older:
        older.setattr(SimulatedHost, "guest_accounts", lambda _self: NoAccounts())
        host.provision(lab)
    label = f'<seclabel type="static" model="dac" relabel="no"><label>{SHARED.label}</label></seclabel></domain>'
    for name in labels(host):
        for live in (False, True):
            hypervisor.edit(name, "</domain>", label, live=live)
    assert host.plan(lab).is_empty and host.provision(lab).plan.is_empty
    assert set(labels(host).values()) == {SHARED.label}, "no guest is restarted for it"
    hypervisor.set_state(f"{LAB}-{NODE}", DomainState.SHUTOFF)
    host.provision(lab)
    account = host.guest_accounts().of_guest(LAB, NODE)
    assert set(labels(host).values()) == {SHARED.label, account.label}
    assert labels(host)[f"{LAB}-{NODE}"] == account.label
    assert host.plan(lab).is_empty
    host.destroy()
    assert not host.guest_accounts().path.exists()


def test_an_account_that_was_edited_is_seen_and_put_right(host: SimulatedHost, lab: LoadedLab) -> None:
    name = f"{LAB}-{NODE}"
    label = labels(host)[name]
    host.hypervisor(quiet=True).edit(name, label, "+0:+0")
    (change,) = host.plan(lab).changes
    assert f"has the account +0:+0 instead of {label}" in change.reason
    host.provision(lab)
    assert labels(host)[name] == label


def test_destroy_gives_the_accounts_back_and_names_what_is_left(
    host: SimulatedHost, lab: LoadedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = host.guest_accounts().of_guest(LAB, NODE).uid
    monkeypatch.setattr(CountedNumbers, "traces", lambda _self, _numbers: {left: "/tmp/backdoor"})
    reporter = RecordingReporter()
    host.destroy(reporter=reporter)
    assert reporter.warnings == [
        "/tmp/backdoor belongs to an account of a guest of this lab; the account is given to nobody else"
    ]
    entries = host.guest_accounts().entries()
    assert (dict(entries.owners), dict(entries.retired)) == ({}, {left: "/tmp/backdoor"})


def test_a_destroy_that_died_before_it_gave_them_back_is_completed(host: SimulatedHost, lab: LoadedLab) -> None:
    file = host.guest_accounts().path
    kept = file.read_bytes()
    host.destroy()
    file.write_bytes(kept)
    assert host.destroy().is_empty
    assert not file.exists() and not host.home.lab(LAB).root.exists()
