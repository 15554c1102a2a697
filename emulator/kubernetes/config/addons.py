"""Add-ons that a lab can ask for in addition to kubeadm's own components, and their availability. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from emulator.labfile.model import KubernetesSpec

# Value in the lab file -> name of the add-on, as the files of its manifest are called.
_ADDON_OF_VALUE: Mapping[str, str] = {
    "calico": "calico",
    "flannel": "flannel",
    "traefik": "traefik",
    # Of labs that stand: no source has it any more.
    "nginx": "ingress-nginx",
    "local-path": "local-path",
}
# Real GPUs are offered by NVIDIA's own plugin; simulated ones by the project's, which lies in the playbook.
NVIDIA_DEVICE_PLUGIN = "nvidia-device-plugin"


def wanted_addons(wants: KubernetesSpec) -> tuple[str, ...]:
    """Names of the add-ons that the lab asks for, in the order in which they are applied."""
    values = (wants.cni, wants.storage_class, wants.ingress)
    named = tuple(_ADDON_OF_VALUE[value] for value in values if value in _ADDON_OF_VALUE)
    return (*named, NVIDIA_DEVICE_PLUGIN) if wants.real_gpus else named


def missing_addons(wants: KubernetesSpec, have: Collection[str]) -> tuple[str, ...]:
    """One sentence for each add-on that the lab asks for and that is not at hand.

    Args:
        wants: what the lab file says.
        have: names of the add-ons that the source of Kubernetes has.
    """
    asked = (
        ("cni", wants.cni, "bridge"),
        ("ingress", wants.ingress, "none"),
        ("storage_class", wants.storage_class, "none"),
    )
    missing = tuple(
        f"{key}: {value} needs manifests and container images that this source of Kubernetes does not have;"
        f" use {other}, source: upstream, or a bundle that holds them"
        for key, value, other in asked
        if value in _ADDON_OF_VALUE and _ADDON_OF_VALUE[value] not in have
    )
    if wants.real_gpus and NVIDIA_DEVICE_PLUGIN not in have:
        missing += (
            "real GPUs of Kubernetes nodes need NVIDIA's device plugin, which this source of Kubernetes does not have;"
            " use source: upstream, a bundle that holds it, or backend: simulated",
        )
    return missing
