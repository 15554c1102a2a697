"""What nft says when it does not do as it is told."""

from __future__ import annotations

import pytest

from emulator.adapters.system.nft import NftPacketFilter
from emulator.core.errors import CommandError, HostNotFitError, HyperscalerError
from tests.support.fake_runner import FakeRunner, Say

GONE = 'Cannot open network namespace "n": No such file or directory\n'
ABSENT = "Error: No such file or directory\nlist table inet x\n                ^\n"


def test_a_table_that_is_not_there_is_no_error() -> None:
    nft = FakeRunner({"": Say(stderr=ABSENT, status=1)})
    packets = NftPacketFilter(nft, ("ip", "netns", "exec", "n"))
    assert packets.table("x") is None
    packets.delete("x")
    assert nft.calls[0] == ("ip", "netns", "exec", "n", "nft", "-j", "list", "table", "inet", "x")
    assert nft.calls[1][-3:] == ("nft", "-f", "-")


@pytest.mark.parametrize(
    "said", ["Operation not permitted (you must be root)\n", "Error: Could not process rule: Operation not permitted\n"]
)
def test_users_other_than_root_get_an_error(said: str) -> None:
    packets = NftPacketFilter(FakeRunner({"": Say(stderr=said, status=1)}))
    with pytest.raises(HostNotFitError, match="only root can see and change"):
        packets.table("x")
    with pytest.raises(HostNotFitError, match="only root can see and change"):
        packets.delete("x")


def test_a_namespace_that_is_gone_is_no_absent_table() -> None:
    packets = NftPacketFilter(FakeRunner({"": Say(stderr=GONE, status=1)}))
    with pytest.raises(CommandError, match="namespace"):
        packets.table("x")


@pytest.mark.parametrize(
    "said", ["", "[]", "{}", '{"nftables": [1]}', '{"nftables": [{"rule": {}}]}', '{"nftables": 1}']
)
def test_what_is_not_understood_is_an_error(said: str) -> None:
    with pytest.raises(HyperscalerError, match="describes the table in an unknown way"):
        NftPacketFilter(FakeRunner({"": said})).table("x")
