"""A cluster of Kubernetes 1.36 with a running pod is upgraded to 1.37. The tests build on each other, in this order."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from emulator.core.errors import ExitCode
from tests.support import waiting
from tests.support.labs import host_snapshot, hyperscaler, left_behind
from tests.support.node_baseline import guest

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_lab_left")]

LAB = "e2e-upgrade"
HEAD, WORKER = "cloud-control-plane", "cloud-cpu-worker-1"
TOOLS = "hyperscaler.invalid/kubernetes/tools:1"
SPEC = """\
version: "1.0"
metadata: {{name: {lab}}}
clusters:
  cloud:
    control_plane: {{cpu_cores: 2, memory_gb: 3, disk_gb: 10}}
    worker_nodes: {{cpu_workers: {{count: 1, cpu_cores: 2, memory_gb: 2, disk_gb: 10}}}}
    kubernetes_config:
      source: modules
      version: "{version}"
hypervisor: {{uri: embedded}}
"""
# The line of the version in it.
LINE = 9
# Seconds for things that Kubernetes does by itself, on an emulated CPU.
PATIENCE = 420


def written(directory: Path, version: str) -> Path:
    path = directory / f"kubernetes-{version}.yaml"
    path.write_text(SPEC.format(lab=LAB, version=version))
    return path


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("lab"), "1.36")


@pytest.fixture(scope="module")
def newer(older: Path) -> Path:
    return written(older.parent, "1.37")


def kubectl(words: str, *, stdin: str | None = None) -> str:
    feed = "" if stdin is None else f"printf %s '{stdin}' | "
    done = guest(LAB, HEAD).run(f"{feed}kubectl {words}")
    assert done.rc == 0, f"kubectl {words}: {done.stderr}"
    return str(done.stdout)


def versions() -> dict[str, str]:
    nodes = json.loads(kubectl("get nodes -o json"))["items"]
    return {item["metadata"]["name"]: item["status"]["nodeInfo"]["kubeletVersion"] for item in nodes}


def is_running(app: str) -> bool:
    pods = json.loads(kubectl(f"get pods -l app={app} -o json"))["items"]
    return [pod["status"]["phase"] for pod in pods if not pod["metadata"].get("deletionTimestamp")] == ["Running"]


def deployment(name: str) -> str:
    container = {"name": "c", "image": TOOLS, "imagePullPolicy": "Never", "command": ["sleep", "86400"]}
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    spec = {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
    }
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})


@pytest.fixture(scope="module")
def standing(older: Path, before: dict[str, list[str]]) -> None:
    """The lab with 1.36, and a pod on it."""
    started = time.monotonic()
    hyperscaler("provision", older, "--yes")
    print(f"provision took {time.monotonic() - started:.0f} s")
    kubectl("apply -f -", stdin=deployment("web"))
    waiting.until(lambda: is_running("web"), "the pod runs", pause=3, patience=PATIENCE)


@pytest.fixture(scope="module")
def upgraded(standing: None, newer: Path) -> dict[str, Any]:
    started = time.monotonic()
    done: dict[str, Any] = hyperscaler("upgrade", LAB, "--to", "1.37", "--file", newer, "--yes", "--json").json()
    print(f"upgrade took {time.monotonic() - started:.0f} s")
    return done


def test_the_lab_has_the_version_before(standing: None) -> None:
    assert set(versions()) == {HEAD, WORKER}
    assert all(version.startswith("v1.36.") for version in versions().values())


def test_the_lab_file_is_the_wish(standing: None, older: Path, newer: Path) -> None:
    refused = hyperscaler("upgrade", LAB, "--to", "1.37", "--file", older, "--yes", check=False)
    assert refused.code == ExitCode.INVALID_CONFIG
    assert f"{older}:{LINE}" in refused.stderr
    assert "clusters.cloud.kubernetes_config.version" in refused.stderr
    refused = hyperscaler("provision", newer, "--yes", check=False)
    assert refused.code == ExitCode.CONFLICT
    assert f"hyperscaler upgrade {LAB} --to 1.37" in refused.stderr
    for to in ("1.38", "1.35"):
        assert hyperscaler("upgrade", LAB, "--to", to, "--yes", check=False).code == ExitCode.USAGE


def test_all_nodes_have_the_new_version(upgraded: dict[str, Any]) -> None:
    assert upgraded["kubernetes"].startswith("1.37.")
    assert set(versions().values()) == {f"v{upgraded['kubernetes']}"}
    server = json.loads(kubectl("version -o json"))["serverVersion"]["gitVersion"]
    assert server == f"v{upgraded['kubernetes']}"
    for name in (HEAD, WORKER):
        host = guest(LAB, name, sudo=True)
        assert json.loads(host.check_output("cat /usr/lib/hyperscaler/kubernetes.json"))["version"] in server
        assert not host.file("/var/lib/hyperscaler/upgrade").exists or not host.check_output(
            "ls /var/lib/hyperscaler/upgrade"
        )
        assert "v1.36." not in host.check_output("ctr -n k8s.io images ls -q")


def test_the_pod_runs_again_on_the_worker(upgraded: dict[str, Any]) -> None:
    waiting.until(lambda: is_running("web"), "the pod runs again", pause=3, patience=PATIENCE)
    nodes = json.loads(kubectl("get nodes -o json"))["items"]
    assert not any(item["spec"].get("unschedulable") for item in nodes)


def test_a_second_run_changes_nothing(upgraded: dict[str, Any]) -> None:
    done = hyperscaler("upgrade", LAB, "--to", "1.37", "--yes", "--json").json()
    assert (done["kubernetes"], done["changed"]) == (upgraded["kubernetes"], {})


def test_provision_finds_nothing_to_do(upgraded: dict[str, Any], newer: Path) -> None:
    assert hyperscaler("plan", newer, "--json").json()["changes"] == []
    done = hyperscaler("provision", newer, "--yes", "--json").json()
    assert not any(done["configured"].values())
    assert all(check["ok"] for check in done["checks"])


def test_there_is_no_way_back(upgraded: dict[str, Any], older: Path) -> None:
    refused = hyperscaler("upgrade", LAB, "--to", "1.36", "--file", older, "--yes", check=False)
    assert refused.code == ExitCode.USAGE
    assert "there is no way back to 1.36" in refused.stderr


def test_destroy_leaves_nothing(upgraded: dict[str, Any], before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}
