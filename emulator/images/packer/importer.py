"""Imports a disk from Packer: makes the artefacts of an image from it.

The disk is data of unknown origin: nothing is mounted, links in it are never followed on this host, and what comes
out of it is looked at before it is believed. The file system is copied block by block in use, so that what was
deleted while the image was made (keys, package sources) is not in it any more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from emulator.core.errors import HyperscalerError
from emulator.core.ids import NAMESPACE
from emulator.core.ports import Completed, ProcessRunner
from emulator.core.units import MIB
from emulator.images.build.builder import DISK, INITRD, KERNEL, BuildPhase, Built, Progress, open_log
from emulator.images.build.guest_tree import GuestTree, check_finished
from emulator.images.build.initrd import build_initrd, load_order
from emulator.images.build.input_version import input_versions, record_path
from emulator.images.recipe import Recipe
from emulator.images.supply_chain.sbom import DPKG_FORMAT, Package, parse_packages

_TIMEOUT = 1800.0
_KERNEL_NAME = re.compile(r"vmlinuz-([0-9][A-Za-z0-9.+~-]{0,100})")
_MODULE = re.compile(r"kernel(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+\.ko")
_MAX_VIRTUAL_BYTES = 256 << 30
# e2fsck: 1 and 2 mean that faults were repaired, such as a journal that was not empty.
_FSCK_FINE = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class ImageImporter:
    """Makes the artefacts of `recipe` in `out` from the qcow2 `disk`; scratch files under `work`. Both exist, empty.

    `made_by` is recorded among the tools, name to version.
    """

    recipe: Recipe
    disk: Path
    work: Path
    out: Path
    runner: ProcessRunner
    progress: Progress
    made_by: Mapping[str, str]

    def build(self) -> Built:
        """Import.

        Raises:
            HyperscalerError: the disk is not what the recipe says, or was not finished.
            CommandError: a step failed; the log in `out` has its output.
        """
        self.progress(BuildPhase.PREPARE, "")
        raw = self._extract()
        self.progress(BuildPhase.BOOT, "")
        tree = GuestTree(raw, self.work / "root", self.runner)
        packages = self._packages(tree)
        check_finished(self.recipe, tree, packages)
        versions = self._versions(tree)
        kernel_version = self._boot_files(tree)
        self.progress(BuildPhase.FILESYSTEM, "")
        clean, virtual_size = self._compact(raw)
        self.progress(BuildPhase.DISK, "")
        self._run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", clean, self.out / DISK])
        clean.unlink()
        return Built(
            kernel_version=kernel_version,
            architecture=next((item.architecture for item in packages if item.architecture != "all"), "unknown"),
            virtual_size=virtual_size,
            packages=packages,
            tools=self._tools(),
            versions=versions,
        )

    # ------------------------------------------------------------ the file system on the disk
    def _extract(self) -> Path:
        """The root file system as a raw file, out of its partition if it is in one."""
        mine = self._copy()
        described = json.loads(self._run(["qemu-img", "info", "--output=json", "-f", "qcow2", mine]).stdout)
        special = described.get("format-specific", {}).get("data", {})
        if "backing-filename" in described or "data-file" in special or special.get("encrypt"):
            raise HyperscalerError(
                "the disk refers to other files or is encrypted; only a whole qcow2 is taken", where=str(self.disk)
            )
        if not 0 < int(described["virtual-size"]) <= _MAX_VIRTUAL_BYTES:
            raise HyperscalerError("the disk is larger than 256 GiB", where=str(self.disk), fix="use a smaller one")
        whole = self.work / "whole.raw"
        self._run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", mine, whole])
        mine.unlink()
        place = self._partition(whole)
        if place is None:
            return whole
        offset, size = place
        raw = self.work / "partition.raw"
        source = f"driver=raw,offset={offset},size={size},file.driver=file,file.filename={whole.name}"
        self._run(["qemu-img", "convert", "--image-opts", source, "-O", "raw", raw], cwd=self.work)
        whole.unlink()
        return raw

    def _copy(self) -> Path:
        """The disk as it is now, where only root can change it: what is checked must be what is converted.

        Raises:
            HyperscalerError: it is no file, it changes, or there is no room for it.
        """
        # A pipe in its place must not hold the program up.
        with os.fdopen(os.open(self.disk, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise HyperscalerError("the disk is no ordinary file", where=str(self.disk))
            # Whatever the step, one form of the disk is read and another is written.
            needed, free = 2 * status.st_size, shutil.disk_usage(self.work).free
            if free < needed:
                raise HyperscalerError(
                    f"importing the disk takes {-(-needed // MIB)} MiB, and {free // MIB} MiB are free",
                    where=str(self.work.parent.parent),
                    fix="make room there, or remove images that nothing needs: hyperscaler image gc",
                )
            mine, left = self.work / "given.qcow2", status.st_size
            with mine.open("xb") as copy:
                while left and (chunk := source.read(min(left, MIB))):
                    copy.write(chunk)
                    left -= len(chunk)
        if left:
            raise HyperscalerError("the disk changes while it is read", where=str(self.disk))
        return mine

    def _partition(self, whole: Path) -> tuple[int, int] | None:
        """Offset and size in bytes of the only partition; None when the disk has no partition table."""
        done = self._run(["sfdisk", "--json", whole], check=False)
        if done.returncode != 0:
            return None
        table = json.loads(done.stdout)["partitiontable"]
        partitions = table.get("partitions", [])
        if len(partitions) != 1:
            raise HyperscalerError(
                f"expected one partition on the disk, found {len(partitions)}",
                where=str(self.disk),
                fix="install into one file system, without swap (see packer/http/preseed.cfg)",
            )
        sector = int(table.get("sectorsize", 512))
        return int(partitions[0]["start"]) * sector, int(partitions[0]["size"]) * sector

    def _compact(self, raw: Path) -> tuple[Path, int]:
        """The file system with the image's label, identity and size, and nothing in its free blocks."""
        identity = uuid.uuid5(NAMESPACE, f"filesystem/{self.recipe.name}")
        self._run(["e2fsck", "-f", "-y", raw], fine=_FSCK_FINE)
        # The journal of the machine goes; the new one has the size that the image builder gives. Quotas are counted
        # anew.
        self._run(["tune2fs", "-O", "^has_journal,^quota", raw])
        self._run(["tune2fs", "-L", "root", "-m", "1", "-U", str(identity), "-O", "^orphan_file", raw], fine=(0, 1))
        self._run(["e2fsck", "-f", "-y", raw], fine=_FSCK_FINE)
        self._run(["resize2fs", "-M", raw])
        smallest = self._filesystem_bytes(raw)
        size = -(-(smallest + (self.recipe.free_mib + 64) * MIB) // (64 * MIB)) * 64 * MIB
        self._run(["resize2fs", raw, f"{size // 1024}K"])
        with raw.open("r+b") as stream:
            stream.truncate(size)
        self._run(["tune2fs", "-J", "size=32", raw])
        self._run(["tune2fs", "-Q", "usrquota", raw])
        clean = self.work / "clean.raw"
        self._run(["e2image", "-ra", raw, clean])
        raw.unlink()
        with clean.open("r+b") as stream:
            stream.truncate(size)
        self._run(["e2fsck", "-f", "-n", clean])
        return clean, size

    def _filesystem_bytes(self, raw: Path) -> int:
        lines = self._run(["dumpe2fs", "-h", raw]).stdout.splitlines()
        found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(found["Block count"]) * int(found["Block size"])

    # ------------------------------------------------------------ what is in it
    def _packages(self, tree: GuestTree) -> tuple[Package, ...]:
        tree.fetch("/var/lib/dpkg/status")
        database = tree.directory / "var" / "lib" / "dpkg"
        listing = self._run(["dpkg-query", f"--admindir={database}", "-W", "-f", "${db:Status-Status}\t" + DPKG_FORMAT])
        rows = (row.partition("\t") for row in listing.stdout.splitlines())
        return parse_packages("".join(f"{fields}\n" for status, _, fields in rows if status == "installed"))

    def _versions(self, tree: GuestTree) -> dict[str, str]:
        for name in self.recipe.inputs:
            path = PurePosixPath("/", record_path(name))
            if path.name in tree.names(str(path.parent)):
                tree.fetch(str(path))
        return input_versions(dict.fromkeys(self.recipe.inputs, tree.directory))

    def _boot_files(self, tree: GuestTree) -> str:
        found = [match for name in tree.names("/boot") if (match := _KERNEL_NAME.fullmatch(name))]
        if len(found) != 1:
            raise HyperscalerError(f"expected one kernel in the image, found {len(found)}", where=self.recipe.kernel)
        version = found[0].group(1)
        (self.out / KERNEL).write_bytes(tree.fetch(f"/boot/{found[0].group()}").read_bytes())
        tree.fetch("/usr/bin/busybox", at="/bin/busybox")
        modules = f"/usr/lib/modules/{version}"
        needed = tree.fetch(f"{modules}/modules.dep").read_text(encoding="ascii")
        tree.fetch(f"{modules}/modules.builtin")
        for line in needed.splitlines():
            for word in line.replace(":", " ").split():
                if not _MODULE.fullmatch(word):
                    raise HyperscalerError(f"modules.dep names {word!r}, which is no driver of the kernel")
        for path in load_order(tree.directory, kernel_version=version, modules=self.recipe.modules):
            tree.fetch(f"/{path.relative_to(tree.directory)}")
        initrd = build_initrd(
            tree.directory, kernel_version=version, init=self.recipe.initrd_init, modules=self.recipe.modules
        )
        (self.out / INITRD).write_bytes(initrd)
        return version

    # ------------------------------------------------------------ tools
    def _tools(self) -> dict[str, str]:
        versions = dict(self.made_by)
        for tool, option in (("qemu-img", "--version"), ("e2image", "-V")):
            done = self.runner.run([tool, option], timeout=30, check=False)
            found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
            versions[tool] = found.group() if found else "unknown"
        return versions

    def _run(
        self, argv: list[str | Path], *, check: bool = True, fine: tuple[int, ...] = (0,), cwd: Path | None = None
    ) -> Completed:
        """One tool; its output goes to the log. `fine` are the exit statuses that mean success."""
        done = self.runner.run(argv, timeout=_TIMEOUT, check=check and fine == (0,), cwd=cwd)
        with open_log(self.out) as log:
            log.write(f"# {' '.join(str(word) for word in argv)}\n{done.stdout}{done.stderr}")
        if check and done.returncode not in fine:
            raise HyperscalerError(
                f"{argv[0]} failed with exit status {done.returncode}: {(done.stdout + done.stderr).strip()[-500:]}",
                where=str(self.disk),
            )
        return done
