"""Add-ons whose images are not at hand are said so, each by its key."""

from __future__ import annotations

from emulator.kubernetes.addons import missing_addons
from emulator.spec.model import KubernetesSpec


def test_the_defaults_need_nothing() -> None:
    assert missing_addons(KubernetesSpec(), ()) == ()


def test_each_missing_addon_is_named_with_its_way_out() -> None:
    wants = KubernetesSpec(cni="calico", ingress="nginx", storage_class="local-path")
    missing = missing_addons(wants, ["hyperscaler.invalid/kubernetes/etcd:3.4.13-0"])
    assert [line.split(":")[0] for line in missing] == ["cni", "ingress", "storage_class"]
    assert "use bridge" in missing[0]


def test_an_addon_whose_image_is_at_hand_is_fine() -> None:
    assert missing_addons(KubernetesSpec(cni="flannel"), ["docker.invalid/flannel/flannel:v0.25"]) == ()
