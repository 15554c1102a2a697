"""Brings a build into the store: makes artefacts in a work directory, describes them, publishes them in one step."""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from emulator.core.errors import HyperscalerError
from emulator.core.fs import remove_tree, sync
from emulator.core.units import MIB
from emulator.images.build.builder import BUILDER_VERSION, DISK, INITRD, KERNEL, LOG, BuildPhase, Built, Progress
from emulator.images.build.input_tree import Inputs
from emulator.images.recipe import Recipe
from emulator.images.store.checksums import artefact, digest_of
from emulator.images.store.manifest import MANIFEST_NAME, Artefact, Manifest
from emulator.images.store.pointers import CURRENT, HELD, PREVIOUS, Pointers
from emulator.images.supply_chain.sbom import SBOM_NAME, spdx

WORK_PREFIX = ".work-"

# Makes the artefacts: the recipe's scratch directory, and the directory for the results.
Maker = Callable[[Path, Path], Built]


def make_image(
    home: Path,
    recipe: Recipe,
    make: Maker,
    *,
    inputs: Inputs,
    progress: Progress,
    damaged: Callable[[Path], bool],
) -> Path:
    """Make an image and publish it as the current one; its directory. The caller holds the lock of the name.

    Args:
        home: directory of the name in the store.
        recipe: of the image.
        make: makes the artefacts.
        inputs: the trees that went in.
        progress: see `emulator.images.build.builder`.
        damaged: whether a published image is not what its manifest says.

    A failure leaves nothing but the log, as `failed.log`.
    """
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=home))
    out = work / "image"
    out.mkdir(mode=0o755)
    try:
        scratch = work / "scratch"
        _let_apt_enter(work)
        scratch.mkdir(mode=0o755)
        built = make(scratch, out)
        progress(BuildPhase.RECORD, "")
        manifest = _described(recipe, built, out, inputs, started)
        return _publish(home, out, manifest, damaged)
    except BaseException:
        with contextlib.suppress(OSError):
            (out / LOG).replace(home / "failed.log")
        raise
    finally:
        remove_tree(work)


def _let_apt_enter(work: Path) -> None:
    """mmdebstrap runs apt's downloads as the user _apt. No one else has access: the tree that is made holds the package
    sources until it is finished, with their passwords."""
    try:
        group = pwd.getpwnam("_apt").pw_gid
    except KeyError:  # no apt here, or one that downloads as root
        return
    with contextlib.suppress(PermissionError):  # not root: then nothing is built here
        os.chown(work, -1, group)
        work.chmod(0o710)


def _described(recipe: Recipe, built: Built, out: Path, inputs: Inputs, started: float) -> Manifest:
    """The manifest; the bill of materials is written next to it."""
    artefacts = {name: artefact(out / name) for name in (DISK, KERNEL, INITRD)}
    _check_budget(recipe, artefacts[DISK], inputs.size)
    digest = digest_of(artefacts)
    built_at = datetime.now(UTC).isoformat(timespec="seconds")
    bill = spdx(
        recipe.name,
        built.packages,
        digest=digest,
        suite=recipe.suite,
        created=f"{built_at.removesuffix('+00:00')}Z",
        inputs=inputs.digests,
    )
    (out / SBOM_NAME).write_text(bill, encoding="utf-8")
    return Manifest(
        name=recipe.name,
        digest=digest,
        recipe_digest=recipe.digest(builder_version=BUILDER_VERSION),
        builder_version=BUILDER_VERSION,
        suite=recipe.suite,
        architecture=built.architecture,
        kernel_version=built.kernel_version,
        cmdline=recipe.cmdline,
        virtual_size=built.virtual_size,
        built_at=built_at,
        build_seconds=round(time.monotonic() - started, 1),
        artefacts=artefacts,
        description=recipe.description,
        packages={package.name: package.version for package in built.packages},
        tools=built.tools,
        inputs=inputs.digests,
        versions=built.versions,
        records={SBOM_NAME: artefact(out / SBOM_NAME)},
    )


def _publish(home: Path, out: Path, manifest: Manifest, damaged: Callable[[Path], bool]) -> Path:
    (out / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    for path in out.iterdir():
        # The log may quote a package source with a password in it.
        path.chmod(0o600 if path.name == LOG else 0o444)
        sync(path)
    sync(out)
    final = home / manifest.digest[:12]
    if final.exists():
        remove_tree(final) if damaged(final) else remove_tree(out)
    if out.exists():
        out.rename(final)
    pointers = Pointers(home)
    before = pointers.read(CURRENT)
    # The way back first: should this be the last step that is taken, nothing has changed.
    if before is not None and before != final.name:
        pointers.set(PREVIOUS, before)
    pointers.set(CURRENT, final.name)
    pointers.drop(HELD)
    return final


def _check_budget(recipe: Recipe, disk: Artefact, inputs: int) -> None:
    """Check the recipe's own part only: the size of the inputs depends on the lab that asks for them."""
    own = max(disk.size - inputs, 0)
    if recipe.max_image_mib and own > recipe.max_image_mib * MIB:
        without = f" without its inputs ({inputs // MIB} MiB)" if inputs else ""
        raise HyperscalerError(
            f"the disk of {recipe.name} has {own // MIB} MiB{without}; its budget is {recipe.max_image_mib} MiB",
            where="max_image_mib",
            fix="take something out of the recipe, or raise the budget",
        )
