"""The modules of the playbooks, loaded as Ansible would load them on a node."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


def load(path: str, name: str) -> ModuleType:
    """The file at `path` below `playbooks/`, under a name of its own; loaded once."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, PLAYBOOKS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pace = load("module_utils/pace.py", "ansible.module_utils.pace")
whole_file = load("module_utils/whole_file.py", "ansible.module_utils.whole_file")
kubeadm_config = load("module_utils/kubeadm_config.py", "ansible.module_utils.kubeadm_config")
kubeadm_reset = load("module_utils/kubeadm_reset.py", "ansible.module_utils.kubeadm_reset")
kubeadm_run = load("module_utils/kubeadm_run.py", "ansible.module_utils.kubeadm_run")
release_before = load("module_utils/release_before.py", "ansible.module_utils.release_before")
kubernetes_apply = load("module_utils/kubernetes_apply.py", "ansible.module_utils.kubernetes_apply")
user_end = load("module_utils/user_end.py", "ansible.module_utils.user_end")
user_quota = load("module_utils/user_quota.py", "ansible.module_utils.user_quota")
node_command = load("module_utils/node_command.py", "ansible.module_utils.node_command")
node_accounts = load("module_utils/node_accounts.py", "ansible.module_utils.node_accounts")
node_files = load("module_utils/node_files.py", "ansible.module_utils.node_files")
node_units = load("module_utils/node_units.py", "ansible.module_utils.node_units")
kubeadm_node = load("library/kubeadm_node.py", "kubeadm_node")
kubernetes_objects = load("library/kubernetes_objects.py", "kubernetes_objects")
kubernetes_upgrade = load("library/kubernetes_upgrade.py", "kubernetes_upgrade")
node_state = load("library/node_state.py", "node_state")

RELEASE = {
    "version": "1.37.2",
    "repository": "hyperscaler.invalid/kubernetes",
    "cluster_dns": "hyperscaler.invalid/kubernetes/coredns:v1.14.6",
}
CLUSTER = {
    "name": "demo",
    "control_plane_ip": "10.20.0.10",
    "pod_subnet": "10.244.0.0/16",
    "service_subnet": "10.96.0.0/12",
    "cni": "bridge",
}
PARAMS: dict[str, Any] = {
    "cluster": CLUSTER,
    "node": {"name": "cloud-control-plane", "ip": "10.20.0.10"},
    "timeout": 60,
    "token": "abcdef.0123456789abcdef",
    "ca_hash": "sha256:new",
}
