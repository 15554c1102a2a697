"""The lab's Kubernetes nodes as an inventory for Kubespray. Pure.

Sources: Kubespray, docs/ansible/inventory.md (groups and the variables ip and access_ip), docs/ansible/vars.md and
inventory/sample/group_vars (settings); its 2.28.0 took the "v" off `kube_version`.
"""

from __future__ import annotations

from collections.abc import Mapping

from emulator.core.ansible_text import literal_yaml
from emulator.core.errors import ConfigError
from emulator.kubernetes.config.addresses import NODE_PREFIX
from emulator.labfile.kubernetes_versions import is_full_version
from emulator.labfile.model import ClusterKind, ClusterSpec, KubernetesSpec, Role

# The CNI `bridge` is the lab's own; Kubespray knows it as "cni": it lays the programs and leaves configuration alone.
_NETWORK_PLUGIN: Mapping[str, str] = {"bridge": "cni", "calico": "calico", "flannel": "flannel"}
# Kubespray's `cluster_name` is the domain of the cluster's DNS, not a name of the cluster.
_DNS_DOMAIN = "cluster.local"


def kubespray_inventory(spec: ClusterSpec, connection: Mapping[str, object]) -> str:
    """YAML for `ansible-playbook -i FILE cluster.yml` of Kubespray.

    Args:
        spec: the lab.
        connection: Ansible's connection variables of all hosts (`ansible_user`, `ansible_ssh_common_args`, ...).

    Raises:
        ConfigError: the lab has no Kubernetes cluster.
    """
    nodes = spec.nodes_of(ClusterKind.CLOUD)
    if spec.kubernetes is None or not nodes:
        raise ConfigError("the lab has no Kubernetes cluster", where=spec.name)
    heads = [node.name for node in nodes if node.role is Role.CLOUD_CONTROL_PLANE]
    workers = [node.name for node in nodes if node.role is not Role.CLOUD_CONTROL_PLANE]
    # Variables of hosts, because Kubespray's sample brings group_vars that set most of these, and to Ansible a file of
    # group_vars counts for more than a group's variables in the inventory.
    settings = _settings(spec.kubernetes)
    document = {
        "all": {
            "hosts": {
                node.name: {"ansible_host": str(node.ip), "ip": str(node.ip), "access_ip": str(node.ip), **settings}
                for node in nodes
            },
            "vars": dict(connection),
            "children": {
                "kube_control_plane": {"hosts": {name: {} for name in heads}},
                "etcd": {"hosts": {name: {} for name in heads}},
                "kube_node": {"hosts": {name: {} for name in workers}},
                "k8s_cluster": {"children": {"kube_control_plane": {}, "kube_node": {}}},
                "calico_rr": {"hosts": {}},
            },
        }
    }
    return literal_yaml(document)


def _settings(wants: KubernetesSpec) -> dict[str, object]:
    """What the lab file says of its Kubernetes, in Kubespray's words."""
    settings: dict[str, object] = {
        "cluster_name": _DNS_DOMAIN,
        "container_manager": "containerd",
        "kube_network_plugin": _NETWORK_PLUGIN[wants.cni],
        "kube_pods_subnet": str(wants.pod_subnet),
        "kube_network_node_prefix": NODE_PREFIX,
        "kube_service_addresses": str(wants.service_subnet),
        "gateway_api_enabled": wants.ingress == "traefik",
        "local_path_provisioner_enabled": wants.storage_class == "local-path",
    }
    if is_full_version(wants.version):
        # Kubespray looks it up in its list of checksums, which has full versions only.
        settings["kube_version"] = wants.version.removeprefix("v")
    return settings
