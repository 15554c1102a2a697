"""What a lab may ask of its Kubernetes beyond kubeadm's own, and what of it can be had. Pure."""

from __future__ import annotations

from collections.abc import Collection

from emulator.spec.model import KubernetesSpec

# Part of the names of the container images without which an add-on cannot run.
_IMAGES = {
    "calico": "calico/node",
    "flannel": "flannel",
    "nginx": "ingress-nginx/controller",
    "local-path": "local-path",
}


def missing_addons(wants: KubernetesSpec, images: Collection[str]) -> tuple[str, ...]:
    """One sentence for each add-on that the lab asks for and whose container image is not at hand.

    Args:
        wants: what the lab file says.
        images: references of the images that the nodes will have.
    """
    asked = (
        ("cni", wants.cni, "bridge"),
        ("ingress", wants.ingress, "none"),
        ("storage_class", wants.storage_class, "none"),
    )
    return tuple(
        f"{key}: {value} needs container images that this source of Kubernetes does not have; use {other}, or a"
        " bundle that holds them"
        for key, value, other in asked
        if value in _IMAGES and not any(_IMAGES[value] in image for image in images)
    )
