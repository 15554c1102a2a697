"""Which add-ons a lab asks for, and which of them can be had."""

from __future__ import annotations

from emulator.kubernetes.config.addons import missing_addons, wanted_addons
from emulator.labfile.model import KubernetesSpec

ALL = KubernetesSpec(cni="calico", ingress="traefik", storage_class="local-path")


def test_the_defaults_ask_for_nothing() -> None:
    assert wanted_addons(KubernetesSpec()) == ()
    assert missing_addons(KubernetesSpec(), ()) == ()


def test_the_network_is_applied_first() -> None:
    assert wanted_addons(ALL) == ("calico", "local-path", "traefik")


def test_real_gpus_bring_nvidias_plugin() -> None:
    real = KubernetesSpec(real_gpus=True)
    assert wanted_addons(real) == ("nvidia-device-plugin",)
    (line,) = missing_addons(real, ("calico",))
    assert "backend: simulated" in line
    assert missing_addons(real, ("nvidia-device-plugin",)) == ()


def test_each_missing_addon_is_named_with_its_key() -> None:
    missing = missing_addons(ALL, ())
    assert [line.split(":")[0] for line in missing] == ["cni", "ingress", "storage_class"]
    assert "use bridge, source: upstream, or a bundle" in missing[0]


def test_what_the_source_has_is_not_missing() -> None:
    assert missing_addons(ALL, ("calico", "traefik", "local-path")) == ()
    assert len(missing_addons(ALL, ("calico",))) == 2


def test_a_lab_that_stands_keeps_the_ingress_controller_that_it_has() -> None:
    assert wanted_addons(KubernetesSpec(ingress="nginx")) == ("ingress-nginx",)
    (line,) = missing_addons(KubernetesSpec(ingress="nginx"), ("calico", "traefik"))
    assert line.startswith("ingress: nginx needs")
