"""Labs of one name in two homes share the host's GPUs, and never take each other's slices for their own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from emulator.apply.gpu_ownership import GpuLedger, mode_key, slice_key
from emulator.core.errors import ConflictError
from emulator.core.paths import Home
from emulator.lab.open_journal import open_record
from emulator.lab.recovery.ledger_repair import repair_ledgers
from emulator.plan.gpu_resources import Vgpu
from tests.support.journeys import release_it
from tests.support.recording_reporter import RecordingReporter
from tests.support.shared_gpus import carved, lab_of, within
from tests.support.simulated_world import FIRST, SimulatedHost


def owners(host: SimulatedHost) -> dict[str, str]:
    found: dict[str, str] = json.loads(host.default_home.gpu_owners.read_text())["owners"]
    return found


def test_the_last_of_two_labs_switches_mig_mode_off(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    lab = lab_of(host)
    host.provision(lab)
    with within(host, other):
        host.provision(lab)
    assert carved(host)[:2] == (True, 2)
    assert set(owners(host).values()) == {"demo", f"demo in {other.id}"}
    assert not other.gpu_owners.exists()
    host.destroy()
    assert carved(host)[:2] == (True, 1)
    with within(host, other):
        assert host.plan(lab).is_empty
        host.destroy()
    assert carved(host) == (False, 0, set())


def test_places_stay_reserved_over_a_reboot_and_destroy_takes_only_its_own(
    gpu_host: SimulatedHost, other: Home
) -> None:
    host = gpu_host
    host.provision(lab_of(host))
    with within(host, other):
        host.provision(lab_of(host))
        host.reboot()
        host.provision(grown := lab_of(host, 3))
        assert carved(host)[1] == 3
    host.destroy()
    assert carved(host)[1] == 3
    with within(host, other):
        assert host.plan(grown).is_empty


def test_vgpus_of_two_homes_have_other_uuids_on_the_same_slice(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    lab = lab_of(host)
    host.provision(lab)
    _, _, first = carved(host)
    host.destroy()
    with within(host, other):
        host.provision(lab)
        _, _, second = carved(host)
    assert len(first) == len(second) == 1
    assert first != second


def test_a_copied_home_takes_nothing_of_the_first(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    lab = lab_of(host)
    host.provision(lab)
    there = carved(host)
    shutil.rmtree(other.root)
    shutil.copytree(host.home.root, other.root)
    other.gpu_owners.unlink()
    (other.lab("demo").hypervisor / "libvirt.json").unlink()  # else its guests would be in the way
    with within(host, other), pytest.raises(ConflictError, match="the journal is another lab's"):
        release_it(host, lab)
    assert carved(host) == there
    assert host.plan(lab).is_empty


def test_a_ledger_that_an_older_version_kept_in_the_home_is_taken_over(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    lab = lab_of(host)
    with within(host, other):
        host.provision(lab)
        claims = GpuLedger(host.default_home.gpu_owners, home=other.id).claims()
        host.default_home.gpu_owners.rename(other.gpu_owners)
        text = other.gpu_owners.read_text().replace(f" in {other.id}", "")
        other.gpu_owners.write_text(json.dumps({**json.loads(text), "version": 1}))
        assert host.provision(lab).plan.is_empty
        assert not other.gpu_owners.exists()
        assert host.gpu_ledger().claims() == claims
        host.destroy()
    assert carved(host) == (False, 0, set())


def test_vgpus_that_an_older_version_made_keep_their_uuids(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    lab = lab_of(host)
    with within(host, other):
        host.provision(lab)
        [made] = [item.resource for item in host.state().resources.values() if isinstance(item.resource, Vgpu)]
        old = dataclasses.replace(made, uuid="01234567-89ab-cdef-0123-456789abcdef")
        for file in (host.home.lab("demo").journal, host.default_home.gpu_owners, host.machine / "gpus" / "gpus.json"):
            file.write_text(file.read_text().replace(made.uuid, old.uuid))
        journal = host.home.lab("demo").journal
        journal.write_bytes(resealed(journal.read_bytes()))
        data = json.loads(host.default_home.gpu_owners.read_text())
        host.default_home.gpu_owners.write_text(json.dumps({**data, "version": 1}))
        assert not [change for change in host.plan(lab).changes if change.resource.kind == Vgpu.kind]


def resealed(journal: bytes) -> bytes:
    """The lines of a journal with checksums that fit."""
    from emulator.apply.journal import encode

    entries = [json.loads(line) for line in journal.splitlines()]
    return b"".join(encode({key: value for key, value in entry.items() if key != "sum"}) for entry in entries)


def test_a_damaged_ledger_is_written_anew_from_the_records_of_all_homes(gpu_host: SimulatedHost, other: Home) -> None:
    host, told = gpu_host, RecordingReporter()
    host.provision(lab_of(host))
    with within(host, other):
        host.provision(lab_of(host))
    before = owners(host)
    file = host.default_home.gpu_owners
    for home in (host.default_home, other):
        file.write_text(file.read_text().replace("mig-mode", "mig-mood"))
        with within(host, home):
            repair_ledgers(host.gpu_ledger(), open_record(home, "demo"), told)
        assert owners(host) == before


# ---------------------------------------------------------------- the ledger itself
def test_a_ledger_is_seen_from_each_home(tmp_path: Path) -> None:
    file = tmp_path / "owners.json"
    default, one, two = (GpuLedger(file, home=home) for home in ("", "/srv/one", "/srv/two"))
    key, mode = slice_key(FIRST, "1g.10gb", 0), mode_key(FIRST)
    default.claim(key, "demo")
    one.claim(mode, "demo")
    assert (default.owner(key), default.owner(mode)) == ("demo", "demo in /srv/one")
    assert (one.owner(key), one.owner(mode)) == (f"demo in {Home(tmp_path).id}", "demo")
    assert two.of("demo") == ()
    with pytest.raises(ConflictError, match="belongs to lab demo in /srv/one") as caught:
        two.claim(mode, "demo")
    assert caught.value.fix.endswith("HYPERSCALER_HOME=/srv/one hyperscaler gpu release demo")
    one.pass_on(mode, "demo", str(one.owner(key)))
    assert default.of("demo") == (key, mode)
    assert json.loads(file.read_text())["owners"] == {key: "demo", mode: "demo"}
    two.take_over(default.claims())
    assert default.of("demo") == (key, mode), "nothing changes hands"
