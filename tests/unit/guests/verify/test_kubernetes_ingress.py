"""Checks of what serves pods outside the cluster, and of Helm on the control plane."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from emulator.guests.verify import helm_check as helm
from emulator.guests.verify import kubernetes_ingress as ingress
from emulator.guests.verify.kubernetes_probes import verify_kubernetes
from tests.unit.guests.verify.test_kubernetes_verdicts import ADDRESSES, GOOD, GPUS, WORKER, Cluster, names, spec

URLS = ["http://192.168.1.10/", "http://192.168.1.10:18080/"]


def service(*addresses: str) -> str:
    status = {"loadBalancer": {"ingress": [{"ip": each, "ipMode": "VIP"} for each in addresses]} if addresses else {}}
    return json.dumps({"kind": "Service", "status": status})


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (service("10.0.0.1", "10.0.0.2"), ("10.0.0.1", "10.0.0.2")),
        (service(), ()),
        ('{"status": {"loadBalancer": {"ingress": null}}}', ()),
        ('{"status": {"loadBalancer": {"ingress": [{"hostname": "a"}]}}}', ()),
        ("", ()),
        ("[]", ()),
    ],
)
def test_addresses_of_a_service(answer: str, found: tuple[str, ...]) -> None:
    assert ingress.balanced_addresses(answer) == found


@pytest.mark.parametrize(
    ("pages", "detail"),
    [
        (dict.fromkeys(URLS, "a"), "pods answer at 2 of 2 addresses and ports of nodes"),
        ({URLS[0]: "a"}, f"no page of a pod from {URLS[1]}"),
        # The page of another server is none.
        ({URLS[0]: "404", URLS[1]: "b"}, f"no page of a pod from {URLS[0]}"),
    ],
)
def test_every_address_answers_with_a_pod(pages: dict[str, str], detail: str) -> None:
    verdict = ingress.judge_pages(URLS, pages, ["a", "b"])
    assert (verdict.ok, verdict.detail) == (detail.startswith("pods answer"), detail)


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.headers['Host']}\nmore".encode()
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_script_asks_the_address_for_the_host_of_the_ingress(site: str) -> None:
    """What runs on the control plane, with a web server here."""
    urls = [f"{site}/", f"{site}/absent", "http://127.0.0.1:1/"]
    done = subprocess.run(["python3", "-c", ingress._FETCH, *urls], capture_output=True, text=True, check=True)
    assert ingress.parse_pages(done.stdout) == {urls[0]: ingress.HOST}


class Outside(Cluster):
    """A cluster with lab-ingress and Helm. `late` looks see no addresses yet, `silent` gives no pages."""

    def __init__(self, *, late: int = 0, silent: bool = False, chart: str = "probe 1.0.0", deaf: bool = False) -> None:
        super().__init__(nodes=[GOOD], deaf=deaf)
        self.late, self.silent, self.chart = late, silent, chart

    def answer(self, command: str) -> str:
        if "get service probe-balanced" in command:
            self.late -= 1
            return service() if self.late >= 0 else service("192.168.1.10", "192.168.1.11")
        if command.startswith("python3 -c"):
            urls = [word for word in command.split() if word.startswith("http://")]
            return "".join(f"{url} {'' if self.silent else WORKER}\n" for url in urls)
        if "helm --kubeconfig" in command:
            return f"{self.chart}\n"
        if " exec " in command and "closed" in command:
            return "closed\n"
        return super().answer(command)


def verify(cluster: Outside, **settings: Any) -> Any:
    made = spec()
    assert made.kubernetes is not None
    lab = dataclasses.replace(made, kubernetes=dataclasses.replace(made.kubernetes, **settings))
    return verify_kubernetes(lab, cluster, ADDRESSES, GPUS, clock=cluster.clock())


def test_what_the_lab_file_asks_for_is_checked_before_the_policy_closes_the_pods() -> None:
    cluster = Outside(late=3)
    report = verify(cluster, ingress="lab-ingress", helm=True, network_policy="default-deny")
    assert report.ok, report.failed
    assert [name for name, _ in names(report)][-3:] == ["helm", "ingress", "network policy"]


def test_what_nobody_asked_for_is_not_checked() -> None:
    cluster = Outside()
    assert not {"helm", "ingress"} & {name for name, _ in names(verify(cluster))}
    assert not [command for command in cluster.commands if "helm" in command or "balanced" in command]


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (Outside(late=10**6), "0 of 2 addresses for a service of type LoadBalancer"),
        (Outside(silent=True), "no page of a pod from http://192.168.1.10/, http://192.168.1.10:18080/"),
    ],
)
def test_pods_that_do_not_answer_outside_fail_the_cluster(cluster: Outside, words: str) -> None:
    (check,) = verify(cluster, ingress="lab-ingress").failed
    assert check.name == "ingress"
    assert check.detail.startswith(words)


def test_pods_that_do_not_reach_each_other_prove_nothing_of_the_ingress() -> None:
    assert "ingress" not in [name for name, _ in names(verify(Outside(deaf=True), ingress="lab-ingress"))]


@pytest.mark.parametrize(
    ("output", "complaint", "detail"),
    [
        ("probe 1.0.0\n", "", "a chart was installed and removed"),
        ("", "", "the chart's object says nothing"),
        ("other\n", "", "the chart's object says other"),
        ("", "Error: INSTALLATION FAILED: timeout", "Error: INSTALLATION FAILED: timeout"),
        ("", "sh: 9: helm: not found", "the image of the control plane has no Helm: it was made for another lab file;"),
    ],
)
def test_helm_is_judged_by_what_its_chart_made(output: str, complaint: str, detail: str) -> None:
    verdict = helm.judge_helm(output, complaint)
    assert verdict.ok is detail.startswith("a chart")
    assert verdict.detail.startswith(detail)


def test_the_chart_is_installed_and_removed(tmp_path: Path) -> None:
    """The script, with stand-ins for Helm and kubectl that show what they were given."""
    said = tmp_path / "said"
    for name, text in {
        "helm": f'echo "$@" >>{said}\n[ "$5" = uninstall ] || cat "$8"/*.yaml "$8"/templates/* >{tmp_path}/chart',
        "kubectl": "echo probe 1.0.0",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = helm.helm_script("/admin.conf", "there")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "probe 1.0.0\n"
    first, last = said.read_text().splitlines()
    assert first.startswith("--kubeconfig /admin.conf --namespace there upgrade --install probe ")
    assert last == "--kubeconfig /admin.conf --namespace there uninstall probe"
    chart = (tmp_path / "chart").read_text()
    assert "name: probe\nversion: 1.0.0" in chart
    assert "{{ .Chart.Name }} {{ .Chart.Version }}" in chart
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart", "helm", "kubectl", "said"]
