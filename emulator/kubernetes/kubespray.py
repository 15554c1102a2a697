"""The lab's Kubernetes nodes as an inventory for Kubespray. Pure.

Source: Kubespray, docs/ansible/inventory.md (groups and the variables ip and access_ip).
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from emulator.errors import ConfigError
from emulator.spec.kubernetes_versions import is_full_version
from emulator.spec.model import ClusterKind, ClusterSpec, Role

# The CNI `bridge` is the lab's own; Kubespray knows it as "cni": it lays the programs and leaves configuration alone.
_NETWORK_PLUGIN: Mapping[str, str] = {"bridge": "cni", "calico": "calico", "flannel": "flannel"}


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
    document = {
        "all": {
            "hosts": {
                node.name: {"ansible_host": str(node.ip), "ip": str(node.ip), "access_ip": str(node.ip)}
                for node in nodes
            },
            "vars": {
                **connection,
                "cluster_name": spec.name,
                "kube_network_plugin": _NETWORK_PLUGIN[spec.kubernetes.cni],
                "kube_pods_subnet": str(spec.kubernetes.pod_subnet),
                "kube_service_addresses": str(spec.kubernetes.service_subnet),
                "container_manager": "containerd",
                # Kubespray looks the version up in its list of checksums, which has full ones only.
                **({"kube_version": spec.kubernetes.version} if is_full_version(spec.kubernetes.version) else {}),
            },
            "children": {
                "kube_control_plane": {"hosts": {name: {} for name in heads}},
                "etcd": {"hosts": {name: {} for name in heads}},
                "kube_node": {"hosts": {name: {} for name in workers}},
                "k8s_cluster": {"children": {"kube_control_plane": {}, "kube_node": {}}},
                "calico_rr": {"hosts": {}},
            },
        }
    }
    return yaml.safe_dump(document, sort_keys=False, width=1000)
