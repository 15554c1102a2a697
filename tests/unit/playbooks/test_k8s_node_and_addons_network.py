"""The pods' network of a node and what is filled into the manifests of add-ons, as Ansible renders them."""

from __future__ import annotations

import json
import shlex
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from emulator.core.data_files import share_dir
from emulator.guests.verify.kubernetes_probes import SYSTEM_NAMESPACES
from emulator.labfile.kubernetes_versions import MODULE_ADDONS, MODULE_EXTRA_ADDONS
from tests.support.baseline_templates import inventory_of
from tests.support.playbook_modules import PLAYBOOKS
from tests.support.playbook_modules import kubernetes_apply as apply

ROLES = PLAYBOOKS / "roles"
CNIS = ("bridge", "calico", "flannel")
CONF, CONFLIST = "/etc/hyperscaler/pod-network.conf", "/etc/cni/net.d/10-bridge.conflist"


def lab(cni: str = "bridge", *, nat: bool = True, settings: str = "") -> str:
    return f"""
version: "1.0"
metadata: {{name: x}}
global: {{networks: {{cloud_network: {{nat: {str(nat).lower()}}}}}}}
clusters:
  cloud:
    worker_nodes: {{cpu_workers: {{count: 2}}}}
    kubernetes_config: {{cni: {cni}{settings}}}
"""


def templar(role: str, host: str, text: str, **values: Any) -> Templar:
    """Ansible's own, with the variables of the host and of the role, and those that all roles share."""
    hostvars, groups = inventory_of(text)
    directory = ROLES / role
    variables: dict[str, Any] = {}
    for name in ("k8s_common", role):
        variables |= trusted(yaml.safe_load((ROLES / name / "vars/main.yml").read_text()))
    member = {"kubernetes_member": {"release": {"version": "1.37.2"}}}
    given = {**variables, **member, **hostvars[host], "hostvars": hostvars, "groups": groups, **values}
    given |= {"role_path": str(directory), "ansible_search_path": [str(directory)]}
    return Templar(loader=DataLoader(), variables=given)


def trusted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


def node_files(host: str, text: str) -> dict[str, str]:
    """Content of the files that the role lays on a node, by path."""
    (task,) = yaml.safe_load((ROLES / "k8s_node/tasks/main.yml").read_text())
    rendered = templar("k8s_node", host, text).template(trusted(task["node_state"]["files"]))
    return {file["path"]: file["content"] for file in rendered}


def settings_of(content: str) -> dict[str, str]:
    """The variables that a shell has which has read the file."""
    words = (word.partition("=") for word in shlex.split(content, comments=True))
    return {name: value for name, _, value in words}


# ---------------------------------------------------------------- the node's network
@pytest.mark.parametrize("nat", [True, False])
@pytest.mark.parametrize("cni", CNIS)
def test_every_node_has_a_way_to_the_services(cni: str, nat: bool) -> None:
    """Without `nat` there is no default route, and the kernel refuses a service's address, whatever the CNI."""
    for host in ("cloud-control-plane", "cloud-cpu-worker-2"):
        conf = settings_of(node_files(host, lab(cni, nat=nat, settings=", service_subnet: 10.97.0.0/16"))[CONF])
        assert conf["SERVICE_SUBNET"] == "10.97.0.0/16"


@pytest.mark.parametrize("cni", ["calico", "flannel"])
def test_other_networks_see_to_the_pods_themselves(cni: str) -> None:
    files = node_files("cloud-cpu-worker-1", lab(cni))
    assert list(files) == [CONF]
    assert list(settings_of(files[CONF])) == ["SERVICE_SUBNET"]


def test_with_the_bridge_a_node_has_routes_to_the_pods_of_all_others() -> None:
    text = lab(settings=", pod_subnet: 10.200.0.0/16")
    conf = settings_of(node_files("cloud-cpu-worker-1", text)[CONF])
    assert conf["POD_SUBNET"] == "10.200.0.0/16"
    assert conf["ROUTES"].split("\n") == [
        "",
        "10.200.10.0/24 192.168.200.10",
        "10.200.12.0/24 192.168.200.12",
        "",
    ]


def test_a_node_alone_has_no_routes() -> None:
    text = lab().replace("count: 2", "count: 0")
    assert settings_of(node_files("cloud-control-plane", text)[CONF])["ROUTES"].split() == []


@pytest.mark.parametrize("host", ["cloud-control-plane", "cloud-cpu-worker-1", "cloud-cpu-worker-2"])
def test_the_bridge_hands_out_the_nodes_own_network(host: str) -> None:
    document = json.loads(node_files(host, lab(settings=", pod_subnet: 10.200.0.0/16"))[CONFLIST])
    assert (document["cniVersion"], document["name"]) == ("0.4.0", "pods")
    bridge, portmap = document["plugins"]
    assert bridge["type"] == "bridge"
    assert bridge["isGateway"] and bridge["hairpinMode"], "pods reach the node, and themselves by their service"
    ((rows,),) = bridge["ipam"]["ranges"]
    number = {"cloud-control-plane": 10, "cloud-cpu-worker-1": 11, "cloud-cpu-worker-2": 12}[host]
    assert IPv4Network(rows["subnet"]) == IPv4Network(f"10.200.{number}.0/24")
    assert bridge["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}]
    assert portmap["type"] == "portmap" and portmap["capabilities"] == {"portMappings": True}


# ---------------------------------------------------------------- add-ons
# The places of the projects' manifests that are edited, as they are in the versions of config/kubernetes/upstream.yaml.
FLANNEL = """\
kind: ConfigMap
apiVersion: v1
metadata:
  name: kube-flannel-cfg
data:
  net-conf.json: |
    {
      "Network": "10.244.0.0/16",
      "Backend": {"Type": "vxlan"}
    }
"""
LOCAL_PATH = """\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local-path
provisioner: rancher.io/local-path
"""
NVIDIA = """\
kind: DaemonSet
metadata: {name: nvidia-device-plugin-daemonset}
spec:
  template:
    spec:
      containers:
      - name: nvidia-device-plugin-ctr
        env:
          - name: FAIL_ON_INIT_ERROR
            value: "false"
"""


def addon_files(text: str) -> list[dict[str, Any]]:
    rendered = templar("k8s_control_plane", "cloud-control-plane", text).template(
        trust_as_template("{{ kubernetes_addon_files }}")
    )
    found: list[dict[str, Any]] = json.loads(json.dumps(rendered))
    return [each for each in found if not each["kept"]]


def edited(tmp_path: Path, text: str, manifest: str) -> Any:
    """What is applied of a manifest in a lab with one add-on."""
    (addon,) = addon_files(text)
    path = tmp_path / "manifest.yaml"
    path.write_text(manifest)
    return yaml.safe_load(apply.edited({**addon, "path": str(path)}))


@pytest.mark.parametrize("cni", CNIS)
def test_the_manifest_of_the_network_is_applied_where_it_is_an_addon(cni: str) -> None:
    names = [(each["name"], each["path"]) for each in addon_files(lab(cni))]
    expected = [(cni, f"/usr/share/hyperscaler/kubernetes/manifests/{cni}.yaml")] if cni != "bridge" else []
    assert names == expected


def test_all_addons_of_a_lab_are_applied_in_order() -> None:
    text = lab("calico", settings=", storage_class: local-path, ingress: traefik")
    assert [each["name"] for each in addon_files(text)] == ["calico", "local-path", "traefik"]
    assert [bool(each["edits"]) for each in addon_files(text)] == [False, True, False]


@pytest.mark.parametrize("subnet", ["10.244.0.0/16", "10.200.0.0/17"])
def test_flannel_has_the_labs_pod_network(tmp_path: Path, subnet: str) -> None:
    document = edited(tmp_path, lab("flannel", settings=f", pod_subnet: {subnet}"), FLANNEL)
    assert json.loads(document["data"]["net-conf.json"]) == {"Network": subnet, "Backend": {"Type": "vxlan"}}


def test_local_path_becomes_the_default_class(tmp_path: Path) -> None:
    document = edited(tmp_path, lab(settings=", storage_class: local-path"), LOCAL_PATH)
    assert document["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert document["provisioner"] == "rancher.io/local-path"


@pytest.mark.parametrize("strategy", ["none", "single", "mixed"])
def test_nvidias_plugin_has_the_labs_strategy(tmp_path: Path, strategy: str) -> None:
    hostvars, _ = inventory_of(lab(settings=f", mig_strategy: {strategy}"))
    host = {**hostvars["cloud-control-plane"], "kubernetes_addons": ["nvidia-device-plugin"]}
    made = templar("k8s_control_plane", "cloud-control-plane", lab(), **host)
    addon, _ = made.template(trust_as_template("{{ kubernetes_addon_files }}"))
    (tmp_path / "nvidia.yaml").write_text(NVIDIA)
    document = yaml.safe_load(apply.edited({**addon, "path": str(tmp_path / "nvidia.yaml")}))
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [
        {"name": "MIG_STRATEGY", "value": strategy},
        {"name": "FAIL_ON_INIT_ERROR", "value": "false"},
    ]


def test_a_manifest_without_the_place_to_edit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(apply.ClusterError, match="of a version not known here"):
        edited(tmp_path, lab("flannel"), FLANNEL.replace("10.244.0.0/16", "10.42.0.0/16"))


def test_the_gateway_attaches_to_what_traefik_listens_on() -> None:
    """A listener of another port than an entry point's is never ready."""
    variables = yaml.safe_load((ROLES / "k8s_addons/vars/main.yml").read_text())
    gateway_class, gateway = variables["kubernetes_gateway"]
    path = share_dir() / "config/kubernetes/addons/traefik.yaml"
    documents = {each["kind"]: each for each in yaml.safe_load_all(path.read_text())}
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    (listener,) = gateway["spec"]["listeners"]
    assert f"--entrypoints.web.address=:{listener['port']}" in container["args"]
    assert gateway["spec"]["gatewayClassName"] == gateway_class["metadata"]["name"]
    assert gateway["metadata"]["namespace"] == documents["Namespace"]["metadata"]["name"]
    # From the host: the port of every node, then the Service's, then the entry point's.
    ports = {port["name"]: port for port in documents["Service"]["spec"]["ports"]}
    assert {name: port["nodePort"] for name, port in ports.items()} == {"web": 30080, "websecure": 30443}
    assert {port["targetPort"] for port in ports.values()} <= {port["name"] for port in container["ports"]}


@pytest.mark.parametrize(("ingress", "made"), [("traefik", True), ("none", False)])
def test_a_gateway_is_made_where_its_kinds_come_with_an_addon(ingress: str, made: bool) -> None:
    tasks = yaml.safe_load((ROLES / "k8s_addons/tasks/main.yml").read_text())
    (task,) = [task for task in tasks if task["name"] == "Make the cluster's Gateway"]
    text = lab(settings=f", ingress: {ingress}")
    rendered = templar("k8s_addons", "cloud-control-plane", text)
    assert rendered.template(trust_as_template("{{ " + task["when"] + " }}")) is made
    assert "addons" not in task["kubernetes_objects"], "without a list, those that the cluster has stay"
    assert rendered.template(trust_as_template(task["kubernetes_objects"]["optional"]))[1]["kind"] == "Gateway"


@pytest.mark.parametrize(("ingress", "peers"), [("traefik", 1), ("lab-ingress", 1), ("none", 0)])
def test_only_a_lab_with_an_ingress_controller_lets_it_in(ingress: str, peers: int) -> None:
    found = templar("k8s_common", "cloud-control-plane", lab(settings=f", ingress: {ingress}")).template(
        trust_as_template("{{ kubernetes_ingress_peers }}")
    )
    assert len(found) == peers


def test_every_addon_has_the_namespace_that_is_waited_for() -> None:
    namespaces = yaml.safe_load((ROLES / "k8s_addons/vars/main.yml").read_text())["kubernetes_addon_namespaces"]
    upstream = yaml.safe_load((share_dir() / "config/kubernetes/upstream.yaml").read_text())
    assert {*upstream["addons"], *MODULE_ADDONS, *MODULE_EXTRA_ADDONS} <= set(namespaces)
    assert set(namespaces.values()) <= set(SYSTEM_NAMESPACES)
