"""What a lab's networks let through and what they refuse: real packets between real guests of a real lab.

Every probe that is refused is tried again with the lab's table taken away, where it passes: so it is the table that
refuses it, and not a mistake in the probe.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from emulator.plan.model import Action
from tests.support.isolation_bench import (
    LISTED,
    OUTSIDE,
    WAY_OUT,
    Bench,
    isolation_bench,
    passing,
    refused,
    without_table,
)
from tests.support.talking_guest import TalkingGuest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with isolation_bench(tmp_path_factory.mktemp("isolation"), "nets") as made:
        yield made


def test_what_is_allowed_passes(bench: Bench) -> None:
    controller, compute, head, worker = bench.controller, bench.compute, bench.head, bench.worker
    assert compute.reaches(head.ip, 8000)
    assert head.reaches(controller.ip, 8000) and worker.reaches(controller.ip, 8001)
    assert controller.pings(head.ip) and compute.pings(worker.ip)
    # Within a network everything passes, and so does what the host begins (each probe comes over such a connection).
    assert compute.reaches(controller.ip, 9000) and head.reaches(worker.ip, 9000)


def test_with_nat_guests_go_out_under_the_host_s_address(bench: Bench) -> None:
    assert f"{WAY_OUT}\n" in bench.compute.run(f"nc -w 5 {OUTSIDE} 80 </dev/null; echo")
    assert bench.compute.pings(OUTSIDE)


def test_with_nat_guests_reach_a_private_network_that_the_file_lists(bench: Bench) -> None:
    assert bench.compute.reaches(LISTED, 80)


def test_what_is_not_allowed_is_refused(bench: Bench) -> None:
    assert passing(refused(bench, bench.ipv4)) == set()
    # At once, by an error that says so, and not by silence.
    started = time.monotonic()
    output = bench.compute.run(f"nc -w 20 {bench.head.ip} 9000 </dev/null")
    assert time.monotonic() - started < 10, output
    assert "status=0" not in output


def test_names_of_both_clusters_are_known_in_both(bench: Bench) -> None:
    domain = f"{bench.lab.name}.internal"
    for guest, own in ((bench.compute, "hpc"), (bench.head, "cloud")):
        for other in bench.guests.values():
            cluster = other.name.partition("-")[0]
            # The search domain is that of the guest's own network.
            for name in (f"{other.name}.{cluster}.{domain}", f"{other.name}.{own}.{domain}"):
                output = guest.run(f"nslookup -type=a {name}")
                assert f"Address: {other.ip}\n" in output, (guest.name, name, output)
        unknown = guest.run(f"nslookup -type=a absent.{own}.{domain}")
        assert "NXDOMAIN" in unknown, unknown
    assert bench.compute.reaches(f"cloud-control-plane.cloud.{domain}", 8000)
    # Without a way out, DNS is none either.
    assert "REFUSED" in bench.head.run("nslookup -type=a example.org")
    # Only that of one's own network is asked.
    assert "status=0" not in bench.compute.run(
        f"nslookup -type=a hpc-controller.hpc.{domain} {bench.ipv4.gateways['cloud']}"
    )


def echoes(guest: TalkingGuest) -> int:
    """How many echo requests have arrived there."""
    lines = [line.split() for line in guest.run("cat /proc/net/snmp").splitlines() if line.startswith("Icmp:")]
    return int(lines[1][lines[0].index("InEchos")])


def spoofed_echoes_that_arrive(bench: Bench) -> int:
    """Of those that a guest sends from addresses that are not its own: of nobody, of another node, of a pod."""
    before = echoes(bench.head)
    for address in ("192.168.100.77", bench.controller.ip, "192.168.200.77", "10.244.1.9"):
        pings = [f"ping -c 1 -W 1 -I {address} {target}" for target in (bench.head.ip, bench.ipv4.gateways["hpc"])]
        bench.compute.run(f"ip addr add {address}/32 dev eth0; {'; '.join(pings)}; ip addr del {address}/32 dev eth0")
    return echoes(bench.head) - before


def test_spoofed_packets_are_dropped(bench: Bench) -> None:
    before = echoes(bench.head)
    assert bench.compute.pings(bench.head.ip)
    assert echoes(bench.head) == before + 1
    assert spoofed_echoes_that_arrive(bench) == 0
    assert bench.counted("spoofed in hpc") >= 6
    assert bench.compute.pings(bench.head.ip)


def ipv6_passes(bench: Bench) -> tuple[bool, bool]:
    """To the host and to the other network, for guests that have given themselves addresses."""
    for number, (guest, bridge) in enumerate(((bench.compute, "virbr100"), (bench.head, "virbr200"))):
        bench.inside("sysctl", "-q", "-w", f"net.ipv6.conf.{bridge}.disable_ipv6=0")
        bench.inside("ip", "addr", "replace", f"fd00:{number}::1/64", "dev", bridge, "nodad")
        guest.run(f"ip -6 addr add fd00:{number}::2/64 dev eth0; ip -6 route add fd00::/16 via fd00:{number}::1")
    bench.inside("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
    time.sleep(2)  # until a guest has seen that nobody else has its address
    return (
        bench.compute.succeeds("ping6 -c 2 -W 2 fd00:0::1"),
        bench.compute.succeeds("ping6 -c 2 -W 2 fd00:1::2"),
    )


def test_ipv6_is_no_way_around(bench: Bench) -> None:
    assert ipv6_passes(bench) == (False, False)


def test_without_the_table_all_of_it_would_pass_and_provision_brings_it_back(bench: Bench) -> None:
    """The last test: it takes the table away."""
    table = f"hyperscaler_{bench.lab.name}"
    pids = bench.processes()
    assert len(pids) == len(bench.guests)
    with without_table(bench):
        probes = refused(bench, bench.ipv4)
        assert set(probes) - passing(probes) == set()
        assert spoofed_echoes_that_arrive(bench) > 0
        assert ipv6_passes(bench) == (True, True)
    assert passing(probes) == set()
    bench.inside("nft", "insert", "rule", "inet", table, "routed", "accept")
    (change,) = bench.lab.plan().changes
    assert (change.action, change.reason) == (Action.REPAIR, "has been edited: routed")
    bench.lab.provision()
    assert bench.lab.plan().is_empty
    assert not bench.head.reaches(bench.compute.ip, 8000)
    assert bench.processes() == pids, "a guest was restarted for the sake of a table"
