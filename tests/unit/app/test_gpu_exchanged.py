"""Labs with slices in exchange: planned around, grown, shrunk, shown and destroyed."""

from __future__ import annotations

from shared_boards import carved, lab_of, within
from simulated_world import FIRST, SimulatedHost

from emulator.adapters.simulated.gpus import board_at
from emulator.app.gpus import usage
from emulator.paths import Home


def exchange_all(host: SimulatedHost) -> None:
    """Each vGPU sits on the next one's slice, as a driver may put them."""
    with host.gpus().store.change() as state:
        vgpus = board_at(state, FIRST).vgpus
        places = [item.gi_id for item in vgpus]
        for item, place in zip(vgpus, places[1:] + places[:1], strict=True):
            item.gi_id = place


def in_exchange(host: SimulatedHost) -> int:
    return sum(bool(claim.instead_of) for claim in host.board_ledger().claims().values())


def test_a_full_board_is_shared_again_after_one_lab_went_and_came_back(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    three, four = lab_of(host, 3), lab_of(host, 4)
    host.provision(three)
    with within(host, other):
        host.provision(four)
    exchange_all(host)
    _, _, made = carved(host)
    host.destroy()
    with within(host, other):
        assert in_exchange(host) > 0
        assert host.plan(four).is_empty
        _, count, theirs = carved(host)
    assert count == 4 and theirs < made
    assert all(check.ok for check in host.provision(three).checks)
    with within(host, other):
        assert host.plan(four).is_empty, "the first took places that the other has on its record"
        assert carved(host)[1] == 7
        host.destroy()
    assert host.plan(three).is_empty
    host.destroy()
    assert carved(host) == (False, 0, set())
    assert host.board_ledger().read() == {}


def test_a_lab_with_a_slice_in_exchange_grows_and_shrinks(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    host.provision(lab_of(host))
    with within(host, other):
        host.provision(lab_of(host))
    exchange_all(host)
    host.destroy()
    with within(host, other):
        assert in_exchange(host) == 1
        _, _, [kept] = carved(host)
        host.provision(grown := lab_of(host, 3))
        assert host.plan(grown).is_empty
        assert carved(host)[1] == 3 and kept in carved(host)[2]
        host.provision(lab_of(host))
        assert carved(host)[1:] == (1, {kept})
        host.destroy()
    assert carved(host) == (False, 0, set())


def test_a_reboot_forgets_exchanges(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    lab = lab_of(host)
    host.provision(lab)
    with within(host, other):
        host.provision(lab)
    exchange_all(host)
    host.destroy()
    host.reboot()
    with within(host, other):
        host.provision(lab)
        assert in_exchange(host) == 0 and carved(host)[1] == 1
        assert host.plan(lab).is_empty
        host.destroy()
    assert carved(host) == (False, 0, set())
    assert host.board_ledger().read() == {}


def test_top_names_the_node_that_has_the_slice_in_exchange(gpu_host: SimulatedHost, other: Home) -> None:
    host = gpu_host
    host.provision(lab_of(host))
    with within(host, other):
        host.provision(lab_of(host))
        exchange_all(host)
        with within(host, host.default_home):
            host.destroy()
        host.home = other
        [board] = [item for item in usage(host.boards(), {"demo": host.state()}) if item.pci_address == FIRST]
    [slice_] = board.slices
    assert (slice_.lab, slice_.node) == ("demo", "hpc-compute-1")
