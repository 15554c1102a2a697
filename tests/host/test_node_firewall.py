"""The firewall of the nodes with real packets: a node, another one, the host and a pod, each a network namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.baseline_templates import LAB, rendered
from tests.support.listener import LISTENER
from tests.support.router_advertisement import advertise

pytestmark = pytest.mark.host

POD, POD_GATEWAY = "10.244.10.2", "10.244.10.1"
# What kube-proxy does for two services of type NodePort: one with a pod behind it, one with a process of the node.
KUBE_PROXY = f"""
table ip nat {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        tcp dport 30080 dnat to {POD}:8080
        tcp dport 30081 dnat to {{node}}:5000
    }}
}}
"""


def run(*argv: str | Path, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, input=stdin, check=False)
    assert done.returncode == 0 or not check, (argv, done.stderr)
    return done


@dataclass
class Net:
    """`node` under test, `peer` of the same cluster, the `host` at the gateway's address, a `pod` on the node."""

    prefix: str
    node: str
    peer: str
    gateway: str

    def name(self, role: str) -> str:
        return f"{self.prefix}-{role}"

    def inside(self, role: str, *argv: str | Path, check: bool = True, stdin: str | None = None) -> str:
        return run("ip", "netns", "exec", self.name(role), *argv, check=check, stdin=stdin).stdout

    def build(self) -> None:
        for role in ("host", "node", "peer", "pod"):
            run("ip", "netns", "add", self.name(role))
            self.inside(role, "ip", "link", "set", "lo", "up")
        self.bridge("host", "br0", f"{self.gateway}/24")
        self.bridge("node", "cni0", f"{POD_GATEWAY}/24")
        self.plug("host", "br0", "node", f"{self.node}/24")
        self.plug("host", "br0", "peer", f"{self.peer}/24")
        self.plug("node", "cni0", "pod", f"{POD}/24")
        self.inside("node", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.inside("pod", "ip", "route", "add", "default", "via", POD_GATEWAY)
        self.inside("peer", "ip", "route", "add", "10.244.10.0/24", "via", self.node)
        self.inside("host", "ip", "route", "add", "10.244.10.0/24", "via", self.node)

    def bridge(self, role: str, bridge: str, address: str) -> None:
        self.inside(role, "ip", "link", "add", bridge, "type", "bridge")
        self.inside(role, "ip", "address", "add", address, "dev", bridge)
        self.inside(role, "ip", "link", "set", bridge, "up")

    def plug(self, role: str, bridge: str, other: str, address: str) -> None:
        port = f"to-{other}"
        far = ["peer", "name", "eth0", "netns", self.name(other)]
        self.inside(role, "ip", "link", "add", port, "type", "veth", *far)
        self.inside(role, "ip", "link", "set", port, "master", bridge, "up")
        self.inside(other, "ip", "address", "add", address, "dev", "eth0")
        self.inside(other, "ip", "link", "set", "eth0", "up")

    def load(self, rules: str) -> None:
        self.inside("node", "nft", "-f", "-", stdin=rules)

    def serve(self, role: str, *ports: int) -> subprocess.Popen[str]:
        argv = ["ip", "netns", "exec", self.name(role), sys.executable, "-c", LISTENER, *map(str, ports)]
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        return server

    def reaches(self, role: str, address: str, port: int) -> bool:
        argv = ["ip", "netns", "exec", self.name(role), "nc", "-z", "-w", "2", address, str(port)]
        return run(*argv, check=False).returncode == 0

    def remove(self) -> None:
        for role in ("host", "node", "peer", "pod"):
            run("ip", "netns", "delete", self.name(role), check=False)


def built(prefix: str, node: str, peer: str, ports: tuple[int, ...]) -> Iterator[Net]:
    if os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("nc") is None:
        pytest.skip("needs root, nft and nc")
    net = Net(f"{prefix}{os.getpid()}", node, peer, node.rpartition(".")[0] + ".1")
    servers: list[subprocess.Popen[str]] = []
    try:
        net.build()
        servers += [net.serve("node", *ports), net.serve("pod", 8080)]
        yield net
    finally:
        for server in servers:
            server.kill()
            server.wait()
        net.remove()


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Net]:
    yield from built("hsfwk", "192.168.200.10", "192.168.200.11", (22, 2379, 5000, 6443, 10250))


@pytest.fixture(scope="module")
def compute() -> Iterator[Net]:
    yield from built("hsfws", "192.168.100.11", "192.168.100.10", (22, 111, 6818, 50000))


def seen(net: Net, role: str, ports: tuple[int, ...]) -> list[int]:
    """Which of these ports of the node answer."""
    return [port for port in ports if net.reaches(role, net.node, port)]


def test_a_control_plane(control_plane: Net) -> None:
    net, ports = control_plane, (22, 2379, 5000, 6443, 10250)
    assert seen(net, "host", ports) == list(ports), "without rules everything answers"
    net.load(KUBE_PROXY.replace("{node}", net.node))
    net.load(rendered("firewall.nft.j2", "cloud-control-plane"))
    assert seen(net, "host", ports) == [22, 6443]
    assert seen(net, "peer", ports) == list(ports)
    assert seen(net, "pod", ports) == [22, 6443, 10250]
    assert seen(net, "node", ports) == list(ports), "the node reaches itself"


def test_what_is_forwarded_or_sent_by_kube_proxy_passes(control_plane: Net) -> None:
    net = control_plane
    net.load(rendered("firewall.nft.j2", "cloud-control-plane"))
    assert net.reaches("peer", POD, 8080), "from node to pod"
    assert net.reaches("node", POD, 8080), "kubelet's probe"
    assert net.reaches("host", net.node, 30080), "a service with a pod behind it"
    assert net.reaches("host", net.node, 30081), "a service with a process of the node behind it"
    assert not net.reaches("host", net.node, 5000), "that process itself"


def test_loading_again_leaves_the_rules_of_others(control_plane: Net) -> None:
    net = control_plane
    before = net.inside("node", "nft", "list", "table", "ip", "nat")
    for _ in range(2):
        net.load(rendered("firewall.nft.j2", "cloud-control-plane"))
    assert net.inside("node", "nft", "list", "table", "ip", "nat") == before
    tables = net.inside("node", "nft", "list", "tables").split("\n")
    assert sorted(filter(None, tables)) == ["table inet lab", "table ip nat"]


def test_a_compute_node(compute: Net) -> None:
    net, ports = compute, (22, 111, 6818, 50000)
    net.load(rendered("firewall.nft.j2", "hpc-compute-1"))
    assert seen(net, "host", ports) == [22]
    assert seen(net, "peer", ports) == [22, 6818, 50000]


def test_what_the_file_allows_from_the_other_cluster_and_nothing_else(compute: Net) -> None:
    net, ports = compute, (22, 111, 6818, 50000)
    # The peer stands for a node of the other cluster: it comes from an address of that network.
    net.inside("peer", "ip", "address", "add", "192.168.200.10/32", "dev", "lo")
    net.inside("peer", "ip", "route", "replace", "192.168.100.0/24", "dev", "eth0", "src", "192.168.200.10")
    net.inside("node", "ip", "route", "add", "192.168.200.0/24", "via", net.peer)
    try:
        net.load(rendered("firewall.nft.j2", "hpc-compute-1"))
        assert seen(net, "peer", ports) == [22]
        allow = "global: {networks: {cloud_network: {allow: [{to: [hpc-compute-1], ports: [6818]}]}}}\n"
        net.load(rendered("firewall.nft.j2", "hpc-compute-1", LAB + allow))
        assert seen(net, "peer", ports) == [22, 6818]
    finally:
        net.inside("node", "ip", "route", "delete", "192.168.200.0/24")
        net.inside("peer", "ip", "route", "replace", "192.168.100.0/24", "dev", "eth0", "src", net.peer)


DUAL = """\
global:
  networks:
    hpc_network: {subnet_v6: fd00:100::/64}
    cloud_network: {subnet_v6: fd00:200::/64, allow: [{to: [hpc-compute-1], ports: [6818]}]}
"""


def test_with_ipv6_the_same_passes_in_both_families(compute: Net) -> None:
    net, ports = compute, (22, 111, 6818, 50000)
    node, neighbour, foreign = "fd00:100::b", "fd00:100::a", "fd00:200::a"
    for role, address in (("node", node), ("peer", neighbour), ("peer", foreign)):
        net.inside(role, "ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
    net.inside("node", "ip", "route", "add", "fd00:200::/64", "via", neighbour)

    def seen_from(source: str, *, of: str = node) -> list[int]:
        net.inside("peer", "ip", "route", "replace", f"{of}/128", "dev", "eth0", "src", source)
        return [port for port in ports if net.reaches("peer", of, port)]

    try:
        net.load("table inet lab\ndelete table inet lab\n")
        assert seen_from(neighbour) == seen_from(foreign) == list(ports), "without rules everything answers"
        assert takes_a_router(net)
        net.load(rendered("firewall.nft.j2", "hpc-compute-1", LAB + DUAL))
        assert seen_from(neighbour) == [22, 6818, 50000]
        assert seen_from(foreign) == [22, 6818]
        assert not takes_a_router(net)
        assert seen(net, "peer", ports) == [22, 6818, 50000], "and in IPv4, as before"
        net.load(rendered("firewall.nft.j2", "hpc-compute-1"))
        assert seen_from(neighbour) == [22], "a lab without IPv6"
    finally:
        net.inside("node", "ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")
        net.inside("peer", "ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")


def takes_a_router(net: Net) -> bool:
    """Whether the node, if it listened to advertisements, would believe that of the peer."""
    mac = net.inside("peer", "cat", "/sys/class/net/eth0/address").strip()
    net.inside("node", "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
    for _ in range(6):
        advertise(net.name("peer"), "eth0", mac)
        if net.inside("node", "ip", "-6", "route", "show", "default", "proto", "ra"):
            net.inside("node", "ip", "-6", "route", "flush", "default", "proto", "ra")
            return True
        time.sleep(0.5)
    return False


def test_before_the_playbook_a_node_lets_in_ssh_alone(compute: Net) -> None:
    net = compute
    image = Path(__file__).parents[2] / "config/images/files/common/etc/hyperscaler/firewall.nft"
    net.load(image.read_text())
    assert seen(net, "peer", (22, 6818)) == [22]


HOLDER = """
import selectors, socket
server = socket.create_server(("", 22), backlog=256)
waiting = selectors.DefaultSelector()
waiting.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        if key.fileobj is server:
            waiting.register(server.accept()[0], selectors.EVENT_READ)
        else:  # nobody says a word: it was closed
            waiting.unregister(key.fileobj)
            key.fileobj.close()
"""
KNOCKS = """
import os, socket, sys
address, wanted, uid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgid(uid)
os.setuid(uid)
held = []
for number in range(wanted):
    one = socket.socket()
    one.settimeout(2)
    try:
        if address.startswith("127."):
            one.bind((f"127.0.1.{number + 1}", 0))
            one.connect((f"127.0.2.{number + 1}", 22))
        else:
            one.connect((address, 22))
    except OSError:
        continue
    held.append(one)
print(len(held), flush=True)
sys.stdin.read()
"""


def test_one_user_of_a_node_does_not_take_all_ssh_connections() -> None:
    """A user of the node against the node itself, then users of the neighbour, then its root."""
    knocking: list[subprocess.Popen[str]] = []

    def knock(net: Net, role: str, address: str, wanted: int, uid: int) -> int:
        """How many connections it gets and holds."""
        argv = ["ip", "netns", "exec", net.name(role), sys.executable, "-c", KNOCKS, address, str(wanted), str(uid)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        knocking.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def leave() -> None:
        while knocking:
            process = knocking.pop()
            process.kill()
            process.wait()

    building = built("hsfwc", "192.168.100.11", "192.168.100.10", (6818,))
    net = next(building)
    argv = ["ip", "netns", "exec", net.name("node"), sys.executable, "-c", HOLDER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            net.load(rendered("firewall.nft.j2", "hpc-compute-1"))
            net.inside("peer", "nft", "-f", "-", stdin=rendered("firewall.nft.j2", "hpc-controller"))
            assert knock(net, "node", "127.0.0.1", 20, 2001) == 4, "loopback addresses count together"
            assert knock(net, "node", net.node, 20, 2001) == 0, "and with the node's own"
            assert [knock(net, "peer", net.node, 20, uid) for uid in (2001, 2001, 2002)] == [4, 0, 4]
            assert knock(net, "peer", net.node, 40, 0) == 16, "24 from one node"
            assert knock(net, "node", net.node, 20, 2002) == 4, "32 in all: the 4 that the neighbour did not get"
            assert knock(net, "node", net.node, 20, 2003) == 0
            assert knock(net, "host", net.node, 40, 0) == 40, "the host's are not counted"
            leave()
            tries = 0
            while (got := knock(net, "peer", net.node, 20, 2001)) < 4:  # sshd closes its side a moment later
                tries += 1
                assert tries < 60, f"who has closed them may open others, and gets {got}"
                leave()
                time.sleep(0.5)
        finally:
            leave()
            server.kill()
            next(building, None)
