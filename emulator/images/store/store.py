"""The store of golden images: content-addressed directories and one pointer per name, shared by all labs."""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from emulator.core.errors import ConflictError, StateError, UsageError
from emulator.core.fs import remove_tree
from emulator.core.locking import acquire
from emulator.core.ports import ProcessRunner, log
from emulator.core.trust.opening import open_own
from emulator.images.build.builder import (
    BUILDER_VERSION,
    DISK,
    INITRD,
    KERNEL,
    BuildPhase,
    Built,
    ImageBuilder,
    Progress,
)
from emulator.images.build.input_tree import Inputs, described, input_digest
from emulator.images.packer.importer import ImageImporter
from emulator.images.packer.record import PackerRecord
from emulator.images.recipe import NAME, Recipe, load_recipe
from emulator.images.store.builds import WORK_PREFIX, Maker, make_image
from emulator.images.store.checksums import artefact, digest_of
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.manifest import MANIFEST_NAME, read_manifest
from emulator.images.store.pointers import CURRENT, DIGEST_DIRECTORY, HELD, Pointers
from emulator.images.store.refs import parse_reference

_TRASH_PREFIX = ".trash-"
_LOCK_SECONDS = 7200.0
"""How long one may wait for another build of the image: two hours, on the slowest of hosts."""
_USE_SECONDS = 600.0
"""How long one may wait for disks that are made on an image, or for a removal: checking a signature reads it whole."""

UsedImages = Callable[[], Collection[Path]]
"""Base images that overlays of any lab stand on; a mapping may give the overlay for each."""


class ImageStore:
    """Images under `root`: `<name>/<digest>/` with the artefacts, and `<name>/current` that points to one of them.

    Readers need no lock: an image appears under its final name complete, and `current` changes in one step.
    Builds and removals of one name exclude each other, across processes; so do removals and those who are about to put
    a disk on an image (`kept`), whom a build does not hinder.
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
    def current(self, ref: str) -> GoldenImage | None:
        """The image that new guests of this name start from, or the one that `NAME:TAG` or `NAME@DIGEST` means.

        None when there is none or its directory is gone.
        """
        reference = parse_reference(ref)
        if reference is None:
            raise UsageError(
                f"{ref!r} cannot be the name of an image",
                fix="use lower-case letters, digits and '-', and NAME:TAG or NAME@DIGEST for a certain build",
            )
        home = self.root / reference.name
        pointers = Pointers(home)
        build: str | None
        if reference.tag:
            build = pointers.tag(reference.tag)
        elif reference.digest:
            build = reference.digest[:12] if len(reference.digest) >= 12 else self._beginning(home, reference.digest)
            build = build if build is not None and (home / build).is_dir() else None
        else:
            build = pointers.read(CURRENT)
        image = self.open(home / build) if build is not None else None
        if image is not None and not image.digest.startswith(reference.digest):
            return None
        return image

    def pointers(self, name: str) -> Pointers:
        """The targets of `current`, `previous` and the tags of a name."""
        _check_name(name)
        return Pointers(self.root / name)

    def list(self) -> tuple[GoldenImage, ...]:
        """Every readable image, by name and then the newest first. A damaged one is logged and left out."""
        found = []
        for directory in sorted(self.root.glob("*/*")):
            if not DIGEST_DIRECTORY.fullmatch(directory.name) or not NAME.fullmatch(directory.parent.name):
                continue
            try:
                found.append(self.open(directory))
            except StateError as error:
                log.warning("image left out: %s", error)
        found.sort(key=lambda image: image.manifest.built_at, reverse=True)
        return tuple(sorted(found, key=lambda image: image.name))

    def show(self, ref: str) -> GoldenImage:
        """The current image of the name `ref`, that of `NAME:TAG`, or the one whose digest begins with `ref`.

        Raises:
            UsageError: none or several match; a digest needs 4 digits or more.
        """
        if parse_reference(ref) is not None:
            image = self.current(ref)
            if image is not None:
                return image
        matches = [image for image in self.list() if len(ref) >= 4 and image.digest.startswith(ref)]
        if len(matches) == 1:
            return matches[0]
        what = f"{ref!r} is the beginning of several digests" if matches else f"there is no image {ref!r}"
        raise UsageError(what, where=str(self.root), fix="list the images: hyperscaler image list")

    def verify(self, image: GoldenImage) -> builtins.list[str]:
        """Compare every file with the manifest; one line for each difference, none when all is well."""
        faults = []
        for name, expected in sorted({**image.manifest.artefacts, **image.manifest.records}.items()):
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

    def needs_build(self, ref: str, *, inputs: Mapping[str, Path] | None = None, held: bool = True) -> str | None:
        """Why `build` would build, in words for the plan; None if the current image matches the recipe.

        Checks that the artefacts are there with their sizes; `verify` reads them whole. Inputs that are not given
        count as unchanged, so that a lab can use an image on a host that could not build it.

        Args:
            ref: a name, or a certain build of it, for which the recipe does not count.
            inputs: trees that the recipe names.
            held: whether an image chosen by a rollback counts as up to date.
        """
        try:
            image = self.current(ref)
        except StateError as error:
            return error.what
        reference = parse_reference(ref)
        fixed = reference is not None and reference.fixed
        if image is None:
            return "there is no such build in the store" if fixed else "not built yet"
        for artefact_name, expected in image.manifest.artefacts.items():
            path = image.directory / artefact_name
            if not path.is_file() or path.stat().st_size != expected.size:
                return f"{artefact_name} is missing or cut short"
        if fixed or (held and self.pointers(image.name).read(HELD) == image.directory.name):
            return None
        if image.manifest.builder_version != BUILDER_VERSION:
            return "built by another version of the builder"
        recipe = load_recipe(image.name, self._recipes)
        if image.manifest.recipe_digest != recipe.digest(builder_version=BUILDER_VERSION):
            return "its recipe has changed"
        for input_name, tree in (inputs or {}).items():
            if image.manifest.inputs.get(input_name) != input_digest(tree):
                return f"its input {input_name} has changed"
        return None

    # ------------------------------------------------------------ changing
    def build(
        self, name: str, *, progress: Progress, inputs: Mapping[str, Path] | None = None, force: bool = False
    ) -> GoldenImage:
        """The image of this name as its recipe says: the current one if it is that, else a new one (`force`: always).

        Args:
            progress: called with phase and line, see `emulator.images.build.builder`.
            inputs: directory trees on this host for the names under the recipe's `inputs`.

        A build that fails or is interrupted leaves the store as it was, and its log under `failed.log`.
        A second builder of the same name waits and then finds the first one's image.

        Raises:
            HostNotFitError: not root, or a tool is missing.
            CommandError: a step failed.
        """
        recipe = load_recipe(name, self._recipes)
        inputs = inputs or {}
        with self.locked(name, progress):
            if not force and self.needs_build(name, inputs=inputs, held=False) is None:
                image = self.current(name)
                if image is not None:
                    return image

            def make(scratch: Path, out: Path) -> Built:
                return ImageBuilder(recipe, scratch, out, self._runner, progress, inputs).build()

            return self._make(recipe, make, described(inputs), progress)

    def import_disk(
        self, disk: Path, record: PackerRecord, *, made_by: Mapping[str, str], progress: Progress
    ) -> GoldenImage:
        """Take a disk that Packer made as the current image of its name; see `emulator.images.packer.importer`.

        Args:
            disk: a qcow2, which is read only.
            record: what the files that Packer worked with were written from.
            made_by: the tool and its version, for the manifest.
            progress: as for `build`.

        Raises:
            UsageError: there is no such recipe.
            ConflictError: the recipe has changed since the files were written.
            HyperscalerError: the disk is no finished image.
        """
        recipe = load_recipe(record.name, self._recipes)
        now = (BUILDER_VERSION, recipe.digest(builder_version=BUILDER_VERSION))
        if (record.builder_version, record.recipe_digest) != now:
            raise ConflictError(
                f"the recipe of {recipe.name} has changed since Packer's files were written",
                where=str(disk),
                fix=f"write them again with `hyperscaler image packer-files {recipe.name} DIR` and run Packer again",
            )
        with self.locked(recipe.name, progress):

            def make(scratch: Path, out: Path) -> Built:
                return ImageImporter(recipe, disk, scratch, out, self._runner, progress, made_by).build()

            return self._make(recipe, make, Inputs(record.inputs, record.input_bytes), progress)

    def remove(self, ref: str, in_use: UsedImages) -> GoldenImage:
        """Remove one image and return what it was.

        Args:
            ref: name (its current image) or digest.
            in_use: called when no new disk can be put on the image any more.

        Raises:
            ConflictError: an overlay stands on the image, or a build of its name is running.
        """
        image = self.show(ref)
        with self.locked(image.name), self._unused(image.name):
            user = _user(image, in_use())
            if user is not None:
                raise ConflictError(
                    f"image {image.name} {image.digest[:12]} is in use by {user}",
                    where=str(image.directory),
                    fix="destroy the lab first: hyperscaler destroy LAB",
                )
            self._discard(image)
        return image

    def gc(self, in_use: UsedImages, keep: int, *, chosen: bool = False) -> tuple[GoldenImage, ...]:
        """Remove images that are neither current, nor in use, nor among the `keep` newest of their name.

        Images with a tag, and those that a rollback left or returns to, go only with `chosen`. Left-overs of
        interrupted builds go too. Returns the removed images.
        """
        removed = []
        for name in sorted({path.parent.name for path in self.root.glob("*/*") if NAME.fullmatch(path.parent.name)}):
            with self.locked(name), self._unused(name):
                self._sweep(name)
                used = in_use()
                kept: set[str | None] = {self.pointers(name).read(CURRENT)}
                kept |= set() if chosen else self.pointers(name).protected()
                mine = [image for image in self.list() if image.name == name]
                for image in mine[max(keep, 0) :]:
                    if _user(image, used) is None and image.directory.name not in kept:
                        self._discard(image)
                        removed.append(image)
        return tuple(removed)

    # ------------------------------------------------------------ inner parts
    def open(self, directory: Path) -> GoldenImage:
        """The image in a directory of the store; `StateError` when its manifest is damaged or another's."""
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

    def _make(self, recipe: Recipe, make: Maker, inputs: Inputs, progress: Progress) -> GoldenImage:
        self._sweep(recipe.name)
        home = self.root / recipe.name
        return self.open(make_image(home, recipe, make, inputs=inputs, progress=progress, damaged=self._is_damaged))

    @staticmethod
    def _beginning(home: Path, digits: str) -> str | None:
        """The only build whose digest begins so."""
        found = [path.name for path in home.glob(f"{digits}*") if DIGEST_DIRECTORY.fullmatch(path.name)]
        return found[0] if len(found) == 1 else None

    def _is_damaged(self, directory: Path) -> bool:
        try:
            return bool(self.verify(self.open(directory)))
        except StateError:
            return True

    def _discard(self, image: GoldenImage) -> None:
        self.pointers(image.name).forget(image.directory.name)
        trash = image.directory.with_name(f"{_TRASH_PREFIX}{image.directory.name}")
        image.directory.rename(trash)
        remove_tree(trash)

    def _sweep(self, name: str) -> None:
        """Remove the remains of interrupted builds and removals of this name. The caller holds the lock."""
        for path in (self.root / name).iterdir():
            if path.name.startswith((WORK_PREFIX, _TRASH_PREFIX)):
                remove_tree(path)

    @contextlib.contextmanager
    def kept(self, ref: str) -> Iterator[None]:
        """No image of the name in `ref` is removed while the block runs; a disk that is on one at its end keeps it.

        Raises:
            ConflictError: one was being removed all the time.
        """
        reference = parse_reference(ref)
        if reference is None or not (self.root / reference.name).is_dir():
            yield  # there is nothing to keep
            return
        with self._used(reference.name, shared=True):
            yield

    def _unused(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self._used(name, shared=False)

    @contextlib.contextmanager
    def _used(self, name: str, *, shared: bool) -> Iterator[None]:
        path = self.root / name / ".use.lock"
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            acquire(descriptor, path, seconds=_USE_SECONDS, shared=shared)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self, name: str, progress: Progress | None = None) -> Iterator[None]:
        """Hold the lock of one name; with `progress` wait for it, without raise `ConflictError`."""
        _check_name(name)
        home = self.root / name
        home.mkdir(mode=0o755, parents=True, exist_ok=True)

        def wait(who: str) -> None:
            if progress is None:
                raise ConflictError(
                    f"image {name} is being built or removed by another process",
                    where=str(home),
                    fix="wait for it and try again",
                )
            progress(BuildPhase.WAIT, f"for {who}")

        path = home / ".lock"
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            acquire(descriptor, path, seconds=_LOCK_SECONDS, on_wait=wait)
            yield
        finally:
            os.close(descriptor)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of an image", fix="use lower-case letters, digits and '-'")


def _user(image: GoldenImage, in_use: Collection[Path]) -> str | None:
    """The user of the image: the overlay if the caller knows it, else the base file itself."""
    for base in in_use:
        if base.resolve().is_relative_to(image.directory.resolve()):
            return str(in_use[base]) if isinstance(in_use, Mapping) else f"an overlay of {base}"
    return None
