"""Add-ons that a lab can ask for in addition to kubeadm's own components, and their availability. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from emulator.labfile.kubernetes_versions import MODULE_EXTRAS
from emulator.labfile.model import KubernetesSpec

# Value in the lab file -> name of the add-on, as the files of its manifest are called.
_ADDON_OF_VALUE: Mapping[str, str] = {
    "calico": "calico",
    "flannel": "flannel",
    "traefik": "traefik",
    "lab-ingress": "lab-ingress",
    # Of labs that stand: no source has it any more.
    "nginx": "ingress-nginx",
    "local-path": "local-path",
    "metrics-server": "metrics-server",
}
# Where add-ons come from that upstream does not have.
_SOURCE_OF: Mapping[str, str] = {"lab-ingress": "modules"}
# A program of the nodes that a lab asks for, and no add-on: nothing of it runs in the cluster.
HELM = "helm"
# What enforces network policies where the pods' network does not.
NETWORK_POLICIES = "kube-network-policies"
# Real GPUs are offered by NVIDIA's own plugin; simulated ones by the project's, which lies in the playbook.
NVIDIA_DEVICE_PLUGIN = "nvidia-device-plugin"


def wanted_addons(wants: KubernetesSpec) -> tuple[str, ...]:
    """Names of the add-ons that the lab asks for, in the order in which they are applied."""
    values = (wants.cni, wants.storage_class, wants.ingress, wants.metrics)
    named = tuple(_ADDON_OF_VALUE[value] for value in values if value in _ADDON_OF_VALUE)
    if wants.network_policy == "default-deny" and wants.cni == "bridge":
        named += (NETWORK_POLICIES,)
    return (*named, NVIDIA_DEVICE_PLUGIN) if wants.real_gpus else named


def wanted_extras(wants: KubernetesSpec) -> tuple[str, ...]:
    """Names of the modules that are compiled for this lab in addition to those of every lab, in a fixed order."""
    asked = {*wanted_addons(wants), *([HELM] if wants.helm else [])}
    return tuple(name for name in MODULE_EXTRAS if name in asked)


def optional_addons(wants: KubernetesSpec) -> tuple[str, ...]:
    """Names of the add-ons that the lab gets where the nodes' release has them: a lab of an earlier version, and one of
    a source without them, is sound as it is."""
    choices = (("local-path", wants.storage_class), ("metrics-server", wants.metrics))
    return tuple(name for name, choice in choices if choice == "auto")


def missing_addons(wants: KubernetesSpec, have: Collection[str]) -> tuple[str, ...]:
    """One sentence for each add-on that the lab asks for and that is not at hand.

    Args:
        wants: what the lab file says.
        have: names of the add-ons that the source of Kubernetes has, and `helm` if it has that.
    """
    asked = (
        ("cni", wants.cni, "bridge"),
        ("ingress", wants.ingress, "none"),
        ("storage_class", wants.storage_class, "none"),
        ("metrics", wants.metrics, "none"),
    )
    missing = tuple(
        f"{key}: {value} needs manifests and container images that this source of Kubernetes does not have;"
        f" use {other}, source: {_SOURCE_OF.get(value, 'upstream')}, or a bundle that holds them"
        for key, value, other in asked
        if value in _ADDON_OF_VALUE and _ADDON_OF_VALUE[value] not in have
    )
    if wants.helm and HELM not in have:
        missing += ("helm: true needs source: modules, or a bundle of such a release that was made with it",)
    if NETWORK_POLICIES in wanted_addons(wants) and NETWORK_POLICIES not in have:
        missing += (
            "network_policy: default-deny with cni: bridge needs kube-network-policies, which this source of Kubernetes"
            " does not have; use source: modules, cni: calico, or a bundle that holds it",
        )
    if wants.real_gpus and NVIDIA_DEVICE_PLUGIN not in have:
        missing += (
            "real GPUs of Kubernetes nodes need NVIDIA's device plugin, which this source of Kubernetes does not have;"
            " use source: upstream, a bundle that holds it, or backend: simulated",
        )
    return missing
