"""lab-ingress with a real API server: which addresses services get, and what comes of a request for an Ingress.

The program is compiled with the Go of this host, from the modules that are pinned for it; the server is of a release of
Kubernetes on this machine. No nodes: services have addresses of the loopback, where web servers of the tests listen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import WHERE, ApiServer, free_ports, programs, releases, running, started
from tests.support.lab_ingress import command, compiled, install, make_node
from tests.support.node_namespaces import SKIPPED

pytestmark = pytest.mark.host

NODES = ("192.0.2.10", "192.0.2.11")
# A loaded machine takes its time; what comes is seen at once.
PATIENCE = 300.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    work = tmp_path_factory.mktemp("kubernetes")
    named = os.environ.get(WHERE)
    found = Path(named) if named else None
    for release in [] if named else releases():
        found = found or programs(release, work / release.name)
    if found is None:
        pytest.skip(f"no release of Kubernetes on this machine: make demo builds one; or name programs in {WHERE}")
    (work / "state").mkdir()
    with running(found, work / "state", "--service-cluster-ip-range=127.96.0.0/24") as server:
        install(server)
        for number, address in enumerate(NODES):
            make_node(server, f"node-{number}", address)
        yield server


@dataclass
class Edge:
    """The program, running, with the rights that its manifest gives it."""

    api: ApiServer
    port: int
    token: str

    def get(self, host: str, path: str = "/", **headers: str) -> tuple[int, str]:
        where = f"http://127.0.0.1:{self.port}{path}"
        wish = urllib.request.Request(where, headers={"Host": host, **headers})
        try:
            with urllib.request.urlopen(wish, timeout=120) as reply:  # noqa: S310
                return int(reply.status), reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def make(self, namespace: str, kind: str, name: str, spec: dict[str, Any], *, expect: int = 201) -> None:
        group = "/apis/networking.k8s.io/v1" if kind == "Ingress" else "/api/v1"
        version = "networking.k8s.io/v1" if kind == "Ingress" else "v1"
        place = f"{group}/namespaces/{namespace}/{'ingresses' if kind == 'Ingress' else 'services'}"
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
        done = self.api.request("POST", place, body)
        assert done.status == expect, done.message

    def service(self, namespace: str, name: str) -> dict[str, Any]:
        return self.api.request("GET", f"/api/v1/namespaces/{namespace}/services/{name}").body

    def addresses(self, namespace: str, name: str) -> list[str]:
        given = self.service(namespace, name)["status"]["loadBalancer"].get("ingress", [])
        return [each["ip"] for each in given]

    def refused(self, namespace: str, name: str) -> str:
        found = self.service(namespace, name)["status"].get("conditions", [])
        return next((each["message"] for each in found if each["type"] == "LabPorts"), "")

    def path(self, namespace: str, name: str, host: str, path: str, service: str, **more: Any) -> None:
        backend = {"service": {"name": service, "port": {"number": 80}}}
        paths = [{"path": path, "pathType": more.pop("kind", "Prefix"), "backend": backend}]
        rule = {"http": {"paths": paths}} | ({"host": host} if host else {})
        self.make(namespace, "Ingress", name, {"ingressClassName": "lab", "rules": [rule], **more})


@pytest.fixture(scope="module")
def edge(api: ApiServer, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    work = tmp_path_factory.mktemp("edge")
    token = api.token("lab-ingress", "lab-ingress")
    port, health = free_ports(2)
    argv = command(program, api, work, listen=f"127.0.0.1:{port}", health=f"127.0.0.1:{health}")
    for name in ("one", "two"):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        assert api.request("POST", "/api/v1/namespaces", namespace).status == 201

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{health}/healthz", timeout=60) as reply:
                return int(reply.status) == 200
        except OSError:
            return False

    with started(argv, work / "log") as process:
        until(lambda: healthy() or process.poll() is not None, "lab-ingress is ready")
        assert process.poll() is None, (work / "log").read_text()
        yield Edge(api, port, token)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.3)


def balanced(*ports: int, **more: Any) -> dict[str, Any]:
    listed = [{"port": each, "name": f"p{each}"} for each in ports]
    return {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": listed, **more}


# ---------------------------------------------------------------- services of type LoadBalancer
def test_a_service_gets_the_addresses_of_the_nodes(edge: Edge) -> None:
    until(lambda: edge.addresses("lab-ingress", "lab-ingress") == list(NODES), "its own service has addresses")
    edge.make("one", "Service", "web", balanced(8000, 8001))
    until(lambda: edge.addresses("one", "web") == list(NODES), "a service has addresses")
    assert edge.refused("one", "web") == ""
    edge.make("one", "Service", "inside", {"ports": [{"port": 8000}]})
    edge.make("one", "Service", "others", balanced(8002, loadBalancerClass="example.org/other"))
    edge.make("one", "Service", "late", balanced(8003))
    until(lambda: edge.addresses("one", "late") == list(NODES), "a later service has addresses")
    assert edge.addresses("one", "inside") == edge.addresses("one", "others") == []


def test_a_port_is_the_older_services_until_that_goes(edge: Edge) -> None:
    edge.make("one", "Service", "first", balanced(8100))
    until(lambda: edge.addresses("one", "first") == list(NODES), "the first has addresses")
    time.sleep(1.1)  # objects have their age in whole seconds
    edge.make("two", "Service", "second", balanced(8101, 8100))
    until(lambda: edge.refused("two", "second") != "", "the second is told why it gets none")
    assert edge.refused("two", "second") == "port 8100 has an older service of type LoadBalancer"
    assert edge.addresses("two", "second") == []
    assert edge.addresses("one", "first") == list(NODES)
    edge.api.request("DELETE", "/api/v1/namespaces/one/services/first")
    until(lambda: edge.addresses("two", "second") == list(NODES), "the second has what the first had")
    assert edge.refused("two", "second") == ""


@pytest.mark.parametrize("port", [22, 2379, 6443, 10250, 10256, 31000])
def test_ports_on_which_nodes_serve_are_given_to_nobody(edge: Edge, port: int) -> None:
    """kube-proxy would take the packets before kubelet, sshd or the API server see them."""
    name = f"takes-{port}"
    edge.make("one", "Service", name, balanced(port))
    until(lambda: edge.refused("one", name) == f"port {port} is the nodes' own", "it is told why")
    assert edge.addresses("one", name) == []


def test_addresses_follow_the_nodes(edge: Edge) -> None:
    edge.make("one", "Service", "follows", balanced(8200))
    until(lambda: edge.addresses("one", "follows") == list(NODES), "a service has addresses")
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-9"}}
    assert edge.api.request("POST", "/api/v1/nodes", node).status == 201
    status = {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.19"}]}}
    assert edge.api.request("PATCH", "/api/v1/nodes/node-9/status", status).status == 200
    until(lambda: edge.addresses("one", "follows") == [*NODES, "192.0.2.19"], "the new node is among them")
    assert edge.api.request("DELETE", "/api/v1/nodes/node-9").status == 200
    until(lambda: edge.addresses("one", "follows") == list(NODES), "the old node is not")


# ---------------------------------------------------------------- Ingress
class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked, and by which address it was reached."""

    def do_GET(self) -> None:
        body = json.dumps(
            {"at": self.connection.getsockname()[0], "path": self.path, "headers": dict(self.headers)}
        ).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web(edge: Edge) -> Iterator[dict[str, str]]:
    """By namespace, the address of a service `web80` that answers at port 80."""
    servers = {}
    for number, namespace in enumerate(("one", "two"), 50):
        address = f"127.96.0.{number}"
        servers[namespace] = ThreadingHTTPServer((address, 80), Echo)
        threading.Thread(target=servers[namespace].serve_forever, daemon=True).start()
        edge.make(namespace, "Service", "web80", {"clusterIP": address, "ports": [{"port": 80}]})
    yield {namespace: str(server.server_address[0]) for namespace, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="port 80 of the loopback")


@needs_root
def test_requests_go_to_the_service_that_an_ingress_names(edge: Edge, web: dict[str, str]) -> None:
    edge.path("one", "plain", "plain.example.org", "/", "web80")
    edge.path("two", "deeper", "plain.example.org", "/deeper", "web80")
    edge.path("two", "wild", "*.wild.example.org", "/", "web80")
    until(lambda: edge.get("plain.example.org")[0] == 200, "the Ingress is served")
    until(lambda: edge.get("a.wild.example.org")[0] == 200, "the wildcard is served")

    def at(host: str, path: str = "/") -> str:
        status, body = edge.get(host, path)
        return str(json.loads(body)["at"]) if status == 200 else str(status)

    assert at("PLAIN.example.org:8080", "/x?y=1") == web["one"]
    assert at("plain.example.org", "/deeper/still") == web["two"], "the longest path"
    assert at("plain.example.org", "/deepers") == web["one"], "whole elements of a path"
    assert at("a.wild.example.org") == web["two"]
    assert at("a.b.wild.example.org") == at("wild.example.org") == at("192.0.2.10") == "404"
    seen = json.loads(edge.get("plain.example.org", "/a%2Fb?c=d")[1])
    assert seen["path"] == "/a%2Fb?c=d"
    assert seen["headers"]["Host"] == "plain.example.org"
    found = edge.api.request("GET", "/apis/networking.k8s.io/v1/namespaces/one/ingresses/plain").body
    assert [each["ip"] for each in found["status"]["loadBalancer"]["ingress"]] == list(NODES)


@needs_root
def test_what_a_client_says_of_its_own_address_does_not_come_through(edge: Edge, web: dict[str, str]) -> None:
    edge.path("one", "whose", "whose.example.org", "/", "web80")
    until(lambda: edge.get("whose.example.org")[0] == 200, "the Ingress is served")
    said = {
        "X-Forwarded-For": "6.6.6.6",
        "X_Forwarded_For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Real-IP": "6.6.6.6",
    }
    seen = json.loads(edge.get("whose.example.org", **said)[1])["headers"]
    assert "6.6.6.6" not in json.dumps(seen)
    assert seen["X-Forwarded-For"] == "127.0.0.1"
    assert seen["X-Forwarded-Host"] == "whose.example.org"


@needs_root
def test_a_path_is_the_older_ingress_own(edge: Edge, web: dict[str, str]) -> None:
    edge.path("one", "mine", "mine.example.org", "/", "web80")
    time.sleep(1.1)
    edge.path("two", "thief", "mine.example.org", "/", "web80")
    edge.path("two", "marker", "marker.example.org", "/", "web80")
    until(lambda: edge.get("marker.example.org")[0] == 200, "all three are served")
    assert json.loads(edge.get("mine.example.org")[1])["at"] == web["one"]


@needs_root
def test_an_ingress_leads_to_nothing_but_services_of_its_namespace(edge: Edge, web: dict[str, str]) -> None:
    """By the name of a service one could reach what only the nodes reach: the API server, or kubelets."""
    out = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 80}]}
    edge.make("two", "Service", "out", out)
    edge.make("two", "Service", "headless", {"clusterIP": "None", "ports": [{"port": 80}]})
    edge.make("one", "Service", "only-one", {"ports": [{"port": 80}]})
    for name in ("out", "headless", "only-one", "absent"):
        edge.path("two", f"to-{name}", f"{name}.example.org", "/", name)
    edge.path("two", "after", "after.example.org", "/", "web80")
    until(lambda: edge.get("after.example.org")[0] == 200, "all are read")
    for name in ("out", "headless", "only-one", "absent"):
        assert edge.get(f"{name}.example.org")[0] == 503, name
    assert edge.get("nobody.example.org")[0] == 404


@needs_root
def test_an_ingress_of_another_class_is_left_alone(edge: Edge, web: dict[str, str]) -> None:
    edge.path("one", "other", "other.example.org", "/", "web80", ingressClassName="other")
    edge.path("one", "last", "last.example.org", "/", "web80")
    until(lambda: edge.get("last.example.org")[0] == 200, "both are read")
    assert edge.get("other.example.org")[0] == 404
    found = edge.api.request("GET", "/apis/networking.k8s.io/v1/namespaces/one/ingresses/other").body
    assert found["status"]["loadBalancer"] == {}


def test_its_token_reads_no_secrets_and_makes_nothing(edge: Edge) -> None:
    for path in ("/api/v1/secrets", "/api/v1/namespaces/lab-ingress/secrets", "/api/v1/pods", "/api/v1/configmaps"):
        assert edge.api.request("GET", path, token=edge.token).status == 403, path
    for path in ("/api/v1/namespaces/one/services", "/apis/networking.k8s.io/v1/namespaces/one/ingresses"):
        assert edge.api.request("POST", path, {}, token=edge.token).status == 403, path
    change = {"spec": {"ports": [{"port": 1}]}}
    assert edge.api.request("PATCH", "/api/v1/namespaces/one/services/web", change, token=edge.token).status == 403


def test_it_writes_nothing_while_nothing_changes(edge: Edge) -> None:
    before = edge.service("lab-ingress", "lab-ingress")["metadata"]["resourceVersion"]
    edge.make("one", "Service", "event", {"ports": [{"port": 80}]})
    edge.make("one", "Service", "noticed", balanced(8300))
    until(lambda: edge.addresses("one", "noticed") == list(NODES), "it has looked again")
    assert edge.service("lab-ingress", "lab-ingress")["metadata"]["resourceVersion"] == before
    assert re.fullmatch(r"\d+", before)


# ---------------------------------------------------------------- packets
@needs_root
def test_packets_to_a_nodes_address_come_to_the_pod(program: Path, tmp_path: Path) -> None:
    """With kube-proxy, in namespaces of their own: a node, a pod, and the host that asks."""
    if shutil.which("iptables") is None:
        pytest.skip("this host has no iptables")
    argv = ["unshare", "-n", "-m", sys.executable, "-m", "tests.support.node_namespaces"]
    argv += [str(program), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = json.loads(done.stdout.splitlines()[-1])
    assert pages == {
        "http://192.0.2.10:8088/": "a pod for any.example.org",
        "http://192.0.2.10/": "a pod for web.example.org",
        "http://192.0.2.10:30080/": "a pod for web.example.org",
    }
