"""A Kubernetes lab with simulated GPUs, from nothing to nothing. The tests build on each other, in this order."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emulator.core.errors import ExitCode
from emulator.core.paths import Home
from tests.support import exercise_solutions, waiting
from tests.support.guest_release import images_section
from tests.support.labs import COMMAND, host_snapshot, hyperscaler, left_behind
from tests.support.node_baseline import (
    check_baseline,
    check_secrets,
    check_ssh_audit,
    closed_from_outside,
    guest,
    page_from_host,
)

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
    kubernetes_config: {{cni: bridge, mig_strategy: mixed, network_policy: default-deny, version: "{version}",
      source: modules, ingress: lab-ingress, helm: true}}
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
# Whether the init of the control plane is ended half way, too: another five minutes.
THOROUGH = bool(os.environ.get("THOROUGH"))


def write_spec(path: Path, *, workers: int, version: str = "") -> Path:
    path.write_text(SPEC.format(lab=LAB, count=workers, slices=2, version=version) + images_section())
    return path


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spec(tmp_path_factory.mktemp("lab") / "cluster.yaml", workers=1)


def kill_when(lab_file: Path, told: str, reached: Callable[[], bool] = lambda: True) -> None:
    """Provision until progress says `told` and what it leads to is `reached`, then kill the tool outright."""
    argv = [str(COMMAND), "provision", str(lab_file), "--yes"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            print(line, end="", flush=True)
            if told in line:
                try:
                    until(reached, told)
                finally:
                    run.kill()
                return
    raise AssertionError(f"provision ended with {run.returncode} before {told!r}")


CA = "/etc/kubernetes/pki/ca.crt"


def api_servers() -> int:
    """How many kube-apiservers run on the control plane."""
    return len(guest(LAB, HEAD).run("pidof kube-apiserver").stdout.split())


@pytest.fixture(scope="module")
def first_ca(lab_file: Path, before: dict[str, list[str]]) -> str:
    """The CA of an init that was ended half way: the tool was killed, and on the node kubeadm with all that watched
    it, while the containers of the control plane had started already. Empty where that is left out."""
    if not THOROUGH:
        return ""
    kill_when(lab_file, f"{HEAD}: Run the control plane", lambda: api_servers() == 1)
    head = guest(LAB, HEAD, sudo=True)
    authority = str(head.check_output(f"cat {CA}"))
    # What waits for kubeadm goes first: it would finish the work of one that failed.
    head.check_output("p=$(pidof kubeadm) && kill -9 $(ps -o ppid= -p $p) $p")
    until(lambda: head.run("pidof kubeadm").rc != 0, "kubeadm has ended")
    assert not head.file("/var/lib/hyperscaler/kubeadm.json").exists
    until(lambda: api_servers() == 1, "the API server of the old control plane goes on")
    return authority


@pytest.fixture(scope="module")
def provisioned(lab_file: Path, first_ca: str) -> dict[str, Any]:
    """The lab, by a run that was ended within init, one that was killed between init and join, and a last one."""
    kill_when(lab_file, f"{WORKER}: Get a token for this node")
    started = time.monotonic()
    result = hyperscaler("provision", lab_file, "--yes", "--json")
    print(f"provision took {time.monotonic() - started:.0f} s")
    report: dict[str, Any] = result.json()
    return report


def kubectl(words: str, *, stdin: str | None = None) -> str:
    feed = "" if stdin is None else f"printf %s '{stdin}' | "
    done = guest(LAB, HEAD).run(f"{feed}kubectl {words}")
    assert done.rc == 0, f"kubectl {words}: {done.stderr}"
    return str(done.stdout)


def get(words: str) -> Any:
    return json.loads(kubectl(f"get {words} -o json"))


def until(condition: Any, what: str) -> None:
    waiting.until(condition, what, pause=3, patience=PATIENCE)


def ready(name: str) -> bool:
    done = guest(LAB, HEAD).run(
        f"kubectl get node {name} -o jsonpath='{{.status.conditions[?(@.type==\"Ready\")].status}}'"
    )
    return bool(done.rc == 0 and done.stdout == "True")


def gpu_pod(name: str, *, grace: int = 0) -> str:
    command = ["/bin/sh", "-c", "env | grep NVIDIA; sleep 3600"]
    container = {
        "name": "c",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": command,
        "resources": {"limits": {RESOURCE: "1"}},
    }
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": grace}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def test_validate_and_plan_touch_nothing(lab_file: Path, before: dict[str, list[str]]) -> None:
    assert hyperscaler("validate", lab_file).code == 0
    plan = hyperscaler("plan", lab_file, "--json").json()
    assert [change["id"] for change in plan["changes"]].count(f"domain/{WORKER}") == 1
    assert left_behind(before, host_snapshot()) == {}


def test_provision_verifies_itself(provisioned: dict[str, Any]) -> None:
    names = {check["name"] for check in provisioned["checks"]}
    assert {"kubernetes nodes", "system pods", "kubernetes gpus", "pods", "pod network", "service by name"} <= names
    assert {"metrics", "network policy"} <= names
    assert all(check["ok"] for check in provisioned["checks"])


@pytest.mark.thorough
def test_a_half_finished_init_leaves_nothing_behind(provisioned: dict[str, Any], first_ca: str) -> None:
    assert api_servers() == 1
    assert guest(LAB, HEAD, sudo=True).check_output(f"cat {CA}") != first_ca


def test_nodes_have_their_labels_and_no_strangers(provisioned: dict[str, Any]) -> None:
    nodes = {item["metadata"]["name"]: item["metadata"]["labels"] for item in get("nodes")["items"]}
    assert set(nodes) == {HEAD, WORKER}
    assert nodes[WORKER]["compute"] == "gpu"
    assert "node-role.kubernetes.io/worker" in nodes[WORKER]


@pytest.mark.parametrize("name", [HEAD, WORKER])
def test_services(provisioned: dict[str, Any], name: str) -> None:
    host = guest(LAB, name, sudo=True)
    for service in ("containerd", "kubelet", "hyperscaler-kubernetes"):
        assert host.service(service).is_running, service
    assert host.service("hyperscaler-device-plugin").is_running == (name == WORKER)
    # A worker's kubelet would say so every second.
    assert "does not exist, ignoring" not in host.check_output("journalctl --unit kubelet --output cat --lines 300")


def test_the_admin_kubeconfig_is_private(provisioned: dict[str, Any]) -> None:
    path = Home.default().lab(LAB).secrets / "kubeconfig"
    assert path.stat().st_mode & 0o777 == 0o600
    for owner, config in (("root", "/etc/kubernetes/admin.conf"), ("labadmin", "/home/labadmin/.kube/config")):
        there = guest(LAB, HEAD, sudo=True).file(config)
        assert (there.user, there.mode) == (owner, 0o600)


@pytest.mark.parametrize("name", [HEAD, WORKER])
def test_security_baseline(provisioned: dict[str, Any], name: str) -> None:
    check_baseline(LAB, name)


def test_only_what_a_node_serves_is_open(provisioned: dict[str, Any]) -> None:
    check_ssh_audit(LAB, "192.168.200.10")
    assert not closed_from_outside(LAB, "192.168.200.10", 6443)
    for port in (2379, 10250):
        assert closed_from_outside(LAB, "192.168.200.10", port)
    tables = guest(LAB, HEAD, sudo=True).run("nft list tables").stdout
    assert "table ip nat" in tables, "kube-proxy's rules are there beside ours"


def test_secrets_are_private(provisioned: dict[str, Any], lab_file: Path) -> None:
    asked = {"provision": json.dumps(provisioned)}
    for words in (["status", LAB], ["history", LAB], ["gpu", "map", LAB], ["plan", lab_file]):
        asked[" ".join(map(str, words))] = hyperscaler(*words, "--json").stdout
    asked["inventory"] = hyperscaler("inventory", LAB, "--format", "json").stdout
    check_secrets(LAB, [HEAD, WORKER], asked)


def test_an_idle_control_plane_needs_little_memory(provisioned: dict[str, Any]) -> None:
    used = guest(LAB, HEAD).check_output("awk '/^MemTotal/ {t=$2} /^MemAvailable/ {print (t-$2)/1024}' /proc/meminfo")
    print(f"the control plane uses {float(used):.0f} MiB")
    assert float(used) <= 1536


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
    assert guest(LAB, WORKER, sudo=True).run("systemctl restart kubelet").rc == 0
    until(lambda: get(f"node {WORKER}")["status"]["allocatable"].get(RESOURCE) == "2", "the slices are offered again")


def test_students_stay_in_their_namespace(provisioned: dict[str, Any]) -> None:
    student = "--as system:serviceaccount:hyperscaler-users:student"
    answers = [
        guest(LAB, HEAD).run(f"kubectl auth can-i {words} {student}").stdout.strip()
        for words in ("create pods -n students", "create pods -n default", "get nodes", "get secrets -n kube-system")
    ]
    assert answers == ["yes", "no", "no", "no"]


def student_pod(name: str, **spec: Any) -> str:
    """A pod, and the same in a Deployment, whose pods a controller of the system makes."""
    container = {"name": "c", "image": TOOLS, "imagePullPolicy": "Never", "command": ["sleep", "3600"]}
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0, **spec}
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod}
    meta = {"name": name, "namespace": "students"}
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def test_students_cannot_reach_the_files_of_a_node(provisioned: dict[str, Any]) -> None:
    apply = "--as system:serviceaccount:hyperscaler-users:student apply -f -"
    keys = [{"name": "node", "hostPath": {"path": "/etc/kubernetes"}}]
    tolerations = [{"operator": "Exists"}]
    hostile = student_pod("reader", volumes=keys, nodeName=HEAD, tolerations=tolerations)
    done = guest(LAB, HEAD).run(f"printf %s '{hostile}' | kubectl {apply}")
    assert done.rc != 0
    assert "hostPath" in done.stderr
    assert 'pods "reader" is forbidden' in done.stderr

    # The Deployment is only a wish; its pods are refused as well.
    def refused() -> bool:
        conditions = get("deployment reader -n students")["status"].get("conditions", [])
        return any(each["type"] == "ReplicaFailure" and "hostPath" in each["message"] for each in conditions)

    until(refused, "the controller is refused the pods of the Deployment")
    kubectl(apply, stdin=student_pod("plain"))
    until(
        lambda: sorted(item["status"]["phase"] for item in get("pods -n students")["items"]) == ["Running"] * 2,
        "pods that ask for nothing of the node run",
    )
    kubectl("delete deployments,pods --all -n students --grace-period=0")


def as_user(user: str, words: str) -> subprocess.CompletedProcess[str]:
    """kubectl with nothing but the kubeconfig that the user was handed."""
    kubeconfig = (Home.default().lab(LAB).handouts / user / "kubeconfig").read_text()
    command = f"f=$(mktemp); cat > $f; kubectl --kubeconfig $f {words}; s=$?; rm $f; exit $s"
    argv = ["ssh", "-F", str(Home.default().lab(LAB).ssh_config), HEAD, command]
    return subprocess.run(argv, input=kubeconfig, capture_output=True, text=True, timeout=180, check=False)


def test_a_student_has_a_namespace_with_a_quota(provisioned: dict[str, Any]) -> None:
    started = time.monotonic()
    hyperscaler("access", "add", LAB, "ada", "--ttl", "1h")
    print(f"access add took {time.monotonic() - started:.0f} s")
    assert (Home.default().lab(LAB).handouts / "ada" / "kubeconfig").stat().st_mode & 0o777 == 0o600
    answers = as_user("ada", "auth can-i --list")
    assert answers.returncode == 0, answers.stderr
    for words, answer in {
        "create pods": "yes",
        "get secrets -n hyperscaler-users": "no",
        "create serviceaccounts/token -n hyperscaler-users": "no",
        "create rolebindings": "no",
        "get nodes": "no",
        "get pods -n students": "no",
    }.items():
        assert as_user("ada", f"auth can-i {words}").stdout.strip() == answer, words
    made = as_user("ada", f"run one --image={TOOLS} --image-pull-policy=Never --restart=Never -- sleep 86400")
    assert made.returncode == 0, made.stderr
    limits = (
        f'{{"spec":{{"containers":[{{"name":"g","image":"{TOOLS}","resources":{{"limits":{{"{RESOURCE}":"2"}}}}}}]}}}}'
    )
    greedy = as_user("ada", f"run two --image={TOOLS} --overrides='{limits}'")
    assert greedy.returncode != 0
    assert "exceeded quota" in greedy.stderr


def log_in_as(user: str, command: str) -> subprocess.CompletedProcess[str]:
    """What a user does who has put the directory to its place and follows what `access add` printed."""
    handed = Home.default().lab(LAB).handouts / user
    here = ["-o", f"IdentityFile={handed / 'id_ed25519'}", "-o", f"UserKnownHostsFile={handed / 'known_hosts'}"]
    argv = ["ssh", "-F", str(handed / "config"), *here, "-o", "BatchMode=yes", HEAD, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False)


def test_kubectl_works_where_a_user_lands(provisioned: dict[str, Any]) -> None:
    got = log_in_as(
        "ada", "kubectl get pods --output name && stat -c '%a %U' ~/.kube/config && kubectl config current-context"
    )
    assert got.returncode == 0, got.stderr
    assert got.stdout.split("\n")[:3] == ["pod/one", "600 ada", LAB]
    assert log_in_as("ada", "kubectl get nodes").returncode != 0
    # The token is hers, ends by itself, and is not in the file in her home.
    head = guest(LAB, HEAD, sudo=True)
    assert head.check_output("stat -c '%a %U' /run/hyperscaler-kubeconfigs/ada") == "400 ada"
    assert head.run("systemctl is-active hyperscaler-kubeconfigs.timer").rc == 0
    assert log_in_as("ada", "grep -c eyJ ~/.kube/config").stdout.strip() == "0"
    # Once more changes nothing: the token is good for hours.
    kept = head.check_output("sha256sum /run/hyperscaler-kubeconfigs/ada")
    assert head.run("systemctl start hyperscaler-kubeconfigs.service").rc == 0
    assert head.check_output("sha256sum /run/hyperscaler-kubeconfigs/ada") == kept


def new_enough(minor: int) -> bool:
    """Whether the lab's Kubernetes has what came with 1.`minor`."""
    version = str(get("node " + HEAD)["status"]["nodeInfo"]["kubeletVersion"])
    return int(version.split(".")[1]) >= minor


def apply_as(user: str, name: str, *, script: str = "sleep 3600", **spec: Any) -> subprocess.CompletedProcess[str]:
    """A pod of the user's with the tools' image, and whatever else it asks for."""
    container = {"name": "c", "image": TOOLS, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script]}
    container |= spec.pop("container", {})
    pod = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, **spec}
    overrides = json.dumps({"apiVersion": "v1", "spec": pod})
    return as_user(user, f"run {name} --image={TOOLS} --restart=Never --overrides='{overrides}'")


HOSTILE: list[tuple[str, str, int, dict[str, Any]]] = [
    ("privileged", "rivileged", 28, {"container": {"securityContext": {"privileged": True}}}),
    ("files", "hostPath", 28, {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
    ("network", "ost", 28, {"hostNetwork": True}),
    ("critical", "exceeded quota", 28, {"priorityClassName": "system-node-critical"}),
    ("huge", "maximum memory usage per Container", 28, {"container": {"resources": {"limits": {"memory": "64Gi"}}}}),
    ("everywhere", "spec.tolerations", 36, {"tolerations": [{"operator": "Exists"}]}),
    ("there", "spec.nodeName", 36, {"nodeName": HEAD}),
    ("year", "spec.terminationGracePeriodSeconds", 36, {"terminationGracePeriodSeconds": 31_536_000}),
    ("mounted", "spec.volumes", 36, {"volumes": [{"name": "v", "nfs": {"server": "10.0.0.1", "path": "/"}}]}),
]


@pytest.mark.parametrize(("name", "word", "minor", "spec"), HOSTILE, ids=[each[0] for each in HOSTILE])
def test_what_would_reach_beyond_a_namespace_is_refused(
    provisioned: dict[str, Any], name: str, word: str, minor: int, spec: dict[str, Any]
) -> None:
    if not new_enough(minor):
        pytest.skip(f"Kubernetes before 1.{minor} does not refuse it")
    refused = apply_as("ada", name, **spec)
    assert refused.returncode != 0
    assert word in refused.stderr


def test_a_flood_of_objects_ends_at_the_quota(provisioned: dict[str, Any]) -> None:
    items = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"flood-{number}"}, "data": {"a": "x"}}
        for number in range(60)
    ]
    flood = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    # The file comes before the kubeconfig, which `as_user` hands over on the standard input.
    kubectl("create configmap before --from-literal=a=b -n default")
    guest(LAB, HEAD).check_output("printf %%s %s > /tmp/flood.json", flood)
    done = as_user("ada", "create -f /tmp/flood.json")
    assert "exceeded quota: hyperscaler" in done.stderr
    held = [item["metadata"]["name"] for item in get("configmaps -n student-ada")["items"]]
    assert len(held) == 50
    # The admin goes on.
    kubectl("create configmap after --from-literal=a=b -n default")
    kubectl("delete configmaps before after -n default")
    kubectl("delete configmaps --all -n student-ada")
    guest(LAB, HEAD).check_output("rm /tmp/flood.json")


CAP_NET_RAW = 13


def test_a_pod_has_limits_and_no_raw_sockets(provisioned: dict[str, Any]) -> None:
    until(lambda: get("pod one -n student-ada")["status"]["phase"] == "Running", "the student's pod runs")
    (container,) = get("pod one -n student-ada")["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "512Mi"}
    status = as_user("ada", "exec one -- cat /proc/1/status").stdout
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert not int(fields[name], 16) >> CAP_NET_RAW & 1, name
    assert fields["Seccomp"].strip() == "2", "the runtime's filter"
    forged = as_user("ada", "exec one -- /bin/busybox arping -c 1 -I eth0 10.244.0.1")
    assert forged.returncode != 0
    assert "not permitted" in forged.stderr.lower()


def test_a_fork_bomb_in_a_pod_stays_there(provisioned: dict[str, Any]) -> None:
    bomb = "f() { f | f & f; }; f & exec sleep 3600"
    assert apply_as("ada", "bomb", script=bomb).returncode == 0
    until(lambda: get("pod bomb -n student-ada")["status"]["phase"] == "Running", "the bomb has started")
    name = get("pod bomb -n student-ada")["metadata"]["uid"].replace("-", "_")
    find = f"find /sys/fs/cgroup -maxdepth 3 -type d -name 'kubepods*{name}*'"
    (slice_,) = guest(LAB, WORKER, sudo=True).check_output(find).split()
    assert guest(LAB, WORKER, sudo=True).check_output(f"cat {slice_}/pids.max") == "1024"
    # The node and the cluster answer.
    assert guest(LAB, WORKER).run("true").rc == 0
    assert ready(WORKER)
    kubectl("run beside -n default --restart=Never --image-pull-policy=Never --image=" + TOOLS + " -- sleep 600")
    until(lambda: get("pod beside -n default")["status"]["phase"] == "Running", "a pod of the admin's runs beside it")
    kubectl("delete pod beside -n default --grace-period=0")
    assert as_user("ada", "delete pod bomb --grace-period=1 --wait=false").returncode == 0
    until(
        lambda: not [each for each in get("pods -n student-ada")["items"] if each["metadata"]["name"] == "bomb"],
        "the bomb is gone",
    )


def test_kubectl_top(provisioned: dict[str, Any]) -> None:
    """Figures of each node, and for a student of their own pods alone."""
    rows = [line.split() for line in kubectl("top nodes --no-headers").splitlines()]
    assert sorted(row[0] for row in rows) == [HEAD, WORKER]
    assert all(row[1].endswith("m") and row[1] != "0m" and row[3].endswith("Mi") for row in rows)
    assert apply_as("ada", "busy", script="while :; do :; done").returncode == 0
    until(lambda: "busy" in as_user("ada", "top pods --no-headers").stdout, "the student sees what their pod uses")
    assert as_user("ada", "top pods -n kube-system").returncode != 0
    assert as_user("ada", "top nodes").returncode != 0
    assert as_user("ada", "delete pod busy").returncode == 0


def test_an_autoscaler_follows_the_metrics(provisioned: dict[str, Any]) -> None:
    container = {
        "name": "c",
        "image": TOOLS,
        "command": ["/bin/sh", "-c", "while :; do :; done"],
        "resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "100m"}},
    }
    labels = {"app": "scaled"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    kubectl(
        "apply -f -",
        stdin=json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "scaled"}, "spec": spec}),
    )
    kubectl("autoscale deployment scaled --cpu=50% --min=1 --max=2")
    until(lambda: get("deployment scaled")["spec"]["replicas"] == 2, "a busy pod gets a second one")
    kubectl("delete hpa,deployment scaled")


def test_a_student_has_an_autoscaler(provisioned: dict[str, Any]) -> None:
    made = as_user("ada", f"create deployment scaled --image={TOOLS} -- /bin/sh -c 'while :; do :; done'")
    assert made.returncode == 0, made.stderr
    made = as_user("ada", "autoscale deployment scaled --cpu=50% --min=1 --max=2")
    assert made.returncode == 0, made.stderr
    until(
        lambda: as_user("ada", "get deployment scaled -o jsonpath={.spec.replicas}").stdout == "2",
        "a busy pod of a student's gets a second one",
    )
    assert as_user("ada", "delete hpa,deployment scaled").returncode == 0


SERVE = "mkdir -p /tmp/w && echo served > /tmp/w/index.html && httpd -f -p 8080 -h /tmp/w"


def node_addresses() -> list[str]:
    listed = get("nodes")["items"]
    return [one["address"] for each in listed for one in each["status"]["addresses"] if one["type"] == "InternalIP"]


def test_an_ingress_of_a_student_answers_on_the_host(provisioned: dict[str, Any]) -> None:
    """Under default-deny, where pods of students answer lab-ingress and nobody else from elsewhere."""
    assert apply_as("ada", "web", script=SERVE).returncode == 0
    assert as_user("ada", "expose pod web --port=80 --target-port=8080").returncode == 0
    made = as_user("ada", "create ingress web '--rule=web.example.org/*=web:80'")
    assert made.returncode == 0, made.stderr
    addresses = node_addresses()
    assert len(addresses) == 2
    for address in addresses:
        for end in ("", ":30080"):
            until(
                lambda url=f"http://{address}{end}/": page_from_host(LAB, url, "web.example.org") == "served",
                f"the host gets the page at {address}{end}",
            )
    assert page_from_host(LAB, f"http://{addresses[0]}/", "other.example.org") == ""
    given = "{.status.loadBalancer.ingress[*].ip}"
    until(
        lambda: sorted(as_user("ada", f"get ingress web -o jsonpath={given}").stdout.split()) == sorted(addresses),
        "the student sees where it answers",
    )
    # The pod is looked into in a later test.
    assert as_user("ada", "delete ingress web").returncode == 0


def test_a_load_balancer_answers_on_the_host(provisioned: dict[str, Any]) -> None:
    refused = as_user("ada", "expose pod web --name=balanced --type=LoadBalancer --port=8088 --target-port=8080")
    assert "exceeded quota" in refused.stderr
    kubectl("create namespace outside")
    kubectl(f"run web -n outside --image={TOOLS} --image-pull-policy=Never -- /bin/sh -c '{SERVE}'")
    kubectl("expose pod web -n outside --type=LoadBalancer --port=8088 --target-port=8080")
    for address in node_addresses():
        until(
            lambda url=f"http://{address}:8088/": page_from_host(LAB, url, "any") == "served",
            f"the host gets the page at {address}",
        )
    kubectl("expose pod web -n outside --name=ssh --type=LoadBalancer --port=22 --target-port=8080")
    message = "-o jsonpath='{.status.conditions[*].message}'"
    until(
        lambda: kubectl(f"get service ssh -n outside {message}") == "port 22 is the nodes' own", "ssh stays the nodes'"
    )
    assert guest(LAB, WORKER).run("true").rc == 0
    kubectl("delete namespace outside")


def test_a_student_looks_into_pods_in_every_way(provisioned: dict[str, Any]) -> None:
    """Debug containers, forwarded ports and logs that are followed, where a user lands."""
    until(lambda: log_in_as("ada", "kubectl exec web -- true").returncode == 0, "the pod runs")
    debug = f"kubectl debug web --image={TOOLS} --container=look --profile=baseline --target=c --attach=false"
    done = log_in_as("ada", f"{debug} -- sh -c 'echo begun; sleep 600'")
    assert done.returncode == 0, done.stderr
    until(lambda: log_in_as("ada", "kubectl logs web -c look").stdout == "begun\n", "the debug container runs")
    seen = log_in_as("ada", "kubectl exec web -c look -- ls /proc/1/root/tmp/w")
    assert (seen.stdout, seen.stderr) == ("index.html\n", ""), "it sees the files of the container that it looks at"
    forward = """
        kubectl port-forward pod/web 18080:8080 >forward.log 2>&1 & forward=$!
        for try in $(seq 60); do
            page=$(python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:18080').read().decode())" \
                2>/dev/null) && break
            sleep 2
        done
        kill $forward; rm -f forward.log; echo "$page"
    """
    assert log_in_as("ada", forward).stdout.strip() == "served"
    assert apply_as("ada", "talks", script="for n in 1 2 3 4 5 6; do echo $n; sleep 5; done").returncode == 0
    until(lambda: log_in_as("ada", "kubectl logs talks").stdout.startswith("1"), "it has said something")
    followed = log_in_as("ada", "kubectl logs -f talks")
    assert followed.stdout.split() == ["1", "2", "3", "4", "5", "6"], "to its end"
    assert as_user("ada", "delete pods web talks").returncode == 0
    assert as_user("ada", "delete service web").returncode == 0


CHART = {
    "Chart.yaml": "apiVersion: v2\\nname: notes\\nversion: 1.2.3\\n",
    "templates/map.yaml": "apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: {{ .Release.Name }}}\\n"
    "data: {text: {{ .Values.text }}}\\n",
}


def test_a_student_installs_a_chart(provisioned: dict[str, Any]) -> None:
    done = log_in_as(
        "ada", f"set -e; {CHART} helm install mine . --set text=first; helm upgrade mine . --set text=second"
    )
    assert done.returncode == 0, done.stderr
    made = log_in_as("ada", "helm list --short && kubectl get configmap mine -o 'jsonpath={.data.text}'")
    assert made.stdout.split() == ["mine", "second"]
    undone = log_in_as("ada", "helm rollback mine 1 && kubectl get configmap mine -o 'jsonpath={.data.text}'")
    assert undone.stdout.endswith("first"), undone.stderr
    elsewhere = log_in_as("ada", "helm install mine chart --namespace students")
    assert elsewhere.returncode != 0
    assert "forbidden" in elsewhere.stderr
    assert log_in_as("ada", "helm uninstall mine && rm -r chart").returncode == 0
    assert as_user("ada", "get configmap mine").returncode != 0


def test_a_claim_gets_a_directory_of_the_node(provisioned: dict[str, Any]) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
    }
    ada = "-n student-ada --as system:serviceaccount:hyperscaler-users:ada"
    kubectl(f"apply {ada} -f -", stdin=json.dumps(claim))
    volumes = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/data"}], "securityContext": {"runAsUser": 1000}}
    script = "echo kept > /data/file && sleep 3600"
    assert apply_as("ada", "writer", script=script, container=mounts, **volumes).returncode == 0
    until(lambda: as_user("ada", "exec writer -- cat /data/file").stdout == "kept\n", "a pod writes to its volume")
    assert as_user("ada", "get pvc data -o jsonpath={.status.phase}").stdout == "Bound"
    node = guest(LAB, WORKER, sudo=True)
    assert node.check_output("stat -c %a /var/lib/local-path") == "700"
    assert node.check_output("cat /var/lib/local-path/*_data/file") == "kept"
    # The next pod of the claim finds it, and the directory goes with the claim.
    assert as_user("ada", "delete pod writer").returncode == 0
    assert apply_as("ada", "reader", script="cat /data/file && sleep 3600", container=mounts, **volumes).returncode == 0
    until(lambda: as_user("ada", "logs reader").stdout == "kept\n", "the next pod reads it")
    assert as_user("ada", "delete pod/reader pvc/data").returncode == 0
    until(lambda: node.run("ls -d /var/lib/local-path/*_data").rc != 0, "the directory is removed")


def test_policies_keep_packets_from_the_pods_of_others(provisioned: dict[str, Any]) -> None:
    """default-deny: pods of a namespace talk to each other and to the DNS, and to nobody else."""
    serve = "mkdir -p /tmp/w && echo open > /tmp/w/index.html && httpd -f -p 8080 -h /tmp/w"
    for name in ("server", "client"):
        assert apply_as("ada", name, script=serve).returncode == 0
    kubectl(f"run stranger --image={TOOLS} --image-pull-policy=Never -- sleep 3600")

    def pods() -> dict[str, str]:
        found = [*get("pods -n student-ada")["items"], *get("pods -n default")["items"]]
        return {each["metadata"]["name"]: each["status"].get("podIP", "") for each in found}

    until(lambda: all(pods().get(name) for name in ("server", "client", "stranger")), "the pods have addresses")
    address = pods()["server"]

    def page(namespace: str, pod: str, target: str) -> bool:
        words = f"exec -n {namespace} {pod} -- timeout 10 wget -q -O - http://{target}:8080/"
        return str(guest(LAB, HEAD).run(f"kubectl {words}").stdout) == "open\n"

    until(lambda: page("student-ada", "client", address), "a pod reaches the pod of its namespace")
    until(lambda: not page("default", "stranger", address), "a pod of another namespace does not")
    resolved = guest(LAB, HEAD).run(
        "kubectl exec -n student-ada client -- nslookup kubernetes.default.svc.cluster.local"
    )
    assert resolved.rc == 0, "the DNS of the cluster answers"
    # An admin may open it, and then the same packet gets through: it was the policy that kept it away.
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}
    opened = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": spec}
    kubectl("apply -f -", stdin=json.dumps({**opened, "metadata": {"name": "opened", "namespace": "student-ada"}}))
    outward = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}
    kubectl("apply -f -", stdin=json.dumps({**opened, "metadata": {"name": "outward"}, "spec": outward}))
    until(lambda: page("default", "stranger", address), "with policies that allow it, it does")
    kubectl("delete networkpolicy opened -n student-ada")
    kubectl("delete networkpolicy outward")
    until(lambda: not page("default", "stranger", address), "and without them it does not")
    kubectl("delete pod stranger --grace-period=0")
    assert as_user("ada", "delete pods server client").returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "pending-pod" else pytest.mark.long)
        for name in exercise_solutions.KUBERNETES
    ],
)
def test_exercises_are_solved_by_what_solves_them(provisioned: dict[str, Any], name: str) -> None:
    exercise_solutions.prove(LAB, name)


def test_nothing_that_a_student_makes_holds_the_end_of_their_access(provisioned: dict[str, Any]) -> None:
    """A pod that ignores TERM. (Its end is awaited in the next test.)"""
    stubborn = apply_as(
        "ada", "stubborn", script="trap : TERM; while true; do sleep 1; done", terminationGracePeriodSeconds=600
    )
    assert stubborn.returncode == 0, stubborn.stderr
    until(lambda: get("pod stubborn -n student-ada")["status"]["phase"] == "Running", "the stubborn pod runs")
    if new_enough(36):
        held = as_user("ada", """patch pod stubborn -p '{"metadata":{"finalizers":["example.org/never"]}}'""")
        assert held.returncode != 0
        assert "metadata.finalizers" in held.stderr
        lasting = as_user("ada", "create token default --duration=8760h")
        assert lasting.returncode != 0
        assert "86400 s at most" in lasting.stderr


def test_access_of_a_student_ends_at_once(provisioned: dict[str, Any]) -> None:
    home = Home.default().lab(LAB).handouts / "ada"
    kept = (home / "kubeconfig").read_text()
    hyperscaler("access", "revoke", LAB, "ada")
    assert not guest(LAB, HEAD, sudo=True).file("/run/hyperscaler-kubeconfigs/ada").exists
    home.mkdir(mode=0o700)
    (home / "kubeconfig").write_text(kept)
    refused = as_user("ada", "get pods")
    assert refused.returncode != 0
    assert "Forbidden" in refused.stderr or "Unauthorized" in refused.stderr or "must be logged in" in refused.stderr
    until(lambda: get("pods -n student-ada")["items"] == [], "the student's pods are gone")
    assert get("resourcequota hyperscaler -n student-ada")["spec"]["hard"] == {"pods": "0"}
    (home / "kubeconfig").unlink()
    home.rmdir()


FINGERPRINT = "openssl x509 -noout -fingerprint -sha256"


def kubelet_certificate(name: str) -> str:
    """Fingerprint of what the kubelet of `name` serves to the other node, which finds it signed by the lab's authority
    for the node's name and address."""
    (other,) = {HEAD, WORKER} - {name}
    (address,) = [
        each["address"] for each in get(f"node {name}")["status"]["addresses"] if each["type"] == "InternalIP"
    ]
    ask = f"openssl s_client -connect {address}:10250 -CAfile /etc/hyperscaler/tls/ca.crt -verify_return_error"
    for subject in (f"-verify_hostname {name}", f"-verify_hostname {name}.cloud.{LAB}.internal"):
        seen = guest(LAB, other).run(f"{ask} {subject} -verify_ip {address} </dev/null 2>&1")
        assert seen.rc == 0, f"{name}, asked by {other} with {subject}: {seen.stdout}"
        assert "Verify return code: 0 (ok)" in seen.stdout
    return str(guest(LAB, other).check_output("printf %%s %s | " + FINGERPRINT, seen.stdout)).strip()


def node_certificate(name: str) -> str:
    return str(guest(LAB, name).check_output(f"{FINGERPRINT} -in /etc/hyperscaler/tls/node.crt")).strip()


@pytest.mark.parametrize("name", [HEAD, WORKER])
def test_kubelets_serve_with_the_labs_certificate(provisioned: dict[str, Any], name: str) -> None:
    assert kubelet_certificate(name) == node_certificate(name)
    assert guest(LAB, name, sudo=True).check_output("stat -c '%a %U' /etc/hyperscaler/tls/node.key") == "600 root"


def main_process(name: str) -> str:
    return str(guest(LAB, name).check_output("systemctl show --property MainPID --value kubelet"))


@pytest.mark.long
def test_rotate_tls(provisioned: dict[str, Any]) -> None:
    """Kubelets serve the new certificate; pods do not notice. The next test sees that nothing is left to be done."""
    kubectl("apply -f -", stdin=gpu_pod("survivor"))
    until(lambda: get("pod survivor")["status"]["phase"] == "Running", "the pod that is to survive runs")
    survivor = get("pod survivor")["status"]["containerStatuses"][0]["containerID"]
    read = ("ssh", LAB, WORKER, "--", "cat", "/etc/hyperscaler/tls/ca.crt")
    before = hyperscaler(*read).stdout
    served = {name: (kubelet_certificate(name), main_process(name)) for name in (HEAD, WORKER)}
    started = time.monotonic()
    hyperscaler("rotate", LAB, "tls", "--yes")
    print(f"rotate tls took {time.monotonic() - started:.0f} s")
    assert hyperscaler(*read).stdout != before
    for name, (old, process) in served.items():
        assert kubelet_certificate(name) == node_certificate(name) != old
        assert main_process(name) != process
    until(lambda: ready(HEAD) and ready(WORKER), "both nodes are Ready")
    status = get("pod survivor")["status"]
    assert (status["phase"], status["containerStatuses"][0]["containerID"]) == ("Running", survivor)
    # The API server comes through to the kubelet, whose certificate is another one.
    assert "NVIDIA_VISIBLE_DEVICES=MIG-" in kubectl("logs survivor")
    assert kubectl("exec survivor -- /bin/sh -c 'echo reached'").strip() == "reached"
    kubectl("delete pod survivor --grace-period=0")
    until(lambda: get(f"node {WORKER}")["status"]["allocatable"].get(RESOURCE) == "2", "the slices are offered again")


def test_second_provision_changes_nothing(provisioned: dict[str, Any], lab_file: Path) -> None:
    again = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert again["changes"] == []
    assert sum(again["configured"].values()) == 0


def test_another_version_of_a_finished_lab_is_refused(provisioned: dict[str, Any], lab_file: Path) -> None:
    write_spec(lab_file, workers=1, version="1.36")
    try:
        refused = hyperscaler("provision", lab_file, "--yes", check=False)
        # By the plan; an image of an earlier version does not say what it holds, and then the playbook refuses.
        assert refused.code in (ExitCode.CONFLICT, ExitCode.FAILED)
        assert "has Kubernetes 1.37.2 on its disk, and the file now asks for version 1.36" in refused.stderr
    finally:
        write_spec(lab_file, workers=1)


@pytest.mark.thorough
def test_a_node_that_was_leaving_and_stays_takes_pods_again(provisioned: dict[str, Any], lab_file: Path) -> None:
    """Killed between drain and delete; then the file keeps the node."""
    # A shell that is the first process of its pod does not end when asked to, so that the drain takes its time.
    kubectl("apply -f -", stdin=gpu_pod("slow", grace=40))
    until(lambda: get("pod slow")["status"]["phase"] == "Running", "the pod that takes its time runs")
    write_spec(lab_file, workers=0)
    try:
        kill_when(
            lab_file, f"{WORKER}: moving its pods away", lambda: bool(get(f"node {WORKER}")["spec"].get("taints"))
        )
    finally:
        write_spec(lab_file, workers=1)
    until(lambda: not guest(LAB, HEAD).run("pidof kubectl").stdout, "what the killed run began on the node ends")
    assert get(f"node {WORKER}")["spec"]["unschedulable"] is True
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert result["changes"] == []
    assert all(check["ok"] for check in result["checks"])
    assert "unschedulable" not in get(f"node {WORKER}")["spec"]


def test_the_students_kubeconfig_works_where_its_address_is_known(provisioned: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    hyperscaler("kubeconfig", LAB, "--student", "--output", file)
    assert file.stat().st_mode & 0o777 == 0o600
    head = guest(LAB, HEAD, sudo=True)
    head.check_output("install -m 0600 /dev/null /root/student")
    head.check_output("printf %%s %s >/root/student", file.read_text())
    assert head.run("kubectl --kubeconfig /root/student get pods").rc == 0
    assert "forbidden" in head.run("kubectl --kubeconfig /root/student get nodes").stderr


@pytest.mark.long
def test_a_half_finished_join_converges(provisioned: dict[str, Any], lab_file: Path) -> None:
    # What a run leaves that was killed while kubeadm worked: everything but the record that it ended.
    assert guest(LAB, WORKER, sudo=True).run("rm /var/lib/hyperscaler/kubeadm.json").rc == 0
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert result["configured"][WORKER] > 0
    assert all(check["ok"] for check in result["checks"])


@pytest.mark.thorough
def test_a_node_that_was_deleted_joins_anew(provisioned: dict[str, Any], lab_file: Path) -> None:
    kubectl(f"delete node {WORKER}")
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert result["changes"] == []
    assert result["configured"][WORKER] > 0
    assert all(check["ok"] for check in result["checks"])


@pytest.mark.long
def test_scale_out_and_back(provisioned: dict[str, Any], lab_file: Path) -> None:
    write_spec(lab_file, workers=2)
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert all(check["ok"] for check in result["checks"])
    assert ready(LATER)
    write_spec(lab_file, workers=1)
    result = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert all(check["ok"] for check in result["checks"])
    assert {item["metadata"]["name"] for item in get("nodes")["items"]} == {HEAD, WORKER}


@pytest.mark.long
@pytest.mark.parametrize("name", [WORKER, HEAD])
def test_reboot(provisioned: dict[str, Any], name: str) -> None:
    before_boot = guest(LAB, name).run("cat /proc/sys/kernel/random/boot_id").stdout
    guest(LAB, name, sudo=True).run("systemctl reboot")

    def rebooted() -> bool:
        try:
            done = guest(LAB, name).run("cat /proc/sys/kernel/random/boot_id")
        except Exception:  # noqa: BLE001  testinfra raises whatever ssh's end makes of it
            return False
        return bool(done.rc == 0 and done.stdout != before_boot)

    until(rebooted, f"{name} comes back")
    until(lambda: ready(WORKER) and ready(HEAD), "both nodes are Ready")
    assert hyperscaler("verify", LAB).code == 0


def test_destroy_leaves_nothing(provisioned: dict[str, Any], before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}
