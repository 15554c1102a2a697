"""Which Kubernetes the product can install, by where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from emulator.labfile.findings import quoted

# Minor versions that are compiled from Go modules; each has a directory in config/kubernetes/modules.
MODULE_MINORS = ("1.36", "1.37")
# Add-ons that are compiled with each of them.
MODULE_ADDONS = ("kube-network-policies", "local-path", "metrics-server")
# What is compiled for a lab that asks for it, and add-ons among it.
MODULE_EXTRAS = ("helm", "lab-ingress")
MODULE_EXTRA_ADDONS = ("lab-ingress",)
# Minor versions of the Kubernetes project's packages that are set up: those that the project maintains.
UPSTREAM_MINORS = ("1.34", "1.35", "1.36", "1.37")
BUNDLE_MINORS = tuple(sorted({*UPSTREAM_MINORS, *MODULE_MINORS}))
# kubelet talks to containerd 2 alone from this minor version on; nodes of releases without any have Debian 12's 1.6.
CONTAINERD_2_SINCE = "1.36"

_FORM = re.compile(r"v?(\d{1,2}\.\d{1,3})(?:\.\d{1,3})?\Z", re.ASCII)


def minor_of(version: str) -> str | None:
    """`v1.31.4` -> `1.31`; None when it is no version."""
    match = _FORM.match(version)
    return match[1] if match else None


def is_full_version(version: str) -> bool:
    """Whether it names one release: 1.31.4 does, 1.31 does not."""
    return minor_of(version) is not None and version.count(".") == 2


def is_asked_for(version: str, asked: str) -> bool:
    """Whether the release `version` (1.31.4) is what a lab file asks for: 1.31 takes any 1.31.x, nothing takes all."""
    asked = asked.removeprefix("v")
    return not asked or version == asked or version.startswith(f"{asked}.")


def is_way(have: str, to: str) -> bool:
    """Whether a cluster with the release `have` (1.36.5) may be upgraded to `to` (1.37, 1.37.2): kubeadm goes to the
    next minor version, and to later patch releases of its own."""
    if minor_of(have) is None or minor_of(to) is None:
        return False
    now, then = _numbers(have), _numbers(to)
    return then[0] == now[0] and 0 <= then[1] - now[1] <= 1 and then > now[: len(then)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("v").split("."))


def supported_minors(source: str) -> tuple[str, ...]:
    """Minor versions that a source can give; `auto` offers what any of them does."""
    by_source: Mapping[str, tuple[str, ...]] = {
        "modules": MODULE_MINORS,
        "upstream": UPSTREAM_MINORS,
    }
    return by_source.get(source, BUNDLE_MINORS)


def version_fault(version: str, source: str) -> tuple[str, str] | None:
    """Why no Kubernetes of this version can come from a source, and the fix; None when one can.

    Args:
        version: `1.31`, `1.31.4`, or empty for any.
        source: as `kubernetes_config.source`.
    """
    if not version:
        return None
    minor = minor_of(version)
    minors = supported_minors(source)
    if minor is None:
        example = minors[-1]
        return (
            f"{quoted(version)} is not a version",
            f"write for example {example} or {example}.2; supported: {', '.join(minors)}",
        )
    if minor not in minors:
        origin = "any source" if source == "auto" else quoted(source)
        return (
            f"Kubernetes {version} is not supported from {origin}",
            f"write for example {minors[-1]}; supported: {', '.join(minors)}",
        )
    return None
