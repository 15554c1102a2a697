"""lab-ingress for tests: compiled with the Go of this host, its objects in an API server, its command line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.core.data_files import share_dir
from tests.support.api_server import ApiServer

SOURCE = share_dir() / "config/kubernetes/modules/lab-ingress"
MANIFEST = share_dir() / "config/kubernetes/modules/manifests/lab-ingress.yaml"
PLACES = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "IngressClass": "/apis/networking.k8s.io/v1/ingressclasses",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Service": "/api/v1/namespaces/{namespace}/services",
}


def compiled(directory: Path) -> Path:
    """The program, from the modules that are pinned for it; skips where they cannot be fetched."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("this host has no Go")
    made = directory / "lab-ingress"
    env = {**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    fetched = subprocess.run([go, "mod", "download"], cwd=SOURCE, env=env, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"this host's Go cannot fetch the modules: {fetched.stderr[-300:]}")
    vetted = subprocess.run([go, "vet", "."], cwd=SOURCE, env=env, capture_output=True, text=True, check=False)
    assert vetted.returncode == 0, vetted.stderr
    subprocess.run([go, "build", "-trimpath", "-ldflags=-s -w", "-o", made, "."], cwd=SOURCE, env=env, check=True)
    return made


def install(api: ApiServer) -> None:
    """Make the objects that the product applies."""
    for document in yaml.safe_load_all(MANIFEST.read_text().replace("${image}", "hyperscaler.invalid/x:1")):
        done = api.request("POST", PLACES[document["kind"]].format(**document["metadata"]), document)
        assert done.status == 201, done.message


def make_node(api: ApiServer, name: str, address: str) -> None:
    node: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    assert api.request("POST", "/api/v1/nodes", node).status == 201
    node["status"] = {"addresses": [{"type": "InternalIP", "address": address}]}
    assert api.request("PATCH", f"/api/v1/nodes/{name}/status", node).status == 200


def command(program: Path, api: ApiServer, work: Path, *, listen: str, health: str) -> list[str]:
    """The command line with the rights of its service account; `work` is for its token."""
    (work / "token").write_text(api.token("lab-ingress", "lab-ingress"))
    (authority,) = api.kubeconfig.parent.glob("certificates/apiserver.crt")
    argv = [str(program), f"--server=https://127.0.0.1:{api.port}", f"--token-file={work / 'token'}"]
    return [*argv, f"--ca-file={authority}", f"--listen={listen}", f"--health={health}"]
