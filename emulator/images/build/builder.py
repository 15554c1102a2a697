"""Builds an image's artefacts in a work directory: packages, laid-in files, initial RAM file system, disk."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TextIO

from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.core.fs import private_opener, write_new
from emulator.core.ids import NAMESPACE
from emulator.core.ports import ProcessRunner
from emulator.core.units import MIB
from emulator.images.build.apt_sources import AptSources, host_sources, require_keys
from emulator.images.build.initrd import build_initrd
from emulator.images.build.input_version import input_versions
from emulator.images.build.overlay import write_overlay
from emulator.images.build.tree_size import used_bytes
from emulator.images.recipe import Recipe
from emulator.images.supply_chain.sbom import DPKG_FORMAT, Package, parse_packages

# Part of every recipe digest: raise it when the same recipe would now be built differently.
BUILDER_VERSION = "4"

DISK, KERNEL, INITRD, LOG = "disk.qcow2", "vmlinuz", "initrd.img", "build.log"

# Upper bounds in seconds. The packages come over a network of unknown speed.
_PACKAGES_TIMEOUT = 3600.0
_DISK_TIMEOUT = 900.0


class BuildPhase(StrEnum):
    """The parts of a build, in order."""

    WAIT = "wait for another build"
    PREPARE = "prepare"
    PACKAGES = "install packages"
    BOOT = "kernel and initial RAM file system"
    FILESYSTEM = "write file system"
    DISK = "convert disk"
    RECORD = "checksums and manifest"


# Called when a phase begins, with an empty line, and then with each line of output that is worth showing.
Progress = Callable[[BuildPhase, str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """The result of a build next to the files in its output directory. Sizes are bytes; `versions` are those of the
    inputs, as far as they say."""

    kernel_version: str
    architecture: str
    virtual_size: int
    packages: tuple[Package, ...]
    tools: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)


OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private", "--")
"""Runs a command whose mounts go with it, however it ends: as root, mmdebstrap mounts the host's /sys and /dev in the
tree, and one that was killed would leave them there."""


@dataclass(frozen=True, slots=True)
class ImageBuilder:
    """One build of `recipe`: scratch files under `work`, artefacts into `out` (both exist and are empty).

    Needs root: device nodes and foreign owners cannot be made otherwise. Nothing outside the two directories is
    written, no loop device is used and nothing stays mounted: mmdebstrap is given a mount namespace of its own.
    """

    recipe: Recipe
    work: Path
    out: Path
    runner: ProcessRunner
    progress: Progress
    inputs: Mapping[str, Path]

    def build(self) -> Built:
        """Build everything.

        Raises:
            HostNotFitError: not root, or a tool is missing.
            CommandError: a step failed; the log in `out` has its output.
        """
        self.progress(BuildPhase.PREPARE, "")
        self._check()
        root = self.work / "root"
        self._install(root)
        self.progress(BuildPhase.BOOT, "")
        kernel_version = self._extract_kernel(root)
        self.progress(BuildPhase.FILESYSTEM, "")
        raw, virtual_size = self._write_filesystem(root)
        self.progress(BuildPhase.DISK, "")
        self._run(BuildPhase.DISK, ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self.out / DISK])
        raw.unlink()
        packages = self._installed(root)
        return Built(
            kernel_version=kernel_version,
            architecture=next((item.architecture for item in packages if item.architecture != "all"), "unknown"),
            virtual_size=virtual_size,
            packages=packages,
            tools=self._tool_versions(),
            versions=input_versions({name: self.inputs[name] for name in self.recipe.inputs}),
        )

    def _check(self) -> None:
        if os.geteuid() != 0:
            raise HostNotFitError(
                "building an image needs root: it makes files of many owners",
                fix="run the same command with sudo",
            )
        missing = sorted(set(self.recipe.inputs) - set(self.inputs))
        if missing:
            raise HyperscalerError(f"image {self.recipe.name} needs inputs that were not given: {', '.join(missing)}")

    # ------------------------------------------------------------ packages and files
    def _install(self, root: Path) -> None:
        recipe = self.recipe
        sources = host_sources(self.runner, suite=recipe.suite, components=recipe.components)
        if sources.other_release:
            require_keys(recipe.suite)
        overlay = self.work / "overlay.tar"
        write_overlay(overlay, recipe.files, [self.inputs[name] for name in recipe.inputs])
        finish = self.work / "finish"
        finish.write_text(finish_script(recipe), encoding="utf-8")
        finish.chmod(0o700)
        self.progress(BuildPhase.PACKAGES, "")
        # dpkg's own syncs are pointless in a tree that is thrown away when the host goes down.
        argv: list[str | Path] = [
            *OWN_MOUNTS,
            *("mmdebstrap", "--verbose", "--mode=root", "--format=directory", f"--variant={recipe.variant}"),
            f"--include={','.join((recipe.kernel, *recipe.packages))}",
            f"--components={','.join(recipe.components)}",
            *(f"--dpkgopt=path-exclude={path}" for path in recipe.exclude_paths),
            *(f"--dpkgopt=path-include={path}" for path in recipe.include_paths),
            "--dpkgopt=force-unsafe-io",
            *self._apt_options(sources),
            # Unpacks with numeric owners and extended attributes of every namespace; `mke2fs -d` keeps both, and links.
            f"--customize-hook=tar-in {overlay} /",
            f"--customize-hook={finish}",
            recipe.suite,
            root,
            *self._mirror(sources),
        ]
        self._run(BuildPhase.PACKAGES, argv, timeout=_PACKAGES_TIMEOUT)

    def _apt_options(self, sources: AptSources) -> list[str]:
        if not sources.options:
            return []
        path = self.work / "apt.conf"
        write_new(path, "\n".join(sources.options) + "\n")
        return [f"--aptopt={path}"]

    def _mirror(self, sources: AptSources) -> list[Path]:
        if not sources.lines:
            return []
        path = self.work / "sources.list"
        write_new(path, "\n".join(sources.lines) + "\n")
        return [path]

    # ------------------------------------------------------------ boot files
    def _extract_kernel(self, root: Path) -> str:
        kernels = sorted((root / "boot").glob("vmlinuz-*"))
        if len(kernels) != 1 or kernels[0].is_symlink():
            raise HyperscalerError(f"expected one kernel in the image, found {len(kernels)}", where=self.recipe.kernel)
        version = kernels[0].name.removeprefix("vmlinuz-")
        (self.out / KERNEL).write_bytes(kernels[0].read_bytes())
        initrd = build_initrd(root, kernel_version=version, init=self.recipe.initrd_init, modules=self.recipe.modules)
        (self.out / INITRD).write_bytes(initrd)
        return version

    # ------------------------------------------------------------ disk
    def _write_filesystem(self, root: Path) -> tuple[Path, int]:
        used = used_bytes(root)
        # Inode tables, journal and bitmaps take about 6% in addition to the contents.
        size = -(-(int(used * 1.08) + (self.recipe.free_mib + 64) * MIB) // (64 * MIB)) * 64 * MIB
        raw = self.work / "disk.raw"
        with raw.open("wb") as stream:
            stream.truncate(size)
        identity = uuid.uuid5(NAMESPACE, f"filesystem/{self.recipe.name}")
        argv: list[str | Path] = [
            *("mke2fs", "-q", "-t", "ext4", "-L", "root", "-m", "1", "-U", str(identity), "-d", root),
            *("-E", f"hash_seed={identity},lazy_itable_init=1,nodiscard", "-J", "size=32", raw),
        ]
        self._run(BuildPhase.FILESYSTEM, argv)
        # Not by mke2fs, which counts before it has written the files (e2fsprogs 1.47).
        self._run(BuildPhase.FILESYSTEM, ["tune2fs", "-Q", "usrquota", raw])
        return raw, size

    # ------------------------------------------------------------ records
    def _installed(self, root: Path) -> tuple[Package, ...]:
        database = root / "var" / "lib" / "dpkg"
        listing = self.runner.run(["dpkg-query", f"--admindir={database}", "-W", "-f", DPKG_FORMAT], timeout=60)
        return parse_packages(listing.stdout)

    def _tool_versions(self) -> dict[str, str]:
        versions = {}
        for tool, option in (("mmdebstrap", "--version"), ("qemu-img", "--version"), ("mke2fs", "-V")):
            done = self.runner.run([tool, option], timeout=30, check=False)
            found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
            versions[tool] = found.group() if found else "unknown"
        return versions

    def _run(self, phase: BuildPhase, argv: list[str | Path], *, timeout: float = _DISK_TIMEOUT) -> None:
        # The environment of the caller may name a language that the image does not have.
        env = {"LC_ALL": "C.UTF-8", "TMPDIR": str(self.work)}
        with open_log(self.out) as log:

            def show(line: str) -> None:
                log.write(line + "\n")
                log.flush()
                self.progress(phase, line)

            log.write(f"# {phase}\n")
            self.runner.run(argv, timeout=timeout, env=env, on_line=show)


def open_log(out: Path) -> TextIO:
    """The log of a build, to be added to. What it quotes of package sources may hold a password."""
    return open(out / LOG, "a", encoding="utf-8", opener=private_opener)


def finish_script(recipe: Recipe) -> str:
    """The shell script that finishes an image's tree; mmdebstrap calls it with the tree as its argument.

    Everything runs inside the tree (chroot), so that no link in a package can lead a removal or a write out of it.
    The recipe's reader admits no character that a shell would read as more than a word or a glob.
    """
    # `systemctl disable` removes every link to a unit, so the recipe's own links come after it.
    lines = ["systemd-sysusers"]  # accounts that a laid-in sysusers.d file describes
    lines += [f"rm -rf -- {path}" for path in recipe.remove]
    lines += [f": >{path}" for path in recipe.empty_files]
    lines += [f"systemctl --quiet disable {unit}" for unit in recipe.disable]
    # Not `enable`: the package enabled its own version of a unit that a laid-in file replaces.
    lines += [f"systemctl --quiet reenable {unit}" for unit in recipe.enable]
    links = {f"/etc/systemd/system/{unit}": "/dev/null" for unit in recipe.mask}
    links |= dict.fromkeys(recipe.mask_files, "/dev/null")
    for path, target in (links | dict(recipe.symlinks)).items():
        lines += [f"mkdir -p {PurePosixPath(path).parent}", f"ln -sfn {target} {path}"]
    inside = ["chroot \"$1\" /bin/sh -eu <<'END_OF_RECIPE'", *lines, "END_OF_RECIPE"]
    return "\n".join(["#!/bin/sh", "set -eu", "export SYSTEMD_OFFLINE=1", *inside, ""])
