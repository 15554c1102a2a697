"""Add-ons that are built with Kubernetes: which a lab gets, what is filled in, where they run, who is awaited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from ansible.template import trust_as_template

from emulator.core.data_files import share_dir
from emulator.kubernetes.release.containers.container_images import TOOLS_IMAGE
from emulator.kubernetes.release.modules.addon_objects import addon_image, addon_objects
from emulator.kubernetes.release.modules.module_set import read_module_set
from emulator.labfile.kubernetes_versions import MODULE_ADDONS, MODULE_EXTRA_ADDONS, MODULE_EXTRAS, MODULE_MINORS
from tests.support.baseline_templates import inventory_of
from tests.support.playbook_modules import kubernetes_apply as apply
from tests.unit.playbooks.test_k8s_node_and_addons_network import ROLES, lab, templar, trusted

CONTROL_PLANE = "cloud-control-plane"
TLS = {"certificate": "TUlJ"}
Document = dict[str, Any]


def member(*addons: str) -> dict[str, Any]:
    """What the control plane says of the release on its disk."""
    return {"kubernetes_member": {"release": {"version": "1.37.2", "addons": list(addons)}}}


def here(text: str, *addons: str) -> list[str]:
    made = templar("k8s_control_plane", CONTROL_PLANE, text, **member(*addons))
    found = made.template(trust_as_template("{{ kubernetes_addon_files }}"))
    return [f"{each['name']}, kept" if each["kept"] else str(each["name"]) for each in found]


def objects() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for asked in (None, MODULE_EXTRAS):
        modules = read_module_set(share_dir() / "config/kubernetes/modules", MODULE_MINORS[-1], asked)
        names = {module.programs[0].name: addon_image(module) for module in modules.addons}
        found |= addon_objects(modules, {**names, "tools": TOOLS_IMAGE})
    return found


def applied(text: str, tmp_path: Any) -> dict[tuple[str, str], Document]:
    """The documents of all add-ons as the control plane of a lab applies them, by kind and name."""
    values = {"kubernetes_metrics_certificate": TLS, **member(*MODULE_ADDONS, *MODULE_EXTRA_ADDONS)}
    made = templar("k8s_control_plane", CONTROL_PLANE, text, **values)
    documents: dict[tuple[str, str], Document] = {}
    for addon in made.template(trust_as_template("{{ kubernetes_addon_files }}")):
        path = tmp_path / f"{addon['name']}.yaml"
        path.write_text(objects()[path.name])
        for each in yaml.safe_load_all(apply.edited({**addon, "path": str(path)})):
            documents[each["kind"], each["metadata"]["name"]] = each
    return documents


CPU_WORKERS, GPU_WORKERS = "cpu_workers: {count: 2}", "gpu_workers: {count: 1, gpu_enabled: false}"
ALL = lab(settings=", network_policy: default-deny, ingress: lab-ingress")


# ---------------------------------------------------------------- which
def test_a_lab_gets_what_its_nodes_release_has() -> None:
    assert here(lab("calico"), *MODULE_ADDONS) == ["calico", "local-path", "metrics-server"]
    assert here(lab("calico")) == ["calico"], "a lab that an earlier version made is sound as it is"
    assert here(lab("calico", settings=", storage_class: none, metrics: none"), *MODULE_ADDONS) == ["calico"]


def test_who_enforces_policies_is_not_taken_away_with_default_deny() -> None:
    assert here(lab(settings=", network_policy: default-deny"))[-1] == "kube-network-policies"
    assert here(lab())[-1] == "kube-network-policies, kept"


def test_extras_come_only_where_the_file_asks_for_them() -> None:
    assert "lab-ingress" not in here(lab(), *MODULE_ADDONS, *MODULE_EXTRA_ADDONS)
    assert "lab-ingress" in here(lab(settings=", ingress: lab-ingress"))


def test_what_the_file_asks_for_is_applied_or_told() -> None:
    asked = ", storage_class: local-path, metrics: metrics-server, network_policy: default-deny"
    assert here(lab(settings=asked)) == ["local-path", "metrics-server", "kube-network-policies"]
    (check,) = [
        task
        for task in tasks("k8s_control_plane")
        if "assert" in str(task.get("name", "")) or "add-ons asked" in task["name"]
    ]
    assert "kubernetes_addons | difference" in check["ansible.builtin.assert"]["that"]


def tasks(role: str) -> list[Document]:
    found: list[Document] = yaml.safe_load((ROLES / role / "tasks/main.yml").read_text())
    return found


# ---------------------------------------------------------------- what is filled in
def test_the_api_servers_trust_the_metrics_servers_own_certificate(tmp_path: Any) -> None:
    service = applied(lab(), tmp_path)["APIService", "v1beta1.metrics.k8s.io"]
    assert service["spec"]["caBundle"] == TLS["certificate"]
    assert "insecureSkipTLSVerify" not in service["spec"]


def test_kubelets_are_verified_with_the_labs_authority(tmp_path: Any) -> None:
    pod = applied(lab(), tmp_path)["Deployment", "metrics-server"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "--kubelet-certificate-authority=/authority/ca.crt" in container["args"]
    assert not [word for word in container["args"] if "insecure" in word]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["authority"]["hostPath"] == {"path": "/etc/hyperscaler/tls", "type": "Directory"}
    # The node's key lies there, too, and is root's.
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 65534
    assert volumes["serving"]["secret"]["secretName"] == "metrics-server-serving"


def test_local_path_is_the_default_class(tmp_path: Any) -> None:
    made = applied(lab(), tmp_path)["StorageClass", "local-path"]
    assert made["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert made["volumeBindingMode"] == "WaitForFirstConsumer"


def test_volumes_of_others_are_closed_to_who_logs_in_to_the_node(tmp_path: Any) -> None:
    config = applied(lab(), tmp_path)["ConfigMap", "local-path-config"]["data"]
    assert 'busybox chmod 0700 "${VOL_DIR%/*}"' in config["setup"]
    helper = yaml.safe_load(config["helperPod.yaml"])["spec"]
    assert helper["containers"][0]["image"] == TOOLS_IMAGE
    assert helper["automountServiceAccountToken"] is False


# ---------------------------------------------------------------- where they run
@pytest.mark.parametrize(
    ("text", "on_control_plane"),
    [
        (lab(), False),
        (lab().replace("count: 2", "count: 0"), True),
        (lab(settings=", taint_gpu_workers: true").replace(CPU_WORKERS, GPU_WORKERS), True),
        (lab().replace(CPU_WORKERS, GPU_WORKERS), False),
    ],
)
def test_the_control_plane_runs_them_only_where_no_worker_does(
    text: str, on_control_plane: bool, tmp_path: Any
) -> None:
    documents = applied(text.replace("cni: bridge", "cni: bridge, ingress: lab-ingress"), tmp_path)
    for name in ("metrics-server", "local-path-provisioner", "lab-ingress"):
        tolerations = documents["Deployment", name]["spec"]["template"]["spec"]["tolerations"]
        keys = [each["key"] for each in tolerations]
        assert ("node-role.kubernetes.io/control-plane" in keys) is on_control_plane


def test_policies_are_enforced_on_every_node_and_without_more_rights_than_that_takes(tmp_path: Any) -> None:
    pod = applied(ALL, tmp_path)["DaemonSet", "kube-network-policies"]["spec"]["template"]["spec"]
    assert pod["tolerations"] == [{"operator": "Exists"}] and pod["hostNetwork"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert "privileged" not in container["securityContext"]
    assert not [word for word in container["args"] if "fail-open" in word], "unseen packets are dropped"
    assert "--metrics-bind-address=127.0.0.1:9080" in container["args"]


def test_nothing_runs_outside_the_systems_namespaces_and_no_image_is_pulled(tmp_path: Any) -> None:
    documents = applied(ALL, tmp_path)
    workloads = [each for (kind, _), each in documents.items() if kind in ("Deployment", "DaemonSet")]
    assert {each["metadata"]["namespace"] for each in workloads} == {"kube-system", "lab-ingress", "local-path-storage"}
    for each in workloads:
        for container in each["spec"]["template"]["spec"]["containers"]:
            assert container["imagePullPolicy"] == "Never"
            assert container["image"].startswith("hyperscaler.invalid/kubernetes/")
            assert "${" not in str(container)
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"] == "10m"


def test_the_ingress_can_be_reached_and_do_nothing_else(tmp_path: Any) -> None:
    documents = applied(ALL, tmp_path)
    pod = documents["Deployment", "lab-ingress"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    labels = documents["Namespace", "lab-ingress"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    rules = documents["ClusterRole", "hyperscaler:lab-ingress"]["rules"]
    assert {name for rule in rules for name in rule["resources"] if "update" in rule["verbs"]} == {
        "services/status",
        "ingresses/status",
    }
    assert "secrets" not in str(rules)
    (rule,) = documents["NetworkPolicy", "lab-ingress"]["spec"]["ingress"]
    (port,) = documents["Service", "lab-ingress"]["spec"]["ports"]
    assert [each["port"] for each in rule["ports"]] == [container["ports"][0]["containerPort"]] == [8080]
    assert (port["port"], port["targetPort"], port["nodePort"]) == (80, "http", 30080)


# ---------------------------------------------------------------- who is awaited
def awaited(text: str, **joined: Any) -> list[str]:
    hostvars, _ = inventory_of(text)
    for name, how in joined.items():
        hostvars[f"cloud-cpu-worker-{name[-1]}"]["kubernetes_join"] = how
    made = templar("k8s_addons", CONTROL_PLANE, text, **member(*MODULE_ADDONS), hostvars=hostvars)
    return list(made.template(trusted("{{ kubernetes_awaited }}")))


def test_the_run_waits_for_the_namespaces_of_all_addons() -> None:
    assert awaited(lab(), worker1={"failed": False}) == ["kube-system", "local-path-storage"]
    assert awaited(lab(settings=", storage_class: none"), worker1={"skipped": True}) == ["kube-system"]
    assert awaited(lab().replace("count: 2", "count: 0")) == ["kube-system", "local-path-storage"]


def test_no_one_waits_for_pods_that_have_no_node() -> None:
    assert awaited(lab(), worker1={"failed": True}, worker2={"failed": True}) == []
    assert awaited(lab()) == [], "a worker that was never reached"
