"""Claims on GPUs: what a reboot makes of them, and what is done about a damaged ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.apply.gpu_ownership import VERSION, Claim, GpuLedger, LedgerDamagedError, outlives_boots, slice_key
from emulator.core.errors import StateError
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import LoadedLab
from emulator.lab.planning.gpu_placement import slices_to_make
from emulator.operations.provision import Options, provision
from emulator.plan.gpu_resources import GpuInstance
from emulator.plan.model import Plan
from tests.support.recording_reporter import RecordingReporter
from tests.support.simulated_world import (
    SECOND,
    SYSTEM_URI,
    SimulatedHost,
    comparable,
    differences,
    gpu_section,
    lab_text,
)


def gpu_lab(host: SimulatedHost) -> LoadedLab:
    return host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=gpu_section()))


def slices(host: SimulatedHost) -> list[tuple[str, int]]:
    return [(item.profile, item.placement.start) for item in host.opened_gpus().nvml.instances(SECOND)]


def stranger_takes(host: SimulatedHost, name: str, start: int) -> None:
    gpus = host.opened_gpus()
    gpus.nvml.set_mig_mode(SECOND, enabled=True)
    with gpus.nvml.released():
        gpus.sriov.enable(SECOND)  # while there are slices of others the lab refuses to: it would erase them
    profile = next(item for item in gpus.nvml.profiles(SECOND) if item.name == name)
    place = next(place for place in profile.placements or () if place.start == start)
    gpus.nvml.create_instance(SECOND, profile.gi_profile_id, place)


# ---------------------------------------------------------------- reboots
@pytest.mark.parametrize("record", ["kept", "lost"])
def test_a_stranger_s_slice_in_the_lab_s_place_after_a_reboot_is_left_alone(
    gpu_host: SimulatedHost, record: str
) -> None:
    host = gpu_host
    lab = gpu_lab(host)
    host.provision(lab)
    [(name, start)] = slices(host)
    host.reboot()
    stranger_takes(host, name, start)
    if record == "lost":
        host.home.lab("demo").journal.unlink()
    host.provision(lab)
    ours = [item for item in slices(host) if item != (name, start)]
    assert len(ours) == 1 and (name, start) in slices(host), "the stranger's place was taken for the lab's"
    assert host.plan(lab).is_empty
    host.destroy()
    assert slices(host) == [(name, start)]
    assert "demo" not in GpuLedger(host.home.gpu_owners).read().values()


def test_destroying_after_a_reboot_leaves_a_stranger_s_slice(gpu_host: SimulatedHost) -> None:
    host = gpu_host
    host.provision(gpu_lab(host))
    [(name, start)] = slices(host)
    host.reboot()
    stranger_takes(host, name, start)
    host.destroy()
    assert slices(host) == [(name, start)]
    assert "demo" not in GpuLedger(host.home.gpu_owners).read().values()


def test_a_claim_from_before_a_reboot_reserves_its_place_and_owns_nothing(tmp_path: Path) -> None:
    boot = ["one"]
    ledger = GpuLedger(tmp_path / "owners.json", boot_id=lambda: boot[0])
    key = slice_key(SECOND, "1g.10gb", 0)
    for claimed in (key, SECOND):
        ledger.claim(claimed, "demo")
    assert set(ledger.held("demo")) == {key, SECOND}
    boot[0] = "two"
    assert ledger.owner(key) == "demo" and not ledger.holds("demo", key)
    assert ledger.held("demo") == (SECOND,), "a GPU is still the lab's, a slice is not"
    ledger.claim(key, "demo")
    assert ledger.holds("demo", key)


def test_a_ledger_of_the_first_format_is_read_and_its_claims_hold(tmp_path: Path) -> None:
    file = tmp_path / "owners.json"
    key = slice_key(SECOND, "1g.10gb", 0)
    file.write_text(json.dumps({"version": 1, "owners": {key: "demo"}}))
    ledger = GpuLedger(file)
    assert ledger.holds("demo", key)
    ledger.claim(SECOND, "other")
    assert json.loads(file.read_text())["version"] == VERSION
    assert ledger.claims()[key] == Claim("demo")


# ---------------------------------------------------------------- damage
DAMAGES: dict[str, Callable[[str], str]] = {
    "another owner": lambda text: text.replace('"demo"', '"demx"', 1),
    "cut off": lambda text: text[: len(text) // 2],
    "another version": lambda text: text.replace(f'"version": {VERSION}', f'"version": {VERSION + 4}'),
    "empty": lambda _text: "",
    "another kind of file": lambda _text: "[]",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_ledger_is_written_anew_from_the_records(gpu_host: SimulatedHost, name: str) -> None:
    host = gpu_host
    before = comparable(host.save(), images=False)
    lab = gpu_lab(host)
    host.provision(lab)
    claims = GpuLedger(host.home.gpu_owners).claims()
    assert len(claims) > 3
    done = host.save()
    host.home.gpu_owners.write_text(DAMAGES[name](host.home.gpu_owners.read_text()))
    with pytest.raises(LedgerDamagedError, match="the GPU ledger is damaged"):
        GpuLedger(host.home.gpu_owners).claims()
    damaged = host.save()
    told = RecordingReporter()
    plan = host.provision(lab, reporter=told).plan
    assert plan.is_empty
    assert any("written anew from the labs' records" in line for line in told.warnings)
    mended = GpuLedger(host.home.gpu_owners).claims()
    assert {key: claim.lab for key, claim in mended.items()} == {key: claim.lab for key, claim in claims.items()}
    assert all(mended[key] == claim for key, claim in claims.items() if not outlives_boots(key))
    assert differences(comparable(host.save()), comparable(done)).keys() <= {"home/labs/demo/journal.jsonl"}
    host.restore(damaged)
    host.destroy()
    left = differences(comparable(host.save(), images=False), before)
    assert not left


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "owners.json"
    file.write_text(json.dumps({"version": VERSION + 1, "owners": {}, "sum": "of another kind"}))
    with pytest.raises(StateError, match=f"of format {VERSION + 1}") as caught:
        GpuLedger(file).claims()
    assert not isinstance(caught.value, LedgerDamagedError)


def test_destroy_says_that_the_journal_is_damaged(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    journal = host.home.lab("demo").journal
    content = bytearray(journal.read_bytes())
    content[content.index(b"\n") + 60] ^= 4
    journal.write_bytes(content)
    told = RecordingReporter()
    host.destroy(reporter=told)
    assert [line for line in told.warnings if f"{journal}:2: " in line]


# ---------------------------------------------------------------- places taken between plan and carving
def test_a_place_that_is_taken_after_the_plan_is_planned_around(gpu_host: SimulatedHost) -> None:
    host, told = gpu_host, RecordingReporter()
    planned: list[GpuInstance] = []

    def taken_meanwhile(plan: Plan) -> bool:
        planned.extend(slices_to_make(plan))
        stranger_takes(host, planned[0].profile, planned[0].start)
        return True

    provision(host.environment(), gpu_lab(host), Options(confirm=taken_meanwhile), told, StopFlag())
    theirs = (planned[0].profile, planned[0].start)
    assert theirs in slices(host)
    assert len(slices(host)) == 2
    assert ["places on the GPUs" in warning for warning in told.warnings] == [True]
    host.destroy()
    assert slices(host) == [theirs]


def test_places_are_claimed_before_anything_is_made(gpu_host: SimulatedHost) -> None:
    """So that a lab that plans while this one makes its networks and disks does not count on the same places."""
    host = gpu_host
    ledger = GpuLedger(host.home.gpu_owners)
    claimed: dict[str, bool] = {}

    def look(call: str) -> None:
        claimed.setdefault(call, any("@" in key for key in ledger.of("demo")))

    host.hook.before = look
    host.provision(gpu_lab(host))
    assert {call: held for call, held in claimed.items() if call == "define_network"} == {"define_network": True}, (
        claimed
    )
