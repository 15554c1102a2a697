"""Which Kubernetes the product can install, by where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from emulator.labfile.findings import quoted

# Debian 12's source package `kubernetes` is 1.20.5+really1.20.2.
DEBIAN_SOURCE_VERSION = "1.20.2"
# Minor versions in the Kubernetes project's archive for which kubeadm's configuration is rendered and tested
# (kubeadm v1beta3 up to 1.30, v1beta4 from 1.31 on).
UPSTREAM_MINORS = ("1.28", "1.29", "1.30", "1.31", "1.32", "1.33", "1.34")
BUNDLE_MINORS = ("1.20", *UPSTREAM_MINORS)

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


def supported_minors(source: str) -> tuple[str, ...]:
    """Minor versions that a source can give; `auto` offers what any of them does."""
    by_source: Mapping[str, tuple[str, ...]] = {
        "debian-source": ("1.20",),
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
        example = "1.31 or 1.31.4" if "1.31" in minors else DEBIAN_SOURCE_VERSION
        return f"{quoted(version)} is not a version", f"write for example {example}; supported: {', '.join(minors)}"
    if minor not in minors:
        origin = "any source" if source == "auto" else quoted(source)
        return f"Kubernetes {version} is not supported from {origin}", f"supported: {', '.join(minors)}"
    if source == "debian-source" and not _is_debians(version):
        return (
            f"Debian's source package is Kubernetes {DEBIAN_SOURCE_VERSION}, not {version}",
            f"write {DEBIAN_SOURCE_VERSION}, or remove the key",
        )
    if source == "auto" and minor not in UPSTREAM_MINORS and not _is_debians(version):
        return (
            f"no source gives Kubernetes {version}: Debian's source package is {DEBIAN_SOURCE_VERSION}, and upstream"
            f" has {UPSTREAM_MINORS[0]} to {UPSTREAM_MINORS[-1]}",
            f"write {DEBIAN_SOURCE_VERSION} or for example {UPSTREAM_MINORS[-1]}, or remove the key",
        )
    return None


def _is_debians(version: str) -> bool:
    return version.removeprefix("v") in (minor_of(DEBIAN_SOURCE_VERSION), DEBIAN_SOURCE_VERSION)
