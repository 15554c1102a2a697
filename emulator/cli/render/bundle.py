"""Offline bundles as text and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emulator.cli.output import print_json, say
from emulator.core.units import human_bytes
from emulator.kubernetes.release.release import ReleaseManifest


def print_bundle(manifest: ReleaseManifest, path: Path, *, as_json: bool, verdict: str, signer: str = "") -> None:
    """What is in the bundle at `path`; `verdict` says what is known of it, `signer` whose signature was found good."""
    fields: dict[str, Any] = {
        "path": str(path),
        "verdict": verdict,
        "signed_by": signer,
        "kubernetes": manifest.version,
        "architecture": manifest.architecture,
        "origin": manifest.origin,
        "digest": manifest.digest,
        "addons": list(manifest.addons),
        "fetched": dict(manifest.fetched),
        "images": list(manifest.images),
    }
    if as_json:
        print_json({"version": 1, **fields, "size": sum(file.size for file in manifest.files.values())})
        return
    size = human_bytes(sum(file.size for file in manifest.files.values()))
    say(f"{path}: {verdict}{f', signed by {signer}' if signer else ''}")
    say(f"  Kubernetes {manifest.version} for {manifest.architecture}, {size}, {manifest.origin}")
    say(f"  digest: {manifest.digest}")
    say(f"  add-ons: {', '.join(manifest.addons) or 'none'}")
    for addon, sha256 in manifest.fetched.items():
        say(f"  {addon}: manifest fetched with sha256 {sha256}")
    for image in manifest.images:
        say(f"  image {image}")
