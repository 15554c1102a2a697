"""Checks whether this version of the program can set up a bundle's release in any lab."""

from __future__ import annotations

from emulator.kubernetes.release.release import (
    ARCHITECTURE,
    ReleaseError,
    ReleaseManifest,
    brings_containerd,
    misnamed_images,
    missing_images,
)
from emulator.labfile.kubernetes_versions import BUNDLE_MINORS, CONTAINERD_2_SINCE, minor_of

_MAKE_ANEW = "make the bundle anew: hyperscaler bundle create"


def require_usable(manifest: ReleaseManifest, *, where: str) -> None:
    """Raises: ReleaseError when no lab could be provisioned from a bundle with this manifest; it says why."""
    if minor_of(manifest.version) not in BUNDLE_MINORS:
        raise ReleaseError(
            f"the bundle holds Kubernetes {manifest.version}, which this version of the program cannot set up",
            where=where,
            fix=f"take a bundle of one of {', '.join(BUNDLE_MINORS)}",
        )
    if manifest.architecture != ARCHITECTURE:
        raise ReleaseError(
            f"the bundle is for {manifest.architecture}, and the nodes are {ARCHITECTURE}",
            where=where,
            fix=f"make the bundle on an {ARCHITECTURE} machine: hyperscaler bundle create",
        )
    if (minor_of(manifest.version) or "") >= CONTAINERD_2_SINCE and not brings_containerd(manifest):
        raise ReleaseError(
            f"the bundle lacks containerd 2, which Kubernetes {manifest.version} needs", where=where, fix=_MAKE_ANEW
        )
    missing = missing_images(manifest)
    if missing:
        raise ReleaseError(
            f"the bundle lacks container images that a cluster needs: {', '.join(missing)}", where=where, fix=_MAKE_ANEW
        )
    misnamed = misnamed_images(manifest)
    if misnamed:
        raise ReleaseError(
            f"the bundle names images for what they are not: {', '.join(misnamed)}", where=where, fix=_MAKE_ANEW
        )
