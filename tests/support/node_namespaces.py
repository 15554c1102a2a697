"""A node with kube-proxy and lab-ingress, a pod, and a host next to them, each in a network namespace of its own.

Run by a test, within `unshare -n -m`: PROGRAM (lab-ingress) and WORK (an empty directory). That namespace is the
node's, and the API server's. The last line of the output is what the host got, by URL.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import api_server
from tests.support.api_server import ApiServer, running, started
from tests.support.lab_ingress import command, install, make_node

SKIPPED = 77
NODE, POD, INGRESS_PORT = "192.0.2.10", "10.244.0.5", 8090
WANTED = {
    f"http://{NODE}:8088/": "any.example.org",
    f"http://{NODE}/": "web.example.org",
    f"http://{NODE}:30080/": "web.example.org",
}
PATIENCE = 600.0
_SERVE = """\
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"a pod for {self.headers['Host']}".encode())
ThreadingHTTPServer(("0.0.0.0", 8080), Page).serve_forever()
"""
_FETCH = """\
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
request = urllib.request.Request(sys.argv[1], headers={"Host": sys.argv[2]})
print(opener.open(request, timeout=20).read().decode())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def neighbour(device: str, near: str, far: str) -> Iterator[list[str]]:
    """Another namespace, at the other end of `device`; yields the words that run a command there."""
    with subprocess.Popen(["unshare", "-n", "sleep", "infinity"]) as holder:
        try:
            own = Path("/proc/self/ns/net").stat().st_ino
            while Path(f"/proc/{holder.pid}/ns/net").stat().st_ino == own:
                time.sleep(0.05)
            there = ["nsenter", "-t", str(holder.pid), "-n"]
            ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            ip("addr", "add", near, "dev", device)
            ip("link", "set", device, "up")
            for words in (f"addr add {far} dev eth0", "link set lo up", "link set eth0 up"):
                subprocess.run([*there, "ip", *words.split()], check=True, capture_output=True)
            subprocess.run([*there, "ip", "route", "add", "default", "via", near.split("/")[0]], check=True)
            yield there
        finally:
            holder.kill()


def make(api: ApiServer, place: str, kind: str, name: str, **body: Any) -> None:
    version = place.removeprefix("/apis/").removeprefix("/api/").partition("/namespaces")[0]
    meta = {"name": name, **body.pop("metadata", {})}
    done = api.request("POST", place, {"apiVersion": version, "kind": kind, "metadata": meta, **body})
    assert done.status == 201, done.message


def endpoints(api: ApiServer, namespace: str, service: str, address: str, port: int, name: str = "") -> None:
    """What a controller makes of a service and its pods."""
    make(
        api,
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        "EndpointSlice",
        f"{service}-1",
        metadata={"labels": {"kubernetes.io/service-name": service}},
        addressType="IPv4",
        ports=[{"name": name, "port": port, "protocol": "TCP"}],
        endpoints=[{"addresses": [address], "conditions": {"ready": True}, "nodeName": "node"}],
    )


def fill(api: ApiServer) -> None:
    """A service with addresses outside, and an Ingress without a class of its own, which gets the default one."""
    install(api)
    make_node(api, "node", NODE)
    services = "/api/v1/namespaces/default/services"
    balanced = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}
    make(api, services, "Service", "balanced", spec={**balanced, "ports": [{"port": 8088, "targetPort": 8080}]})
    make(api, services, "Service", "web", spec={"ports": [{"port": 80, "targetPort": 8080}]})
    for name in ("balanced", "web"):
        endpoints(api, "default", name, POD, 8080)
    endpoints(api, "lab-ingress", "lab-ingress", "10.244.0.1", INGRESS_PORT, "http")
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    rules = [{"host": "web.example.org", "http": {"paths": paths}}]
    make(api, "/apis/networking.k8s.io/v1/namespaces/default/ingresses", "Ingress", "web", spec={"rules": rules})


def pages(host: list[str]) -> dict[str, str]:
    """What the host gets, when it gets all; what it has at the end of our patience otherwise."""
    end = time.monotonic() + PATIENCE
    while True:
        found = {}
        for url, name in WANTED.items():
            argv = [*host, sys.executable, "-c", _FETCH, url, name]
            found[url] = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
        if all(found.values()) or time.monotonic() > end:
            return found
        time.sleep(1)


def main(program: Path, work: Path) -> int:
    api_server.PROGRAMS = (*api_server.PROGRAMS, "kube-proxy")
    releases = (api_server.programs(each, work / each.name) for each in api_server.releases())
    programs = next((each for each in releases if each), None)
    if programs is None:
        print("no release of Kubernetes on this machine: make demo builds one", file=sys.stderr)
        return SKIPPED
    (work / "state").mkdir()
    ip("link", "set", "lo", "up")
    subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
    with contextlib.ExitStack() as stack:
        pod = stack.enter_context(neighbour("cni0", "10.244.0.1/24", f"{POD}/24"))
        host = stack.enter_context(neighbour("ens3", f"{NODE}/24", "192.0.2.1/24"))
        ip("route", "add", "default", "via", "192.0.2.1")
        stack.enter_context(started([*pod, sys.executable, "-c", _SERVE], work / "pod.log"))
        api = stack.enter_context(running(programs, work / "state"))
        fill(api)
        # In the place of a pod: its own way to the API server would need one more service.
        edge = command(program, api, work, listen=f"10.244.0.1:{INGRESS_PORT}", health="127.0.0.1:8091")
        stack.enter_context(started(edge, work / "edge.log"))
        proxy = [programs / "kube-proxy", f"--kubeconfig={api.kubeconfig}", "--proxy-mode=iptables"]
        proxy += ["--cluster-cidr=10.244.0.0/16", "--hostname-override=node", "--conntrack-max-per-core=0"]
        stack.enter_context(started(proxy, work / "proxy.log"))
        print(json.dumps(pages(host)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
