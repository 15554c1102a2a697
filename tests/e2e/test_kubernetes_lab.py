"""A Kubernetes lab with simulated GPUs, from nothing to nothing. The tests build on each other, in this order."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import testinfra
from labs import host_snapshot, hyperscaler, left_behind

from emulator.paths import Home

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_lab_left")]

LAB = "e2e-k8s"
HEAD, WORKER, LATER = "cloud-control-plane", "cloud-gpu-worker-1", "cloud-gpu-worker-2"
RESOURCE = "nvidia.com/mig-1g.10gb"
TOOLS = "hyperscaler.invalid/kubernetes/tools:1"
SPEC = """
version: "1.0"
metadata: {{name: {lab}}}
clusters:
  cloud:
    control_plane: {{cpu_cores: 2, memory_gb: 3, disk_gb: 10}}
    worker_nodes:
      gpu_workers:
        count: {count}
        cpu_cores: 2
        memory_gb: 2
        disk_gb: 10
        gpu_enabled: true
        gpu: {{count: {slices}, profile: 1g.10gb}}
    kubernetes_config: {{cni: bridge, mig_strategy: mixed}}
global:
  gpu_allocation:
    backend: simulated
    strategy: mig
    devices:
      - {{id: GPU-0, model: NVIDIA A100-SXM4-80GB, mig_capable: true, allowed_mig_profiles: [1g.10gb]}}
hypervisor: {{uri: embedded}}
"""
# Seconds for things that Kubernetes does by itself, on an emulated CPU.
PATIENCE = 420


def write_spec(path: Path, *, workers: int) -> Path:
    path.write_text(SPEC.format(lab=LAB, count=workers, slices=2))
    return path


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spec(tmp_path_factory.mktemp("lab") / "cluster.yaml", workers=1)


@pytest.fixture(scope="module")
def provisioned(lab_file: Path, before: dict[str, list[str]]) -> dict[str, Any]:
    started = time.monotonic()
    result = hyperscaler("provision", lab_file, "--yes", "--json")
    print(f"provision took {time.monotonic() - started:.0f} s")
    return result.json()


def guest(name: str) -> Any:
    return testinfra.get_host(f"ssh://{name}?ssh_config={Home.default().lab(LAB).ssh_config}")


def kubectl(words: str, *, stdin: str | None = None) -> str:
    feed = "" if stdin is None else f"printf %s '{stdin}' | "
    done = guest(HEAD).run(f"{feed}kubectl --kubeconfig /etc/kubernetes/admin.conf {words}")
    assert done.rc == 0, f"kubectl {words}: {done.stderr}"
    return str(done.stdout)


def get(words: str) -> Any:
    return json.loads(kubectl(f"get {words} -o json"))


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(3)


def ready(name: str) -> bool:
    done = guest(HEAD).run(
        f"kubectl --kubeconfig /etc/kubernetes/admin.conf get node {name}"
        " -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}'"
    )
    return done.rc == 0 and done.stdout == "True"


def gpu_pod(name: str) -> str:
    command = ["/bin/sh", "-c", "env | grep NVIDIA; sleep 3600"]
    container = {
        "name": "c",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": command,
        "resources": {"limits": {RESOURCE: "1"}},
    }
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def test_validate_and_plan_touch_nothing(lab_file: Path, before: dict[str, list[str]]) -> None:
    assert hyperscaler("validate", lab_file).code == 0
    plan = hyperscaler("plan", lab_file, "--json").json()
    assert [change["id"] for change in plan["changes"]].count(f"domain/{WORKER}") == 1
    assert left_behind(before, host_snapshot()) == {}


def test_provision_verifies_itself(provisioned: dict[str, Any]) -> None:
    names = {check["name"] for check in provisioned["checks"]}
    assert {"kubernetes nodes", "system pods", "kubernetes gpus", "pods", "pod network", "service by name"} <= names
    assert all(check["ok"] for check in provisioned["checks"])


def test_nodes_have_their_labels_and_no_strangers(provisioned: dict[str, Any]) -> None:
    nodes = {item["metadata"]["name"]: item["metadata"]["labels"] for item in get("nodes")["items"]}
    assert set(nodes) == {HEAD, WORKER}
    assert nodes[WORKER]["compute"] == "gpu"
    assert "node-role.kubernetes.io/worker" in nodes[WORKER]


@pytest.mark.parametrize("name", [HEAD, WORKER])
def test_services(provisioned: dict[str, Any], name: str) -> None:
    host = guest(name)
    for service in ("containerd", "kubelet", "hyperscaler-kubernetes"):
        assert host.service(service).is_running, service
    assert host.service("hyperscaler-device-plugin").is_running == (name == WORKER)


def test_the_admin_kubeconfig_is_private(provisioned: dict[str, Any]) -> None:
    path = Home.default().lab(LAB).secrets / "kubeconfig"
    assert path.stat().st_mode & 0o777 == 0o600
    assert guest(HEAD).file("/etc/kubernetes/admin.conf").mode == 0o600


def test_gpu_pods_run_until_the_slices_are_gone(provisioned: dict[str, Any]) -> None:
    assert get(f"node {WORKER}")["status"]["allocatable"][RESOURCE] == "2"
    for name in ("one", "two", "three"):
        kubectl("apply -f -", stdin=gpu_pod(name))

    def phases() -> dict[str, str]:
        return {item["metadata"]["name"]: item["status"]["phase"] for item in get("pods")["items"]}

    until(lambda: sorted(phases().values()) == ["Pending", "Running", "Running"], "two of three pods run")
    (waiting,) = [name for name, phase in phases().items() if phase == "Pending"]
    running = sorted(set(phases()) - {waiting})
    assert f"Insufficient {RESOURCE}" in kubectl(f"describe pod {waiting}")
    seen = {kubectl(f"logs {name}").strip() for name in running}
    assert len(seen) == 2
    assert all(line.startswith("NVIDIA_VISIBLE_DEVICES=MIG-") for line in seen)
    kubectl(f"delete pod {running[0]} --grace-period=0")
    until(lambda: phases().get(waiting) == "Running", "the third pod runs once a slice is free")
    kubectl("delete pods --all --grace-period=0")


def test_devices_come_back_after_a_restart_of_kubelet(provisioned: dict[str, Any]) -> None:
    assert guest(WORKER).run("systemctl restart kubelet").rc == 0
    until(lambda: get(f"node {WORKER}")["status"]["allocatable"].get(RESOURCE) == "2", "the slices are offered again")


def test_students_stay_in_their_namespace(provisioned: dict[str, Any]) -> None:
    student = "--as system:serviceaccount:students:student"
    answers = [
        guest(HEAD).run(f"kubectl --kubeconfig /etc/kubernetes/admin.conf auth can-i {words} {student}").stdout.strip()
        for words in ("create pods -n students", "create pods -n default", "get nodes", "get secrets -n kube-system")
    ]
    assert answers == ["yes", "no", "no", "no"]


def test_second_provision_changes_nothing(provisioned: dict[str, Any], lab_file: Path) -> None:
    again = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert again["changes"] == []
    assert sum(again["configured"].values()) == 0


def test_a_half_finished_join_converges(provisioned: dict[str, Any], lab_file: Path) -> None:
    # What a run leaves that was killed while kubeadm worked: everything but the record that it ended.
    assert guest(WORKER).run("rm /var/lib/hyperscaler/kubeadm.json").rc == 0
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert result["configured"][WORKER] > 0
    assert all(check["ok"] for check in result["checks"])


def test_scale_out_and_back(provisioned: dict[str, Any], lab_file: Path) -> None:
    write_spec(lab_file, workers=2)
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert all(check["ok"] for check in result["checks"])
    assert ready(LATER)
    write_spec(lab_file, workers=1)
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert all(check["ok"] for check in result["checks"])
    assert {item["metadata"]["name"] for item in get("nodes")["items"]} == {HEAD, WORKER}


@pytest.mark.parametrize("name", [WORKER, HEAD])
def test_reboot(provisioned: dict[str, Any], name: str) -> None:
    before_boot = guest(name).run("cat /proc/sys/kernel/random/boot_id").stdout
    guest(name).run("systemctl reboot")

    def rebooted() -> bool:
        try:
            done = guest(name).run("cat /proc/sys/kernel/random/boot_id")
        except Exception:  # noqa: BLE001  testinfra raises whatever ssh's end makes of it
            return False
        return done.rc == 0 and done.stdout != before_boot

    until(rebooted, f"{name} comes back")
    until(lambda: ready(WORKER) and ready(HEAD), "both nodes are Ready")
    assert hyperscaler("verify", LAB).code == 0


def test_destroy_leaves_nothing(provisioned: dict[str, Any], before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}
