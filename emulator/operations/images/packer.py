"""Packer's way to an image: the files that its template needs, and the disk that it leaves."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from emulator.apply.domain_drift import SSH_CREDENTIAL
from emulator.core.debian.releases import split_release
from emulator.core.errors import HostNotFitError, HyperscalerError, UsageError
from emulator.core.progress import Event, Reporter, Status
from emulator.core.trust.owners import require_own
from emulator.images.build.apt_sources import AptSources, host_sources
from emulator.images.build.builder import BuildPhase
from emulator.images.lab_images import LabImages
from emulator.images.packer.files import VARIABLES_NAME, Machine, prepare_directory, template_path, write_packer_files
from emulator.images.packer.record import RECORD_NAME, read_record
from emulator.images.recipe import load_recipe
from emulator.images.store.golden_image import GoldenImage
from emulator.lab.environment import Environment
from emulator.labfile.model import Acceleration, SshSpec

BASE = "debian-base"
# Enough for apt and a database's first start; more does not make the build faster.
_CPUS, _MEMORY_MIB = 2, 2048
_ROOTS_OWN = (
    "run `image packer-files` and Packer as root too, in a new directory; a disk that you trust can be copied into a"
    " directory of root's own and named with --disk"
)


def build_command(variables: Path) -> str:
    """The command that makes the image from what `write_files` wrote, as it can be pasted."""
    return shlex.join(("packer", "build", "-only=qemu.base", f"-var-file={variables}", str(template_path())))


def write_files(
    env: Environment,
    images: LabImages,
    name: str,
    directory: Path,
    reporter: Reporter,
    *,
    base: str = BASE,
    passwords: bool = False,
) -> Path:
    """Write what the template `packer/image.pkr.hcl` needs into a new directory; the file of variables.

    Args:
        env: this host.
        images: the store, and the inputs of recipes.
        name: of the recipe.
        directory: absent, or empty and this user's own; it is made readable by its owner only, since it holds
            Packer's key.
        reporter: for the progress of images that have to be built first.
        base: the image that the template's source `base` starts from, built if it is a recipe's and missing; for the
            default, that of the recipe's release.
        passwords: write package sources and a proxy that hold one, too.

    Raises:
        ConflictError: another account could change what will be in the directory.
        HyperscalerError: a source or proxy of this host holds a password, and `passwords` is not set.
    """
    recipe = load_recipe(name)
    sources = host_sources(env.runner, suite=recipe.suite, components=recipe.components)
    if not passwords:
        _require_no_password(sources)
    acceleration = env.accelerate(Acceleration.AUTO)
    start = _base(images, f"{BASE}{_suffix(name)}" if base == BASE else base, reporter)

    def note(line: str) -> None:
        reporter.event(Event("image", name, Status.RUNNING, line))

    inputs = images.inputs(name, note)
    directory = prepare_directory(directory)
    key = directory / "ssh" / "id"
    env.runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], timeout=60)
    write_packer_files(
        directory,
        recipe,
        inputs=inputs,
        sources=sources,
        base=start,
        machine=Machine(
            accelerated=acceleration.accelerated,
            cpus=min(_CPUS, os.cpu_count() or 1),
            memory_mib=_MEMORY_MIB,
            credential=SSH_CREDENTIAL,
            user=SshSpec().user,
        ),
        public_key=key.with_suffix(".pub").read_text(encoding="ascii").strip(),
    )
    return directory / VARIABLES_NAME


def _require_no_password(sources: AptSources) -> None:
    """`qemu.installer` gets its files over HTTP from Packer, which asks nobody who they are."""
    found = sources.with_account()
    if found:
        raise HyperscalerError(
            "a package source or proxy of this host holds a user name or password, and while Packer builds"
            " qemu.installer every account of this host can fetch it from Packer's HTTP server",
            where="; ".join(found),
            fix="use a source and proxy without one for the build; or add --with-passwords and build qemu.base only,"
            " which is given its files over ssh",
        )


def _suffix(name: str) -> str:
    """What names of images of the same release end with: a build starts from its own release."""
    _, release = split_release(name)
    return f"-{release}" if release else ""


def _base(images: LabImages, base: str, reporter: Reporter) -> GoldenImage:
    image = images.current(base)
    if image is not None and images.needs_build(base) is None:
        return image
    reporter.event(Event("image", base, Status.STARTED, "Packer starts from it"))

    def show(line: str) -> None:
        reporter.event(Event("image", base, Status.RUNNING, line))

    built = images.build(base, progress=show)
    reporter.event(Event("image", base, Status.DONE, built.digest[:12], built.manifest.build_seconds))
    return built


def import_disk(
    env: Environment, images: LabImages, directory: Path, disk: Path | None, reporter: Reporter
) -> GoldenImage:
    """Take the disk of a Packer build into the store, as the current image of its name.

    Args:
        env: this host.
        images: the store.
        directory: what `write_files` wrote, where the templates also leave the disk.
        disk: another place of the disk.
        reporter: for the progress.

    Raises:
        HostNotFitError: not root.
        UsageError: there is no disk, or there are two.
        ConflictError: another account could have written the disk, or the record next to it.
    """
    if os.geteuid() != 0:
        raise HostNotFitError("only root can change the image store", fix="run the same command with sudo")
    record = read_record(directory)
    if disk is None:
        found = sorted(directory.glob("output-*/disk.qcow2"))
        if len(found) != 1:
            what = "there are several disks in" if found else "there is no disk in"
            raise UsageError(f"{what} the directory", where=str(directory), fix="name one with --disk")
        disk = found[0]
    if not disk.is_file():
        raise UsageError("there is no such disk", where=str(disk))
    # The writer of these decides what runs as root in every guest of the image.
    for path in (directory / RECORD_NAME, disk):
        require_own(path, fix=_ROOTS_OWN)

    def show(phase: BuildPhase, line: str) -> None:
        reporter.event(Event("image", record.name, Status.RUNNING, f"{phase.value}: {line}" if line else phase.value))

    made_by = {"packer": _packer_version(env)}
    reporter.event(Event("image", record.name, Status.STARTED, str(disk)))
    image = images.store.import_disk(disk.absolute(), record, made_by=made_by, progress=show)
    reporter.event(Event("image", record.name, Status.DONE, image.digest[:12], image.manifest.build_seconds))
    return image


def _packer_version(env: Environment) -> str:
    """Of the Packer on this host; the disk may have been made on another one."""
    try:
        said = env.runner.run(["packer", "version"], timeout=60, check=False).stdout
    except HostNotFitError:
        return "unknown"
    return said.split("\n", 1)[0].removeprefix("Packer v").strip() or "unknown"
