"""vGPUs that the driver put on slices which were cut for others: whoever goes leaves as many as there were before."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from gpu_lab import FIRST, GpuLab, sliced

from emulator.adapters.simulated.gpu_store import SimProcess
from emulator.apply.ledger import Claim, GpuLedger, slice_key
from emulator.gpu_errors import GpuBusyError
from emulator.plan.gpu_resources import Vgpu
from emulator.plan.resources import Resource


def key(start: int) -> str:
    return slice_key(FIRST, "1g.10gb", start)


def without_vgpus(wanted: Sequence[Resource]) -> list[Resource]:
    return [item for item in wanted if not isinstance(item, Vgpu)]


def starts_of_vgpus(lab: GpuLab) -> dict[str, int]:
    """Where each vGPU sits, by its UUID or function."""
    with lab.board() as board:
        starts = {item.id: item.start for item in board.instances}
        return {item.uuid or item.parent: starts[item.gi_id] for item in board.vgpus}


def crossed(lab: GpuLab, tmp_path: Path) -> tuple[GpuLab, list[Resource], list[Resource]]:
    """Another lab beside `lab`, and what both want: each has its vGPU on the slice of the other."""
    other = GpuLab(lab.gpus, lab.host, tmp_path, "other")
    ours, theirs = list(lab.wanted(n1=[sliced("a", "1g.10gb", 0)])), list(other.wanted(n1=[sliced("a", "1g.10gb", 1)]))
    lab.apply(without_vgpus(ours))
    other.apply(theirs)
    lab.apply(ours)
    assert [lab.host.ledger.owner(key(start)) for start in (0, 1)] == ["demo", "other"]
    assert sorted(starts_of_vgpus(lab).values()) == [0, 1]
    return other, ours, theirs


def test_a_lab_goes_whose_slice_carries_a_vgpu_of_another(any_lab: GpuLab, tmp_path: Path) -> None:
    blank = any_lab.snapshot()
    other, _, theirs = crossed(any_lab, tmp_path)
    any_lab.apply([])
    assert any_lab.state.is_empty
    assert any_lab.instances() == [("1g.10gb", 0)], "one slice is left, below the other's vGPU"
    assert any_lab.host.ledger.claims()[key(0)] == Claim("other", any_lab.host.ledger.boot_id(), key(1))
    assert other.plan(theirs).is_empty
    other.apply([])
    assert any_lab.snapshot() == blank


def test_the_place_that_became_free_can_be_taken(any_lab: GpuLab, tmp_path: Path) -> None:
    blank = any_lab.snapshot()
    other, _, theirs = crossed(any_lab, tmp_path)
    any_lab.apply([])
    again = any_lab.wanted(n1=[sliced("a", "1g.10gb", 1)])
    any_lab.apply(again)
    assert any_lab.plan(again).is_empty and other.plan(theirs).is_empty
    other.apply([])
    assert any_lab.instances() == [("1g.10gb", 1)] and any_lab.plan(again).is_empty
    any_lab.apply([])
    assert any_lab.snapshot() == blank


def test_an_exchanged_slice_can_be_exchanged_again(any_lab: GpuLab, tmp_path: Path) -> None:
    """Three labs, and each time the one goes that others sit on."""
    blank = any_lab.snapshot()
    other, _, _ = crossed(any_lab, tmp_path)
    third = GpuLab(any_lab.gpus, any_lab.host, tmp_path, "third")
    any_lab.apply([])
    wanted = third.wanted(n1=[sliced("a", "1g.10gb", 2)])
    third.apply(wanted)
    with any_lab.board() as board:  # what a restart of both guests can do
        first, second = board.vgpus
        first.gi_id, second.gi_id = second.gi_id, first.gi_id
    other.apply([])
    assert third.plan(wanted).is_empty and any_lab.instances() == [("1g.10gb", 0)]
    third.apply([])
    assert any_lab.snapshot() == blank


def test_within_a_lab_a_node_goes_whose_slice_carries_the_vgpu_of_another_node(any_lab: GpuLab) -> None:
    blank = any_lab.snapshot()
    one, two = [sliced("a", "1g.10gb", 0)], [sliced("b", "1g.10gb", 1)]
    any_lab.apply(any_lab.wanted(n1=one, n2=two))
    with any_lab.board() as board:
        first, second = board.vgpus
        first.gi_id, second.gi_id = second.gi_id, first.gi_id
    left = any_lab.wanted(n1=one)
    any_lab.apply(left)
    assert any_lab.instances() == [("1g.10gb", 1)] and len(any_lab.vgpus()) == 1
    assert any_lab.plan(left).is_empty
    any_lab.apply([])
    assert any_lab.snapshot() == blank


def test_a_run_that_was_cut_off_between_board_and_ledger(any_lab: GpuLab, tmp_path: Path) -> None:
    other, _, theirs = crossed(any_lab, tmp_path)

    def cut_off(*_arguments: str) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(any_lab.host.ledger, "exchange", cut_off)
        any_lab.apply([])
    any_lab.apply([])
    assert any_lab.instances() == [("1g.10gb", 0)] and any_lab.state.is_empty
    assert other.plan(theirs).is_empty


def test_the_lab_with_the_exchanged_slice_is_found_without_a_journal(any_lab: GpuLab, tmp_path: Path) -> None:
    blank = any_lab.snapshot()
    other, _, theirs = crossed(any_lab, tmp_path)
    any_lab.apply([])
    other.journal.unlink()
    other.apply(theirs)
    assert other.plan(theirs).is_empty and any_lab.instances() == [("1g.10gb", 0)]
    other.journal.unlink()
    other.apply([])
    assert any_lab.snapshot() == blank


def processes(lab: GpuLab) -> None:
    with lab.board() as board:
        board.processes.append(SimProcess(70, "train.py", gi_id=next(i.id for i in board.instances if i.start == 0)))


def foreign_vgpus(lab: GpuLab) -> None:
    """All slices carry vGPUs: one was made by hand."""
    with lab.board() as board:
        board.vgpus[0].uuid, board.vgpus[0].parent = "0123", "0000:41:01.5"


@pytest.mark.parametrize("happens", [processes, foreign_vgpus])
def test_what_is_in_use_otherwise_stays(any_lab: GpuLab, tmp_path: Path, happens: Callable[[GpuLab], None]) -> None:
    """Nobody's slice is taken away for one that a process of the host, or a vGPU of a stranger, is on."""
    other = GpuLab(any_lab.gpus, any_lab.host, tmp_path, "other")
    any_lab.apply(any_lab.wanted(n1=[sliced("a", "1g.10gb", 0)]))
    other.apply(other.wanted(n1=[sliced("a", "1g.10gb", 1)]))
    happens(any_lab)
    claims = any_lab.host.ledger.claims()
    with pytest.raises(GpuBusyError):
        any_lab.apply([])
    assert any_lab.instances() == [("1g.10gb", 0), ("1g.10gb", 1)]
    assert any_lab.host.ledger.claims()[key(0)] == claims[key(0)]
    assert any_lab.host.ledger.claims()[key(1)] == claims[key(1)]


def test_a_slice_that_came_in_exchange_and_is_gone_is_made_where_it_is_on_record(
    any_lab: GpuLab, tmp_path: Path
) -> None:
    other, _, theirs = crossed(any_lab, tmp_path)
    any_lab.apply([])
    with any_lab.board() as board:
        board.vgpus.clear()
        board.instances.clear()
    other.apply(theirs)
    assert any_lab.instances() == [("1g.10gb", 1)] and other.plan(theirs).is_empty
    assert key(0) not in any_lab.host.ledger.read()


def test_the_ledger_keeps_exchanges_over_processes_and_boots(tmp_path: Path) -> None:
    boot = ["one"]
    ledger = GpuLedger(tmp_path / "owners.json", boot_id=lambda: boot[0])
    ledger.claim(key(0), "demo")
    ledger.claim(key(1), "other")
    ledger.exchange(key(0), "nobody", key(1))
    assert set(ledger.read()) == {key(0), key(1)}, "nobody has nothing to give"
    ledger.exchange(key(0), "demo", key(1))
    again = GpuLedger(tmp_path / "owners.json", boot_id=lambda: boot[0])
    assert again.claims() == {key(0): Claim("other", "one", key(1))}
    assert again.place_of("other", key(1)) == key(0)
    assert again.place_of("demo", key(1)) == key(1)
    again.claim(key(0), "other")
    assert again.place_of("other", key(1)) == key(0), "claiming it again does not forget what it is for"
    boot[0] = "two"
    assert again.place_of("other", key(1)) == key(1), "no slice outlives a reboot"
    again.drop_exchanged("other", key(1))
    assert again.claims() == {}


def test_an_exchange_that_comes_back_is_none(tmp_path: Path) -> None:
    ledger = GpuLedger(tmp_path / "owners.json", boot_id=lambda: "one")
    ledger.claim(key(0), "demo")
    ledger.claim(key(1), "other")
    ledger.exchange(key(0), "demo", key(1))
    ledger.claim(key(1), "demo")
    ledger.exchange(key(1), "demo", key(0))
    assert ledger.claims() == {key(1): Claim("other", "one")}
    assert json.loads(ledger.path.read_text())["instead_of"] == {}
