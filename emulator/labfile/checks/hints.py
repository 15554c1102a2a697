"""Remedies for values that the schema refuses, where the rest of the file says which value is right."""

from __future__ import annotations

from emulator.gpu.profile_names import meant_profile
from emulator.labfile.checks.examples import (
    Addresses,
    example_bridge,
    example_subnet,
    example_subnet_v6,
    for_example,
    free_pod_network,
    free_service_network,
)
from emulator.labfile.checks.gpu import gpus_of, offered_profiles
from emulator.labfile.draft import Draft
from emulator.labfile.schema import FieldPath


def hint(draft: Draft, addresses: Addresses, path: FieldPath, text: str) -> str:
    """The remedy for a text at a path; empty where the schema's own example is as good.

    Args:
        addresses: those of the nodes, by role.
    """
    match path:
        case ("global", "networks", str() as key, str() as field):
            return _network_hint(draft, key, field)
        case ("clusters", "cloud", "kubernetes_config", "pod_subnet") if draft.kubernetes:
            return for_example(free_pod_network(draft, addresses))
        case ("clusters", "cloud", "kubernetes_config", "service_subnet") if draft.kubernetes:
            return for_example(free_service_network(draft))
        case ("global", "gpu_allocation", "devices", int() as index, "allowed_mig_profiles", int()):
            models = gpus_of(draft.gpu)
            places = (position for position, each in enumerate(draft.gpu.devices) if each.view.path[-1] == index)
            model = next((models[position] for position in places), None)
            return _profile_hint(text, model.profile_names if model else ())
        case (*_, "gpu", "profile") | ("global", "gpu_allocation", "mig_slices", _, _):
            return _profile_hint(text, sorted(offered_profiles(draft.gpu) or ()))
        case _:
            return ""


def _network_hint(draft: Draft, key: str, field: str) -> str:
    network = next((each for each in draft.networks.values() if each.key == key), None)
    if network is None:
        return ""
    match field:
        case "subnet":
            return example_subnet(draft, network)
        case "subnet_v6":
            return example_subnet_v6(draft, network)
        case "bridge":
            return example_bridge(draft, network)
        case _:
            return ""


def _profile_hint(text: str, names: tuple[str, ...] | list[str]) -> str:
    if not names:
        return ""
    near = meant_profile(text, names)
    return f"did you mean {near}?" if near else f"for example {names[0]}"
