"""Which add-ons a lab asks for, and which of them can be had."""

from __future__ import annotations

from emulator.kubernetes.config.addons import missing_addons, optional_addons, wanted_addons, wanted_extras
from emulator.labfile.kubernetes_versions import MODULE_EXTRAS
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


def test_the_defaults_take_what_the_nodes_release_has() -> None:
    assert optional_addons(KubernetesSpec()) == ("local-path", "metrics-server")
    assert optional_addons(KubernetesSpec(storage_class="none", metrics="metrics-server")) == ()
    assert wanted_addons(KubernetesSpec(metrics="metrics-server")) == ("metrics-server",)


def test_policies_on_the_bridge_need_who_enforces_them() -> None:
    """Calico does it itself."""
    assert wanted_addons(KubernetesSpec(cni="calico", network_policy="default-deny")) == ("calico",)
    bridge = KubernetesSpec(network_policy="default-deny")
    assert wanted_addons(bridge) == ("kube-network-policies",)
    (line,) = missing_addons(bridge, ("calico",))
    assert line.startswith("network_policy: default-deny with cni: bridge needs kube-network-policies")
    assert missing_addons(bridge, ("kube-network-policies",)) == ()


def test_what_the_source_has_is_not_missing() -> None:
    assert missing_addons(ALL, ("calico", "traefik", "local-path")) == ()
    assert len(missing_addons(ALL, ("calico",))) == 2


def test_a_lab_that_stands_keeps_the_ingress_controller_that_it_has() -> None:
    assert wanted_addons(KubernetesSpec(ingress="nginx")) == ("ingress-nginx",)
    (line,) = missing_addons(KubernetesSpec(ingress="nginx"), ("calico", "traefik"))
    assert line.startswith("ingress: nginx needs")


def test_extras_are_what_a_lab_file_asks_for_alone() -> None:
    assert wanted_extras(KubernetesSpec()) == ()
    assert wanted_extras(KubernetesSpec(ingress="traefik")) == ()
    both = KubernetesSpec(ingress="lab-ingress", helm=True)
    assert wanted_extras(both) == MODULE_EXTRAS
    assert wanted_addons(both) == ("lab-ingress",), "Helm has no objects"
    ingress, helm = missing_addons(both, ("calico", "traefik"))
    assert ingress.startswith("ingress: lab-ingress needs") and "use none, source: modules, or a bundle" in ingress
    assert helm == "helm: true needs source: modules, or a bundle of such a release that was made with it"
    assert missing_addons(both, MODULE_EXTRAS) == ()
