"""Whether pods answer outside the cluster: by Ingress and by service of type LoadBalancer, at every node's address.

The requests are made on the control plane, outside of any pod, where the lab's host comes in as well.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence

from emulator.core.waiting.watch import Clock, Look, Patience, wait_until
from emulator.guests.verify.kubernetes_addons import Kubectl, apply_own
from emulator.guests.verify.report import CheckResult, Verdict, after_waiting, check_from

# No name server has it: the request goes to the node's address, with this name in it.
HOST = "probe.hyperscaler.invalid"
BALANCED_PORT = 18080
_BALANCED = "probe-balanced"
_POLL_SECONDS = 5.0
_PAGE_SECONDS = 20
# Python is on every node, since Ansible needs it. One line for each URL: the page, or nothing.
_FETCH = f"""\
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
for url in sys.argv[1:]:
    try:
        request = urllib.request.Request(url, headers={{"Host": "{HOST}"}})
        page = opener.open(request, timeout={_PAGE_SECONDS}).read(200).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        page = ""
    print(url, page.partition("\\n")[0])
"""


def ingress_check(
    kubectl: Kubectl,
    shell: Callable[[str], str],
    namespace: str,
    port: int,
    nodes: Sequence[str],
    patience: Patience,
    clock: Clock,
) -> CheckResult:
    """A page of a probe pod comes from every node's address, on both ways.

    Args:
        kubectl: runs it.
        shell: runs a command line on the control plane; its output, empty when it failed.
        namespace: of the probe pods.
        port: they serve at.
        nodes: of the cluster, which are the pages that they may answer with.
        patience: for all of it.
        clock: time.
    """
    started = clock.now()
    complaint = apply_own(kubectl, exposing_manifest(namespace, port), patience, clock)
    if complaint:
        return check_from("ingress", Verdict(False, complaint), clock.now() - started)

    def look() -> Look[Verdict]:
        output, complaint = kubectl(f"get service {_BALANCED} -n {namespace} -o json")
        addresses = balanced_addresses(output)
        if complaint or len(addresses) != len(nodes):
            detail = complaint or f"{len(addresses)} of {len(nodes)} addresses for a service of type LoadBalancer"
            return Look(Verdict(False, detail), False, sign=detail, pause=_POLL_SECONDS)
        urls = [f"http://{address}{end}/" for address in addresses for end in ("", f":{BALANCED_PORT}")]
        verdict = judge_pages(urls, parse_pages(shell(shlex.join(["python3", "-c", _FETCH, *urls]))), nodes)
        return Look(verdict, verdict.ok, sign=verdict.detail, pause=_POLL_SECONDS)

    waited = wait_until(look, patience, clock=clock)
    return check_from("ingress", after_waiting(waited.value, waited.given_up), clock.now() - started)


def balanced_addresses(output: str) -> tuple[str, ...]:
    """Addresses that a service has outside; empty when it has none, or the answer is no service."""
    try:
        given = json.loads(output)["status"]["loadBalancer"].get("ingress") or ()
        return tuple(str(each["ip"]) for each in given)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()


def parse_pages(output: str) -> dict[str, str]:
    """Page by URL, from the lines of the script."""
    rows = (line.partition(" ") for line in output.splitlines())
    return {url: page for url, _, page in rows if page}


def judge_pages(urls: Sequence[str], pages: Mapping[str, str], nodes: Sequence[str]) -> Verdict:
    """Every URL gave the page of a probe pod, which is the name of its node."""
    missing = [url for url in urls if pages.get(url) not in nodes]
    if missing:
        return Verdict(False, f"no page of a pod from {', '.join(missing)}")
    return Verdict(True, f"pods answer at {len(urls)} of {len(urls)} addresses and ports of nodes")


def exposing_manifest(namespace: str, port: int) -> str:
    """An Ingress for the probe pods, and a service of type LoadBalancer; JSON."""
    backend = {"service": {"name": "probe", "port": {"number": port}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    items = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": _BALANCED, "namespace": namespace},
            "spec": {
                "type": "LoadBalancer",
                "allocateLoadBalancerNodePorts": False,
                "selector": {"app": "probe"},
                "ports": [{"port": BALANCED_PORT, "targetPort": port}],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "probe", "namespace": namespace},
            "spec": {"ingressClassName": "lab", "rules": [{"host": HOST, "http": {"paths": paths}}]},
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}) + "\n"
