"""hyperscaler bundle create|sign|verify|show"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emulator.cli.lazy_group import VerbsGroup
from emulator.cli.options import load
from emulator.cli.output import json_option
from emulator.cli.render.progress import reporting
from emulator.cli.signals import ended_by_signals
from emulator.core.errors import UsageError
from emulator.core.progress import Event, Status

if TYPE_CHECKING:
    from emulator.kubernetes.release.image_input import Bundles
    from emulator.kubernetes.release.release import ReleaseManifest
    from emulator.labfile.model import KubernetesSpec

path_argument = click.argument("path", type=click.Path(path_type=Path))


@click.group("bundle", cls=VerbsGroup)
def command() -> None:
    """Kubernetes in one file, for hosts without internet access (source: bundle:PATH)."""


@command.command("create")
@path_argument
@click.option("--file", "file", type=click.Path(path_type=Path), help="Pack what this lab file asks for.")
@click.option("--source", type=click.Choice(["auto", "upstream", "modules"]), help="Instead of the file's.")
@click.option("--version", "version", metavar="VERSION", help="Such as 1.37 or 1.37.2, instead of the file's.")
@click.option("--sign", "key", type=click.Path(path_type=Path), metavar="KEY", help="Sign it with this ssh key.")
@json_option
def create(
    path: Path, *, file: Path | None, source: str | None, version: str | None, key: Path | None, as_json: bool
) -> None:
    """Write programs, container images and manifests of a Kubernetes release to PATH, and with --sign a signature."""
    wants = _wants(file)
    wants = dataclasses.replace(wants, source=source or wants.source, version=version or wants.version)
    bundles = _bundles()
    with ended_by_signals(lambda: bundles.left_of(wants, path)), reporting(live=True) as reporter:

        def progress(step: str, line: str) -> None:
            reporter.event(Event("bundle", path.name, Status.RUNNING, f"{step}: {line}" if line else step))

        manifest = bundles.create(wants, path, key=key, progress=progress)
    _print_bundle(manifest, path, as_json=as_json, verdict="written")


@command.command("sign")
@path_argument
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="ssh private key, or an agent's public key."
)
@json_option
def sign(path: Path, *, key: Path, as_json: bool) -> None:
    """Check all that is in the bundle PATH and sign it with an ssh key. The signature goes to PATH.sig."""
    _print_bundle(_bundles().sign(path, key), path, as_json=as_json, verdict="whole and signed")


@command.command("verify")
@path_argument
@click.option(
    "--signers",
    type=click.Path(path_type=Path),
    help="Allowed signers, one of whom must have signed it. Default: the host's trusted-signers, if there are any.",
)
@json_option
def verify(path: Path, *, signers: Path | None, as_json: bool) -> None:
    """Compare everything in the bundle PATH with its manifest, and see whether labs can be provisioned from it.

    Exit 1 and every fault if it differs, is not signed as it has to be, or what keeps it from being of use.
    """
    manifest, signer = _bundles().verify(path, signers)
    _print_bundle(manifest, path, as_json=as_json, verdict="whole", signer=signer)


@command.command("show")
@path_argument
@json_option
def show(path: Path, *, as_json: bool) -> None:
    """Show the manifest of the bundle PATH; nothing else in it is read."""
    _print_bundle(_bundles().show(path), path, as_json=as_json, verdict="not verified")


def _bundles() -> Bundles:
    from emulator.wiring import bundles_of_host

    return bundles_of_host()


def _wants(file: Path | None) -> KubernetesSpec:
    from emulator.labfile.model import KubernetesSpec

    if file is None:
        return KubernetesSpec()
    spec = load(file).spec
    if spec.kubernetes is None:
        raise UsageError("the lab has no Kubernetes cluster", where=str(file), fix="give a file with clusters.cloud")
    return spec.kubernetes


def _print_bundle(manifest: ReleaseManifest, path: Path, *, as_json: bool, verdict: str, signer: str = "") -> None:
    from emulator.cli.render.bundle import print_bundle

    print_bundle(manifest, path, as_json=as_json, verdict=verdict, signer=signer)
