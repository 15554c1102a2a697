"""What a lab's networks let through and what they refuse: real packets between real guests of a real lab.

Every probe that is refused is tried again with the lab's table taken away, where it passes: so it is the table that
refuses it, and not a mistake in the probe.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from real_lab import RealLab, host_traces
from talking_guest import TalkingGuest, boot_of

from emulator.adapters.process import HostProcess
from emulator.errors import UsageError
from emulator.images.store import ImageStore
from emulator.paths import Home
from emulator.plan.model import Action

pytestmark = pytest.mark.host

RUNNER = HostProcess()
BOOT_SECONDS = 120
OUTSIDE = "203.0.113.2"  # TEST-NET-3 of RFC 5737, in a namespace of the test's own
GATEWAYS = {"hpc": "192.168.100.1", "cloud": "192.168.200.1"}

LAB = """\
version: "1.0"
metadata: {{name: {name}}}
timeouts: {{boot: 60}}
global:
  networks:
    hpc_network:
      nat: true
      allow:
        - {{from: [hpc-compute], to: [cloud-control-plane], ports: [8000]}}
        - {{protocol: icmp}}
    cloud_network:
      allow:
        - {{to: [hpc-controller], ports: ["8000-8001"]}}
clusters:
  hpc:
    controller: {{cpu_cores: 1, memory_gb: 0.25, disk_gb: 2}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 0.25, disk_gb: 2, gpu_enabled: false}}
  cloud:
    control_plane: {{cpu_cores: 2, memory_gb: 1.75, disk_gb: 3}}
    worker_nodes: {{cpu_workers: {{count: 1, cpu_cores: 1, memory_gb: 0.5, disk_gb: 3}}}}
hypervisor: {{uri: embedded}}
"""

# A service on every address and the ports that a host would have open, which says who asks.
LISTENER = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    waiting.register(socket.create_server(("0.0.0.0", port)), selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        connection, peer = key.fileobj.accept()
        connection.sendall(peer[0].encode())
        connection.close()
"""


@dataclass
class Bench:
    lab: RealLab
    guests: dict[str, TalkingGuest]
    controller: TalkingGuest
    compute: TalkingGuest
    head: TalkingGuest
    worker: TalkingGuest

    def inside(self, *words: str) -> str:
        return RUNNER.run(["ip", "netns", "exec", self.lab.namespace, *words], timeout=30).stdout

    def table(self) -> str:
        return self.inside("nft", "list", "table", "inet", f"hyperscaler_{self.lab.name}")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    image = ImageStore(Home.default().images, RUNNER).build("hpc-base", progress=lambda _phase, _line: None)
    root = tmp_path_factory.mktemp("isolation")
    name = f"nets{os.getpid()}"
    lab = RealLab(root, name, text=LAB.format(name=name), boot=boot_of(image))
    before = host_traces(root, lab.namespace)
    try:
        lab.provision()
        prefix = ("ip", "netns", "exec", lab.namespace)
        guests = {node.name: TalkingGuest(node.name, str(node.ip), prefix) for node in lab.file.spec.nodes}
        deadline = time.monotonic() + BOOT_SECONDS
        for guest in guests.values():
            while not guest.answers():
                console = (lab.paths.console / f"{guest.name}.log").read_text(errors="replace")
                assert time.monotonic() < deadline, f"{guest.name} does not answer: {console[-2000:]}"
                time.sleep(0.2)
        names = ("hpc-controller", "hpc-compute-1", "cloud-control-plane", "cloud-cpu-worker-1")
        with outside(lab.namespace), listening(lab.namespace, 22, 8443):
            yield Bench(lab, guests, *(guests[each] for each in names))
    finally:
        with contextlib.suppress(UsageError):
            lab.destroy()
        lab.close()
    assert host_traces(root, lab.namespace) == before


@contextlib.contextmanager
def outside(namespace: str) -> Iterator[None]:
    """The world beyond the host: one machine with a service, and a way back to the lab's networks."""
    world = f"{namespace}-out"

    def ip(*words: str) -> None:
        RUNNER.run(["ip", *words], timeout=30)

    ip("netns", "add", world)
    try:
        ip("-n", namespace, "link", "add", "way-out", "type", "veth", "peer", "name", "eth0", "netns", world)
        ip("-n", namespace, "addr", "add", "203.0.113.1/24", "dev", "way-out")
        ip("-n", namespace, "link", "set", "way-out", "up")
        ip("-n", world, "addr", "add", f"{OUTSIDE}/24", "dev", "eth0")
        ip("-n", world, "link", "set", "eth0", "up")
        ip("-n", world, "route", "add", "default", "via", "203.0.113.1")
        with listening(world, 80):
            yield
    finally:
        ip("netns", "del", world)


@contextlib.contextmanager
def listening(namespace: str, *ports: int) -> Iterator[None]:
    words = ["ip", "netns", "exec", namespace, sys.executable, "-c", LISTENER, *map(str, ports)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def refused(bench: Bench) -> dict[str, Callable[[], bool]]:
    """Everything that must not pass, each by a probe that tells whether it did."""
    controller, compute, head, worker = bench.controller, bench.compute, bench.head, bench.worker
    probes: dict[str, Callable[[], bool]] = {
        "hpc to cloud, another port": lambda: compute.reaches(head.ip, 9000),
        "hpc to cloud, another source": lambda: controller.reaches(head.ip, 8000),
        "hpc to cloud, another target": lambda: compute.reaches(worker.ip, 8000),
        "cloud to hpc, another port": lambda: head.reaches(controller.ip, 9000),
        "cloud to hpc, another target": lambda: head.reaches(compute.ip, 8000),
        "cloud to hpc, ping": lambda: head.pings(compute.ip),
        "cloud to the world": lambda: head.reaches(OUTSIDE, 80),
        "cloud to the world, ping": lambda: head.pings(OUTSIDE),
        "hpc to the host, ping": lambda: compute.pings(GATEWAYS["hpc"]),
        "hpc to the host's other address": lambda: compute.reaches(GATEWAYS["cloud"], 22),
        "hpc to the host's way out": lambda: compute.reaches("203.0.113.1", 22),
        "the world to hpc": lambda: reached_from_outside(bench, compute),
    }
    for guest, side in ((compute, "hpc"), (head, "cloud")):
        for port in (22, 8443):
            probes[f"{side} to the host, port {port}"] = lambda guest=guest, side=side, port=port: guest.reaches(
                GATEWAYS[side], port
            )
    return probes


def passing(probes: Mapping[str, Callable[[], bool]]) -> set[str]:
    """Which of the probes pass. All at once: those that are met with silence take their time."""
    with ThreadPoolExecutor(len(probes)) as pool:
        return {
            what
            for what, passed in zip(probes, pool.map(lambda probe: probe(), probes.values()), strict=True)
            if passed
        }


def reached_from_outside(bench: Bench, guest: TalkingGuest) -> bool:
    words = ["ip", "netns", "exec", f"{bench.lab.namespace}-out", "nc", "-N", "-w", "2", guest.ip, "8000"]
    return bool(RUNNER.run(words, timeout=30, check=False).stdout)


def test_what_is_allowed_passes(bench: Bench) -> None:
    controller, compute, head, worker = bench.controller, bench.compute, bench.head, bench.worker
    assert compute.reaches(head.ip, 8000)
    assert head.reaches(controller.ip, 8000) and worker.reaches(controller.ip, 8001)
    assert controller.pings(head.ip) and compute.pings(worker.ip)
    # Within a network everything passes, and so does what the host begins (each probe comes over such a connection).
    assert compute.reaches(controller.ip, 9000) and head.reaches(worker.ip, 9000)


def test_with_nat_guests_go_out_under_the_host_s_address(bench: Bench) -> None:
    assert "203.0.113.1\n" in bench.compute.run(f"nc -w 5 {OUTSIDE} 80 </dev/null; echo")
    assert bench.compute.pings(OUTSIDE)


def test_what_is_not_allowed_is_refused(bench: Bench) -> None:
    assert passing(refused(bench)) == set()
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
    assert "status=0" not in bench.compute.run(f"nslookup -type=a hpc-controller.hpc.{domain} {GATEWAYS['cloud']}")


def echoes(guest: TalkingGuest) -> int:
    """How many echo requests have arrived there."""
    lines = [line.split() for line in guest.run("cat /proc/net/snmp").splitlines() if line.startswith("Icmp:")]
    return int(lines[1][lines[0].index("InEchos")])


def spoofed_echoes_that_arrive(bench: Bench) -> int:
    """Of those that a guest sends from addresses that are not its own: of nobody, of another node, of a pod."""
    before = echoes(bench.head)
    for address in ("192.168.100.77", bench.controller.ip, "192.168.200.77", "10.244.1.9"):
        pings = [f"ping -c 1 -W 1 -I {address} {target}" for target in (bench.head.ip, GATEWAYS["hpc"])]
        bench.compute.run(f"ip addr add {address}/32 dev eth0; {'; '.join(pings)}; ip addr del {address}/32 dev eth0")
    return echoes(bench.head) - before


def test_spoofed_packets_are_dropped(bench: Bench) -> None:
    before = echoes(bench.head)
    assert bench.compute.pings(bench.head.ip)
    assert echoes(bench.head) == before + 1
    assert spoofed_echoes_that_arrive(bench) == 0
    (dropped,) = [line for line in bench.table().splitlines() if "spoofed in hpc" in line]
    assert int(dropped.partition("packets ")[2].split()[0]) >= 6, dropped
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
    assert bench.lab.plan().is_empty
    pids = domain_processes(bench)
    assert len(pids) == len(bench.guests)
    bench.inside("nft", "delete", "table", "inet", table)
    try:
        probes = refused(bench)
        assert set(probes) - passing(probes) == set()
        assert spoofed_echoes_that_arrive(bench) > 0
        assert ipv6_passes(bench) == (True, True)
    finally:
        plan = bench.lab.plan()
        bench.lab.provision()
    assert [(change.action, change.resource.id, change.reason) for change in plan.changes] == [
        (Action.REPAIR, "firewall/lab", "its table is gone")
    ]
    assert passing(probes) == set()
    bench.inside("nft", "insert", "rule", "inet", table, "routed", "accept")
    (change,) = bench.lab.plan().changes
    assert (change.action, change.reason) == (Action.REPAIR, "has been edited: routed")
    bench.lab.provision()
    assert bench.lab.plan().is_empty
    assert not bench.head.reaches(bench.compute.ip, 8000)
    assert domain_processes(bench) == pids, "a guest was restarted for the sake of a table"


def domain_processes(bench: Bench) -> list[str]:
    files = (bench.lab.paths.hypervisor / "run" / "qemu").glob(f"{bench.lab.name}-*.pid")
    return sorted(file.read_text() for file in files)
