"""Which Kubernetes the product can install, by where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
