"""Known vulnerabilities of an image's packages, as Debian's own tool (debsecan) and security tracker see them.

debsecan reads the installed packages from a dpkg status file and what is known from the tracker. The first is written
here from the image's bill of materials, the second may be a file: a copy of the tracker's data for the suite, which
is what a host without a way to the tracker has.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import CommandError, CommandTimeoutError, HyperscalerError, StateError, UsageError
from emulator.core.ports import ProcessRunner
from emulator.images.store.golden_image import GoldenImage
from emulator.images.supply_chain.sbom import SBOM_NAME, Package, packages_of

_TIMEOUT = 300.0
_MAX_SBOM_BYTES = 16 << 20
# The whole tracker for one suite is about 2 MiB compressed and 20 unpacked.
_MAX_DATA_BYTES = 64 << 20
_MAX_UNPACKED_BYTES = 512 << 20

_URGENCIES = ("", "low", "medium", "high")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INSTALLED = re.compile(r"  installed: (?P<package>\S+) \S+")
_HEAD = re.compile(r"(?P<id>\S+)(?: \((?P<notes>[^)]*)\))?")


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One vulnerability of one installed package. `urgency` is low, medium, high or empty; `fixed`
    says that Debian has an update."""

    id: str
    package: str
    version: str
    source: str
    urgency: str
    remote: bool
    fixed: bool
    description: str


@dataclass(frozen=True, slots=True)
class VulnerabilityListing:
    """Asks debsecan."""

    runner: ProcessRunner

    def of(self, image: GoldenImage, *, data: Path | None, only_fixed: bool = False) -> tuple[Vulnerability, ...]:
        """Known vulnerabilities, the most urgent first.

        Args:
            image: of the store; its bill of materials names the packages with their sources.
            data: the tracker's data for the image's suite, as debsecan fetches it; None to fetch it.
            only_fixed: leave out what Debian has no update for.

        Raises:
            UsageError: `data` is no such file.
            HyperscalerError: the data cannot be had, or debsecan does not understand it.
        """
        packages = _packages(image)
        suite = image.manifest.suite
        with tempfile.TemporaryDirectory(prefix="hyperscaler-debsecan-") as name:
            directory = Path(name)
            status = directory / "status"
            status.write_text(status_file(packages), encoding="utf-8")
            # An empty configuration and whitelist: this host's own are about its own packages.
            empty = directory / "empty"
            empty.touch()
            argv: list[str | Path] = ["debsecan", "--format=detail", f"--suite={suite}", f"--status={status}"]
            argv += [f"--config={empty}", f"--whitelist={directory / 'none'}"]
            argv += ["--only-fixed"] if only_fixed else []
            if data is not None:
                served = directory / "tracker"
                served.mkdir()
                (served / suite).write_bytes(_tracker_data(data))
                argv.append(f"--source=file://{served}/")
            output = self._listed(argv, data)
        return tuple(sorted(parse_listing(output, packages), key=_urgency_first))

    def _listed(self, argv: list[str | Path], data: Path | None) -> str:
        try:
            done = self.runner.run(argv, timeout=_TIMEOUT, check=False)
        except CommandTimeoutError as error:
            raise _unavailable(str(error.what)) from error
        if done.returncode == 0:
            return done.stdout
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why = said[-1] if said else f"exit status {done.returncode}"
        if data is None and "while downloading" in done.stderr:
            raise _unavailable(why)
        raise CommandError(f"debsecan failed: {why}", where=str(data or "debsecan"))


def _unavailable(why: str) -> HyperscalerError:
    return HyperscalerError(
        f"the data of Debian's security tracker cannot be fetched from here: {why}",
        where="debsecan",
        fix="fetch the tracker's debsecan data for the image's suite on a machine that reaches it (the address is in "
        "debsecan(1) under --source) and name the file with --data FILE",
    )


def _packages(image: GoldenImage) -> tuple[Package, ...]:
    path = image.directory / SBOM_NAME
    try:
        with path.open("rb") as stream:
            return packages_of(stream.read(_MAX_SBOM_BYTES).decode())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        fix = f"hyperscaler image build {image.name} --force"
        raise StateError(f"the bill of materials cannot be read: {error}", where=str(path), fix=fix) from error


def _tracker_data(path: Path) -> bytes:
    """The file as the tracker serves it (zlib); a text that was unpacked already is packed again."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_DATA_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the tracker's data cannot be read: {error.strerror}", where=str(path)) from error
    if raw.startswith(b"VERSION 1\n"):
        return zlib.compress(raw)
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(raw, _MAX_UNPACKED_BYTES)
    except zlib.error:
        text = b""
    if len(raw) > _MAX_DATA_BYTES or unpack.unconsumed_tail or not text.startswith(b"VERSION 1\n"):
        raise UsageError(
            "this is not what the security tracker serves to debsecan",
            where=str(path),
            fix="give the file that debsecan fetches for a suite (debsecan(1), --source), as it is",
        )
    return raw


def status_file(packages: Iterable[Package]) -> str:
    """A dpkg status file that says that these packages are installed."""
    return "".join(
        f"Package: {package.name}\nStatus: install ok installed\nArchitecture: {package.architecture}\n"
        f"Version: {package.version}\nSource: {package.source} ({package.source_version})\n\n"
        for package in packages
    )


def parse_listing(output: str, packages: Iterable[Package]) -> list[Vulnerability]:
    """Parses the output of debsecan with `--format=detail`: blocks of a headline, the description and the versions.

    What the tracker says comes from outside: control characters are taken out of descriptions, and a block about a
    package that the image does not have is left out.
    """
    known = {package.name: package for package in packages}
    found = []
    for block in output.split("\n\n"):
        # Not splitlines(): a description may hold what else Python takes for the end of a line.
        lines = block.split("\n")
        head = _HEAD.fullmatch(lines[0])
        if head is None or not _ID.fullmatch(head["id"]) or len(lines) < 3:
            continue
        installed = _INSTALLED.fullmatch(lines[2])
        package = known.get(installed["package"]) if installed else None
        if package is None:
            continue
        notes = [note.strip() for note in (head["notes"] or "").split(",")]
        urgency = next((note.removesuffix(" urgency") for note in notes if note.endswith(" urgency")), "")
        found.append(
            Vulnerability(
                id=head["id"],
                package=package.name,
                version=package.version,
                source=package.source,
                urgency=urgency if urgency in _URGENCIES else "",
                remote="remotely exploitable" in notes,
                fixed="fixed" in notes,
                description=" ".join("".join(c if c.isprintable() else " " for c in lines[1]).split()),
            )
        )
    return found


def _urgency_first(item: Vulnerability) -> tuple[int, bool, str, str]:
    return -_URGENCIES.index(item.urgency), not item.remote, item.id, item.package
