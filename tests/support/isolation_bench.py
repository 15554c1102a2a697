"""A real lab of talking guests, a world beyond the host, and probes of what passes between them, in either family."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import UsageError
from emulator.core.paths import Home
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import ConnectionFacts
from emulator.images.store.store import ImageStore
from emulator.plan.model import Action
from tests.support.guest_release import IMAGE
from tests.support.listener import LISTENER
from tests.support.real_lab import RealLab, host_traces
from tests.support.talking_guest import TalkingGuest, boot_of

RUNNER = HostProcess()
BOOT_SECONDS = 120

LAB = """\
version: "1.0"
metadata: {{name: {name}}}
timeouts: {{boot: 60}}
global:
  networks:
    hpc_network:
      nat: true
      nat_private: [10.78.0.0/24]
{hpc_v6}      allow:
        - {{from: [hpc-compute], to: [cloud-control-plane], ports: [8000]}}
        - {{protocol: icmp}}
    cloud_network:
{cloud_v6}      allow:
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

NAMES = ("hpc-controller", "hpc-compute-1", "cloud-control-plane", "cloud-cpu-worker-1")


@dataclass(frozen=True)
class Addresses:
    """Where everybody is, in one family: the nodes, the host in each network and towards the world, and the world."""

    controller: str
    compute: str
    head: str
    worker: str
    gateways: Mapping[str, str]
    way_out: str
    outside: str


# TEST-NET-3 of RFC 5737 and the documentation prefix of RFC 3849, in a namespace of the test's own
WAY_OUT, OUTSIDE = "203.0.113.1", "203.0.113.2"
WAY_OUT_V6, OUTSIDE_V6 = "2001:db8:113::1", "2001:db8:113::2"
# Further addresses of that world, which the host has routes to: a cloud's metadata service and somebody's own network.
METADATA, PRIVATE, LISTED = "169.254.169.254", "10.77.0.2", "10.78.0.2"


@dataclass
class Bench:
    lab: RealLab
    guests: dict[str, TalkingGuest]
    controller: TalkingGuest
    compute: TalkingGuest
    head: TalkingGuest
    worker: TalkingGuest
    ipv4: Addresses
    ipv6: Addresses | None = None

    def inside(self, *words: str) -> str:
        return RUNNER.run(["ip", "netns", "exec", self.lab.namespace, *words], timeout=30).stdout

    def table(self) -> str:
        return self.inside("nft", "list", "table", "inet", f"hyperscaler_{self.lab.name}")

    def counted(self, comment: str) -> int:
        """How many packets the rule with this comment has met."""
        (rule,) = [line for line in self.table().splitlines() if f'comment "{comment}"' in line]
        return int(rule.partition("packets ")[2].split()[0])

    def processes(self) -> list[str]:
        """Of the guests."""
        files = (self.lab.paths.hypervisor / "run" / "qemu").glob(f"{self.lab.name}-*.pid")
        return sorted(file.read_text() for file in files)


@contextlib.contextmanager
def isolation_bench(root: Path, prefix: str, *, ipv6: bool = False) -> Iterator[Bench]:
    """The lab in `root`, up and answering; afterwards nothing of it is left on the host."""
    image = ImageStore(Home.default().images, RUNNER).build(IMAGE, progress=lambda _phase, _line: None)
    name = f"{prefix}{os.getpid()}"
    subnets = {
        f"{kind}_v6": f"      subnet_v6: fd00:{number}::/64\n" if ipv6 else ""
        for kind, number in (("hpc", 100), ("cloud", 200))
    }
    lab = RealLab(root, name, text=LAB.format(name=name, **subnets), boot=boot_of(image))
    before = host_traces(root, lab.namespace)
    try:
        lab.provision()
        netns = ("ip", "netns", "exec", lab.namespace)
        spec = lab.file.spec
        guests = {node.name: TalkingGuest(node.name, str(node.ip), netns) for node in spec.nodes}
        deadline = time.monotonic() + BOOT_SECONDS
        for guest in guests.values():
            while not guest.answers():
                console = (lab.paths.console / f"{guest.name}.log").read_text(errors="replace")
                assert time.monotonic() < deadline, f"{guest.name} does not answer: {console[-2000:]}"
                time.sleep(0.2)
        gateways = {kind.value: str(network.gateway) for kind, network in spec.networks.items()}
        controller, compute, head, worker = (guests[name] for name in NAMES)
        ipv4 = Addresses(controller.ip, compute.ip, head.ip, worker.ip, gateways, WAY_OUT, OUTSIDE)
        bench = Bench(lab, guests, controller, compute, head, worker, ipv4)
        if ipv6:
            bench.ipv6 = take_ipv6_addresses(bench)
        with outside(lab.namespace), listening(lab.namespace, 22, 8443):
            yield bench
    finally:
        with contextlib.suppress(UsageError):
            lab.destroy()
        lab.close()
    assert host_traces(root, lab.namespace) == before


def take_ipv6_addresses(bench: Bench) -> Addresses:
    """What the playbook has a node's systemd-networkd do, from the same variables."""
    spec = bench.lab.file.spec
    inventory = build_inventory(spec, ConnectionFacts("root", Path("/k"), Path("/h")))
    nodes = {}
    for name, guest in bench.guests.items():
        variables = inventory.host(name).vars
        nodes[name] = str(variables["node_ip_v6"])
        address, route = f"{nodes[name]}/{variables['node_prefix_v6']}", variables["node_gateway_v6"]
        assert guest.succeeds(f"ip -6 addr add {address} dev eth0 && ip -6 route add default via {route}"), name
    time.sleep(2)  # until a guest has seen that nobody else has its address
    gateways = {kind.value: str(network.gateway_v6) for kind, network in spec.networks.items()}
    controller, compute, head, worker = (nodes[name] for name in NAMES)
    return Addresses(controller, compute, head, worker, gateways, WAY_OUT_V6, OUTSIDE_V6)


@contextlib.contextmanager
def outside(namespace: str) -> Iterator[None]:
    """The world beyond the host: one machine with a service, and a way back to the lab's networks."""
    world = f"{namespace}-out"

    def ip(*words: str) -> None:
        RUNNER.run(["ip", *words], timeout=30)

    ip("netns", "add", world)
    try:
        ip("-n", namespace, "link", "add", "way-out", "type", "veth", "peer", "name", "eth0", "netns", world)
        ip("-n", namespace, "addr", "add", f"{WAY_OUT}/24", "dev", "way-out")
        ip("-n", namespace, "addr", "add", f"{WAY_OUT_V6}/64", "dev", "way-out", "nodad")
        ip("-n", namespace, "link", "set", "way-out", "up")
        ip("-n", world, "addr", "add", f"{OUTSIDE}/24", "dev", "eth0")
        ip("-n", world, "addr", "add", f"{OUTSIDE_V6}/64", "dev", "eth0", "nodad")
        for address in (METADATA, PRIVATE, LISTED):
            ip("-n", world, "addr", "add", f"{address}/32", "dev", "eth0")
            ip("-n", namespace, "route", "add", f"{address}/32", "via", OUTSIDE)
        ip("-n", world, "link", "set", "eth0", "up")
        ip("-n", world, "route", "add", "default", "via", WAY_OUT)
        ip("-n", world, "-6", "route", "add", "default", "via", WAY_OUT_V6)
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


@contextlib.contextmanager
def without_table(bench: Bench) -> Iterator[None]:
    """The lab's table is taken away by hand; then `plan` says that, and no more, and `provision` brings it back."""
    assert bench.lab.plan().is_empty
    bench.inside("nft", "delete", "table", "inet", f"hyperscaler_{bench.lab.name}")
    try:
        yield
    finally:
        plan = bench.lab.plan()
        bench.lab.provision()
    assert [(change.action, change.resource.id, change.reason) for change in plan.changes] == [
        (Action.REPAIR, "firewall/lab", "its table is gone")
    ]


def refused(bench: Bench, at: Addresses) -> dict[str, Callable[[], bool]]:
    """Everything that must not pass, each by a probe that tells whether it did."""
    controller, compute, head = bench.controller, bench.compute, bench.head
    probes: dict[str, Callable[[], bool]] = {
        "hpc to cloud, another port": lambda: compute.reaches(at.head, 9000),
        "hpc to cloud, another source": lambda: controller.reaches(at.head, 8000),
        "hpc to cloud, another target": lambda: compute.reaches(at.worker, 8000),
        "cloud to hpc, another port": lambda: head.reaches(at.controller, 9000),
        "cloud to hpc, another target": lambda: head.reaches(at.compute, 8000),
        "cloud to hpc, ping": lambda: head.pings(at.compute),
        "cloud to the world": lambda: head.reaches(at.outside, 80),
        "cloud to the world, ping": lambda: head.pings(at.outside),
        "hpc to the host, ping": lambda: compute.pings(at.gateways["hpc"]),
        "hpc to the host's other address": lambda: compute.reaches(at.gateways["cloud"], 22),
        "hpc to the host's way out": lambda: compute.reaches(at.way_out, 22),
        "the world to hpc": lambda: reached_from_outside(bench, at.compute),
    }
    if at is bench.ipv4:
        probes["hpc to the metadata service of a cloud"] = lambda: compute.reaches(METADATA, 80)
        probes["hpc to a private network that is not listed"] = lambda: compute.reaches(PRIVATE, 80)
    for guest, side in ((compute, "hpc"), (head, "cloud")):
        for port in (22, 8443):
            probes[f"{side} to the host, port {port}"] = partial(guest.reaches, at.gateways[side], port)
    return probes


def passing(probes: Mapping[str, Callable[[], bool]]) -> set[str]:
    """Which of the probes pass. All at once: those that are met with silence take their time."""
    with ThreadPoolExecutor(len(probes)) as pool:
        return {
            what
            for what, passed in zip(probes, pool.map(lambda probe: probe(), probes.values()), strict=True)
            if passed
        }


def reached_from_outside(bench: Bench, address: str) -> bool:
    words = ["ip", "netns", "exec", f"{bench.lab.namespace}-out", "nc", "-N", "-w", "2", address, "8000"]
    return bool(RUNNER.run(words, timeout=30, check=False).stdout)
