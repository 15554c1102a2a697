"""`make demo`, as a new user meets it: both clusters in one lab on one GPU, with a job and a pod that really ran."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import playbook_modules as kubeadm
from tests.support.labs import host_snapshot, hyperscaler, left_behind

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_lab_left")]

LAB = "demo"
CHECKOUT = Path(__file__).parents[2]
SLICE = r"MIG-[0-9a-f-]{36}"


@pytest.fixture(scope="module")
def demo(before: dict[str, list[str]]) -> str:
    """What the demo prints."""
    done = subprocess.run(
        ["scripts/demo.sh"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=2400,
        check=False,
    )
    print(done.stdout, flush=True)
    assert done.returncode == 0
    return done.stdout


def test_both_clusters_are_verified(demo: str) -> None:
    assert re.search(r"verify +Slurm job main: ok job \d+: hpc-compute-1 hpc-compute-2", demo)
    assert re.search(r"verify +Kubernetes pods: ok a pod runs on each of cloud-control-plane, cloud-gpu-worker-1", demo)
    assert "FAILED" not in demo


def test_a_slurm_job_ran_on_both_nodes(demo: str) -> None:
    assert {"hpc-compute-1", "hpc-compute-2"} <= set(demo.splitlines())


def test_a_slurm_job_and_a_pod_were_granted_a_slice(demo: str) -> None:
    assert re.search(r"^hpc-compute-\d was granted GPU \d+$", demo, re.MULTILINE)
    assert re.search(rf"^gpu-pod on cloud-gpu-worker-1 was granted GPU {SLICE}$", demo, re.MULTILINE)


def test_the_clusters_share_the_gpu_and_no_slice(demo: str) -> None:
    nodes = hyperscaler("gpu", "map", LAB, "--json").json()["nodes"]
    assert {name: len(slices) for name, slices in nodes.items()} == {
        "hpc-compute-1": 1,
        "hpc-compute-2": 1,
        "cloud-gpu-worker-1": 2,
    }
    places = [(one["pci_address"], one["placement"]["start"]) for slices in nodes.values() for one in slices]
    assert len({gpu for gpu, _ in places}) == 1
    assert len(set(places)) == len(places)


def test_the_clusters_know_each_other_by_name_and_are_kept_apart(demo: str) -> None:
    for here, there, ip, port in (
        ("hpc-controller", "cloud-control-plane", "192.168.200.10", 6443),
        ("cloud-control-plane", "hpc-controller", "192.168.100.10", 22),
    ):
        domain = f"{there.partition('-')[0]}.{LAB}.internal"
        for name in (there, f"{there}.{domain}"):
            assert hyperscaler("ssh", LAB, here, "--", f"getent ahostsv4 {name}").stdout.startswith(ip)
        opened = f"timeout 20 bash -c '</dev/tcp/{there}/{port}'"
        refused = hyperscaler("ssh", LAB, here, "--", opened, check=False)
        assert refused.code not in (0, 124, 255), (refused.stdout, refused.stderr)
        assert hyperscaler("ssh", LAB, there, "--", opened.replace(there, ip)).code == 0


def test_status_shows_both_clusters(demo: str) -> None:
    status = hyperscaler("status", LAB, "--json").json()
    assert status["problems"] == []
    assert {node["state"] for node in status["nodes"]} == {"running"}
    assert set(status["clusters"]) == {"slurm", "kubernetes"}


def test_the_configuration_is_what_this_versions_own_kubeadm_knows(demo: str) -> None:
    """A key that a version does not have is a warning at best; here it is an error, for both kinds of node."""
    for node, name in (("cloud-control-plane", "init"), ("cloud-gpu-worker-1", "join")):
        version = hyperscaler("ssh", LAB, node, "--", "kubeadm version --output short").stdout.strip().lstrip("v")
        cluster = {**kubeadm.CLUSTER, "cni": "bridge"}
        release, machine = {**kubeadm.RELEASE, "version": version}, kubeadm.PARAMS["node"]
        config = kubeadm.kubeadm_config
        token, pinned = kubeadm.PARAMS["token"], ["sha256:" + "0" * 64]
        documents = (
            config.init_documents(release, cluster, machine, 900)
            if name == "init"
            else config.join_documents(release, cluster, machine, token, pinned, 900)
        )
        file = f"/tmp/{name}.yaml"
        write = f"cat > {file} <<'END'\n{config.to_yaml(documents)}END\n"
        done = hyperscaler("ssh", LAB, node, "--", f"{write}kubeadm config validate --config {file}")
        assert done.stdout.strip() == "ok", done.stderr


def test_nothing_differs_afterwards(demo: str) -> None:
    assert hyperscaler("plan", CHECKOUT / "config" / "demo.yaml", "--json").json()["changes"] == []


def test_destroy_leaves_nothing(demo: str, before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}
