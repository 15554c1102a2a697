"""The store of golden images: content-addressed directories and one pointer per name, shared by all labs."""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import re
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from emulator.errors import ConflictError, HyperscalerError, StateError, UsageError
from emulator.images.builder import BUILDER_VERSION, DISK, INITRD, KERNEL, LOG, BuildPhase, ImageBuilder, Progress
from emulator.images.manifest import MANIFEST_NAME, Artefact, Manifest, read_manifest
from emulator.images.recipe import NAME, Recipe, load_recipe, tree_digest
from emulator.images.sbom import SBOM_NAME, spdx
from emulator.images.store_files import artefact, digest_of, fsync, remove_tree
from emulator.ports import ProcessRunner, log
from emulator.units import MIB

_DIGEST_DIRECTORY = re.compile(r"[0-9a-f]{12}")
_WORK_PREFIX = ".work-"
_TRASH_PREFIX = ".trash-"
_CURRENT = "current"


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """A built image. The files are never written to: labs put qcow2 overlays on `disk`."""

    name: str
    digest: str
    directory: Path
    disk: Path
    kernel: Path
    initrd: Path
    manifest: Manifest

    @property
    def cmdline(self) -> tuple[str, ...]:
        """Kernel arguments that the image needs to boot; the host adds the guest's identity."""
        return self.manifest.cmdline


class ImageStore:
    """Images under `root`: `<name>/<digest>/` with the artefacts, and `<name>/current` that points to one of them.

    Readers need no lock: an image appears under its final name complete, and `current` changes in one step.
    Builds and removals of one name exclude each other, across processes.
    """

    def __init__(self, root: Path, runner: ProcessRunner, *, recipes: Path | None = None) -> None:
        """Open the store; nothing is read or written yet.

        Args:
            root: directory of the store; made when the first image is built.
            runner: runs the build tools.
            recipes: directory of the recipes; the product's own by default.
        """
        self.root = root
        self._runner = runner
        self._recipes = recipes

    # ------------------------------------------------------------ reading
    def current(self, name: str) -> GoldenImage | None:
        """The image that new guests of this name start from; None when there is none or its directory is gone."""
        _check_name(name)
        try:
            target = (self.root / name / _CURRENT).readlink().name
        except OSError:
            return None
        if not _DIGEST_DIRECTORY.fullmatch(target) or not (self.root / name / target).is_dir():
            return None
        return self._open(self.root / name / target)

    def list(self) -> tuple[GoldenImage, ...]:
        """Every readable image, by name and then the newest first. A damaged one is logged and left out."""
        found = []
        for directory in sorted(self.root.glob("*/*")):
            if not _DIGEST_DIRECTORY.fullmatch(directory.name) or not NAME.fullmatch(directory.parent.name):
                continue
            try:
                found.append(self._open(directory))
            except StateError as error:
                log.warning("image left out: %s", error)
        found.sort(key=lambda image: image.manifest.built_at, reverse=True)
        return tuple(sorted(found, key=lambda image: image.name))

    def show(self, ref: str) -> GoldenImage:
        """The current image of the name `ref`, or the image whose digest begins with `ref` (4 digits or more).

        Raises:
            UsageError: none or several match.
        """
        if NAME.fullmatch(ref):
            image = self.current(ref)
            if image is not None:
                return image
        matches = [image for image in self.list() if len(ref) >= 4 and image.digest.startswith(ref)]
        if len(matches) == 1:
            return matches[0]
        what = f"{ref!r} is the beginning of several digests" if matches else f"there is no image {ref!r}"
        raise UsageError(what, where=str(self.root), fix="list the images: hyperscaler image list")

    def verify(self, image: GoldenImage) -> builtins.list[str]:
        """Compare every artefact with the manifest; one line for each difference, none when all is well."""
        faults = []
        for name, expected in sorted(image.manifest.artefacts.items()):
            try:
                actual = artefact(image.directory / name)
            except OSError as error:
                faults.append(f"{name}: {error.strerror}")
                continue
            if actual != expected:
                faults.append(f"{name}: sha256 is {actual.sha256}, the manifest says {expected.sha256}")
        if digest_of(image.manifest.artefacts) != image.manifest.digest:
            faults.append(f"{MANIFEST_NAME}: its digest does not follow from its checksums")
        if not image.manifest.digest.startswith(image.directory.name):
            faults.append(f"{MANIFEST_NAME}: belongs to another image than its directory")
        return faults

    def needs_build(self, name: str, *, inputs: Mapping[str, Path] | None = None) -> str | None:
        """Why `build` would build, in words for the plan; None when the current image is what the recipe says.

        Checks that the artefacts are there with their sizes; `verify` reads them whole. Inputs that are not given
        count as unchanged, so that a lab can use an image on a host that could not build it.
        """
        recipe = load_recipe(name, self._recipes)
        try:
            image = self.current(name)
        except StateError as error:
            return error.what
        if image is None:
            return "not built yet"
        for artefact_name, expected in image.manifest.artefacts.items():
            path = image.directory / artefact_name
            if not path.is_file() or path.stat().st_size != expected.size:
                return f"{artefact_name} is missing or cut short"
        if image.manifest.builder_version != BUILDER_VERSION:
            return "built by another version of the builder"
        if image.manifest.recipe_digest != recipe.digest(builder_version=BUILDER_VERSION):
            return "its recipe has changed"
        for input_name, tree in (inputs or {}).items():
            if image.manifest.inputs.get(input_name) != tree_digest(tree):
                return f"its input {input_name} has changed"
        return None

    # ------------------------------------------------------------ changing
    def build(
        self, name: str, *, progress: Progress, inputs: Mapping[str, Path] | None = None, force: bool = False
    ) -> GoldenImage:
        """The image of this name as its recipe says: the current one if it is that, else a new one (`force`: always).

        Args:
            progress: called with phase and line, see `emulator.images.builder`.
            inputs: directory trees on this host for the names under the recipe's `inputs`.

        A build that fails or is interrupted leaves the store as it was, and its log under `failed.log`.
        A second builder of the same name waits and then finds the first one's image.

        Raises:
            HostNotFitError: not root, or a tool is missing.
            CommandError: a step failed.
        """
        recipe = load_recipe(name, self._recipes)
        inputs = inputs or {}
        with self._locked(name, progress):
            image = self.current(name) if self.needs_build(name, inputs=inputs) is None else None
            if image is not None and not force:
                return image
            self._sweep(name)
            return self._build(recipe, progress, inputs)

    def remove(self, ref: str, in_use: Collection[Path]) -> GoldenImage:
        """Remove one image and return what it was.

        Args:
            ref: name (its current image) or digest.
            in_use: base images that overlays of any lab stand on; a mapping may give the overlay for each.

        Raises:
            ConflictError: an overlay stands on the image, or a build of its name is running.
        """
        image = self.show(ref)
        with self._locked(image.name, None):
            user = _user(image, in_use)
            if user is not None:
                raise ConflictError(
                    f"image {image.name} {image.digest[:12]} is in use by {user}",
                    where=str(image.directory),
                    fix="destroy the lab first: hyperscaler destroy LAB",
                )
            self._discard(image)
        return image

    def gc(self, in_use: Collection[Path], keep: int) -> tuple[GoldenImage, ...]:
        """Remove images that are neither current, nor in use, nor among the `keep` newest of their name.

        Left-overs of interrupted builds go too. Returns the removed images.
        """
        removed = []
        for name in sorted({path.parent.name for path in self.root.glob("*/*") if NAME.fullmatch(path.parent.name)}):
            with self._locked(name, None):
                self._sweep(name)
                current = self.current(name)
                mine = [image for image in self.list() if image.name == name]
                for image in mine[max(keep, 0) :]:
                    if _user(image, in_use) is None and (current is None or image.digest != current.digest):
                        self._discard(image)
                        removed.append(image)
        return tuple(removed)

    # ------------------------------------------------------------ inner parts
    def _open(self, directory: Path) -> GoldenImage:
        manifest = read_manifest(directory / MANIFEST_NAME)
        if manifest.name != directory.parent.name or not manifest.digest.startswith(directory.name):
            raise StateError("the manifest belongs to another image", where=str(directory))
        return GoldenImage(
            name=manifest.name,
            digest=manifest.digest,
            directory=directory,
            disk=directory / DISK,
            kernel=directory / KERNEL,
            initrd=directory / INITRD,
            manifest=manifest,
        )

    def _build(self, recipe: Recipe, progress: Progress, inputs: Mapping[str, Path]) -> GoldenImage:
        started = time.monotonic()
        home = self.root / recipe.name
        work = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=home))
        out = work / "image"
        out.mkdir(mode=0o755)
        try:
            scratch = work / "scratch"
            # mmdebstrap runs apt's downloads as the user _apt, who must be able to enter.
            work.chmod(0o711)
            scratch.mkdir(mode=0o755)
            builder = ImageBuilder(recipe, scratch, out, self._runner, progress, inputs)
            built = builder.build()
            progress(BuildPhase.RECORD, "")
            artefacts = {name: artefact(out / name) for name in (DISK, KERNEL, INITRD)}
            _check_budget(recipe, artefacts[DISK])
            manifest = Manifest(
                name=recipe.name,
                digest=digest_of(artefacts),
                recipe_digest=recipe.digest(builder_version=BUILDER_VERSION),
                builder_version=BUILDER_VERSION,
                suite=recipe.suite,
                architecture=built.architecture,
                kernel_version=built.kernel_version,
                cmdline=recipe.cmdline,
                virtual_size=built.virtual_size,
                built_at=datetime.now(UTC).isoformat(timespec="seconds"),
                build_seconds=round(time.monotonic() - started, 1),
                artefacts=artefacts,
                description=recipe.description,
                packages={package.name: package.version for package in built.packages},
                tools=built.tools,
                inputs={name: tree_digest(tree) for name, tree in inputs.items()},
            )
            created = f"{manifest.built_at.removesuffix('+00:00')}Z"
            (out / SBOM_NAME).write_text(
                spdx(recipe.name, built.packages, digest=manifest.digest, suite=recipe.suite, created=created),
                encoding="utf-8",
            )
            return self._publish(home, out, manifest)
        except BaseException:
            with contextlib.suppress(OSError):
                (out / LOG).replace(home / "failed.log")
            raise
        finally:
            remove_tree(work)

    def _publish(self, home: Path, out: Path, manifest: Manifest) -> GoldenImage:
        (out / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        for path in out.iterdir():
            # The log may quote a package source with a password in it.
            path.chmod(0o600 if path.name == LOG else 0o444)
            fsync(path)
        fsync(out)
        final = home / manifest.digest[:12]
        if final.exists():
            remove_tree(final) if self._is_damaged(final) else remove_tree(out)
        if out.exists():
            out.rename(final)
        pointer = home / f"{_WORK_PREFIX}pointer"
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(final.name)
        pointer.replace(home / _CURRENT)
        fsync(home)
        return self._open(final)

    def _is_damaged(self, directory: Path) -> bool:
        try:
            return bool(self.verify(self._open(directory)))
        except StateError:
            return True

    def _discard(self, image: GoldenImage) -> None:
        current = self.root / image.name / _CURRENT
        with contextlib.suppress(OSError):
            if current.readlink().name == image.directory.name:
                current.unlink()
        trash = image.directory.with_name(f"{_TRASH_PREFIX}{image.directory.name}")
        image.directory.rename(trash)
        remove_tree(trash)

    def _sweep(self, name: str) -> None:
        """Remove what interrupted builds and removals of this name left behind. The caller holds the lock."""
        for path in (self.root / name).iterdir():
            if path.name.startswith((_WORK_PREFIX, _TRASH_PREFIX)):
                remove_tree(path)

    @contextlib.contextmanager
    def _locked(self, name: str, progress: Progress | None) -> Iterator[None]:
        """Hold the lock of one name; with `progress` wait for it, without raise `ConflictError`."""
        _check_name(name)
        home = self.root / name
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (home / ".lock").open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if progress is None:
                    raise ConflictError(
                        f"image {name} is being built or removed by another process",
                        where=str(home),
                        fix="wait for it and try again",
                    ) from None
                progress(BuildPhase.WAIT, "")
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of an image", fix="use lower-case letters, digits and '-'")


def _check_budget(recipe: Recipe, disk: Artefact) -> None:
    if recipe.max_image_mib and disk.size > recipe.max_image_mib * MIB:
        raise HyperscalerError(
            f"the disk of {recipe.name} has {disk.size // MIB} MiB; its budget is {recipe.max_image_mib} MiB",
            where="max_image_mib",
            fix="take something out of the recipe, or raise the budget",
        )


def _user(image: GoldenImage, in_use: Collection[Path]) -> str | None:
    """What stands on the image: the overlay if the caller knows it, else the base file itself."""
    for base in in_use:
        if base.resolve().is_relative_to(image.directory.resolve()):
            return str(in_use[base]) if isinstance(in_use, Mapping) else f"an overlay of {base}"
    return None
