"""The same as `test_isolation.py` in IPv6, for a lab whose networks have it, and what IPv6 alone has: routers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from emulator.core import ids
from tests.support.isolation_bench import (
    OUTSIDE_V6,
    WAY_OUT_V6,
    Addresses,
    Bench,
    isolation_bench,
    passing,
    refused,
    without_table,
)
from tests.support.router_advertisement import advertise
from tests.support.talking_guest import TalkingGuest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with isolation_bench(tmp_path_factory.mktemp("isolation6"), "netv", ipv6=True) as made:
        yield made


@pytest.fixture(scope="module")
def at(bench: Bench) -> Addresses:
    assert bench.ipv6 is not None
    return bench.ipv6


def test_what_is_allowed_passes(bench: Bench, at: Addresses) -> None:
    controller, compute, head, worker = bench.controller, bench.compute, bench.head, bench.worker
    assert compute.reaches(at.head, 8000)
    assert head.reaches(at.controller, 8000) and worker.reaches(at.controller, 8001)
    assert controller.pings(at.head) and compute.pings(at.worker)
    assert compute.reaches(at.controller, 9000) and head.reaches(at.worker, 9000)
    assert bench.inside("nc", "-N", "-w", "5", at.worker, "9000")
    assert (at.controller, at.gateways["hpc"]) == ("fd00:100::a", "fd00:100::1")


def test_with_nat_guests_go_out_under_the_host_s_address(bench: Bench) -> None:
    assert f"{WAY_OUT_V6}\n" in bench.compute.run(f"nc -w 5 {OUTSIDE_V6} 80 </dev/null; echo")
    assert bench.compute.pings(OUTSIDE_V6)


def test_what_is_not_allowed_is_refused(bench: Bench, at: Addresses) -> None:
    assert passing(refused(bench, at)) == set()
    started = time.monotonic()
    output = bench.compute.run(f"nc -w 20 {at.head} 9000 </dev/null")
    assert time.monotonic() - started < 10, output
    assert "status=0" not in output


def test_what_ipv4_refuses_is_refused_still(bench: Bench) -> None:
    assert passing(refused(bench, bench.ipv4)) == set()


def test_names_have_both_addresses_in_both_clusters(bench: Bench, at: Addresses) -> None:
    domain = f"{bench.lab.name}.internal"
    known = dict(zip(bench.guests, (at.controller, at.compute, at.head, at.worker), strict=True))
    for guest, own in ((bench.compute, "hpc"), (bench.head, "cloud")):
        # The host answers at its IPv6 address, too.
        for server in ("", at.gateways[own], bench.ipv4.gateways[own]):
            for name, address in known.items():
                for full in (f"{name}.{name.partition('-')[0]}.{domain}", f"{name}.{own}.{domain}"):
                    output = guest.run(f"nslookup -type=aaaa {full} {server}")
                    assert f"Address: {address}\n" in output, (guest.name, full, server, output)
        assert f"Address: {bench.worker.ip}\n" in guest.run(f"nslookup -type=a cloud-cpu-worker-1.cloud.{domain}")
    foreign = bench.compute.run(f"nslookup -type=aaaa hpc-controller.hpc.{domain} {at.gateways['cloud']}")
    assert "status=0" not in foreign
    assert bench.compute.reaches(f"cloud-control-plane.cloud.{domain}", 8000)


def echoes(guest: TalkingGuest) -> int:
    """How many echo requests have arrived there."""
    lines = [line.split() for line in guest.run("cat /proc/net/snmp6").splitlines()]
    return next(int(line[1]) for line in lines if line[0] == "Icmp6InEchos")


def spoofed_echoes_that_arrive(bench: Bench, at: Addresses) -> int:
    """Of those that a guest sends from addresses that are not its own: of nobody, of another node, of elsewhere."""
    before = echoes(bench.head)
    # Nobody is asked whether the address is taken.
    bench.compute.run("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad")
    for address in ("fd00:100::77", at.controller, "fd00:200::77", "fd00:300::9"):
        pings = [f"ping -c 1 -W 1 -I {address} {target}" for target in (at.head, at.gateways["hpc"])]
        words = f"ip -6 addr add {address}/128 dev eth0; {'; '.join(pings)}; ip -6 addr del {address}/128 dev eth0"
        assert "transmitted" in bench.compute.run(words)
    return echoes(bench.head) - before


def test_spoofed_packets_are_dropped(bench: Bench, at: Addresses) -> None:
    before = echoes(bench.head)
    assert bench.compute.pings(at.head)
    assert echoes(bench.head) == before + 1
    assert spoofed_echoes_that_arrive(bench, at) == 0
    assert bench.counted("spoofed in hpc, IPv6") >= 6
    assert bench.compute.pings(at.head)


def passes_through_a_neighbour(bench: Bench, at: Addresses) -> bool:
    """Whether a guest gets anywhere by way of another guest of its network, be the goal allowed or not."""
    via = bench.controller.run(
        "ip -6 addr show dev eth0 scope link | sed -n 's/.*inet6 \\(.*\\)\\/64.*/\\1/p'"
    ).split()[0]
    forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"
    bench.controller.run(f"echo 1 >{forwarding}")
    try:
        bench.compute.run(f"ip -6 route add fd00:200::/64 via {via} dev eth0")
        return bench.compute.reaches(at.head, 8000) or bench.compute.pings(at.worker)
    finally:
        bench.compute.run(f"ip -6 route del fd00:200::/64 via {via} dev eth0")
        bench.controller.run(f"echo 0 >{forwarding}")


def test_a_neighbour_is_no_router_to_the_other_cluster(bench: Bench, at: Addresses) -> None:
    assert bench.compute.pings(at.worker)
    assert not passes_through_a_neighbour(bench, at)
    assert bench.compute.pings(at.worker)


def host_takes_a_guest_for_a_router(bench: Bench) -> bool:
    """It is sent from a port of the bridge with the addresses of a guest, and the host is made to listen."""
    namespace, listens = bench.lab.namespace, "net.ipv6.conf.virbr100.accept_ra"
    bench.inside("ip", "link", "add", "rogue", "type", "veth", "peer", "name", "rogue-port")
    try:
        for words in (("rogue-port", "master", "virbr100", "up"), ("rogue", "up")):
            bench.inside("ip", "link", "set", *words)
        bench.inside("sysctl", "-q", "-w", f"{listens}=2")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            advertise(namespace, "rogue", ids.mac_address(bench.lab.name, "hpc-compute-1"))
            if bench.inside("ip", "-6", "route", "show", "default", "proto", "ra"):
                return True
            time.sleep(0.5)
        return False
    finally:
        bench.inside("sysctl", "-q", "-w", f"{listens}=0")
        bench.inside("ip", "link", "del", "rogue")
        with contextlib.suppress(Exception):
            bench.inside("ip", "-6", "route", "flush", "default", "proto", "ra")


def test_the_host_takes_no_guest_for_a_router(bench: Bench) -> None:
    # It would not listen in the first place.
    assert bench.inside("sysctl", "-n", "net.ipv6.conf.virbr100.accept_ra").strip() == "0"
    assert not host_takes_a_guest_for_a_router(bench)


def test_without_the_table_all_of_it_would_pass_and_provision_brings_it_back(bench: Bench, at: Addresses) -> None:
    """The last test: it takes the table away."""
    pids = bench.processes()
    with without_table(bench):
        probes = refused(bench, at)
        assert set(probes) - passing(probes) == set()
        assert spoofed_echoes_that_arrive(bench, at) > 0
        assert passes_through_a_neighbour(bench, at)
        assert host_takes_a_guest_for_a_router(bench)
    assert passing(probes) == set()
    assert bench.lab.plan().is_empty
    assert bench.processes() == pids, "a guest was restarted for the sake of a table"
