"""Lab files: loading one, and the copy that a provisioned lab keeps."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from emulator.core.errors import ConfigError, UsageError
from emulator.core.paths import Home
from emulator.labfile.findings import Report
from emulator.labfile.load import read_spec
from emulator.labfile.model import ClusterSpec

_BUNDLE = "bundle:"
LAB_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class LoadedLab:
    """A lab file that was read. `maybe_spec` is None when the report has errors; `source` holds the bytes
    that were checked."""

    file: Path
    source: bytes
    report: Report
    maybe_spec: ClusterSpec | None

    def require_valid(self) -> None:
        """Raises: ConfigError when the file has errors."""
        if self.maybe_spec is None:
            count = len(self.report.errors)
            error = ConfigError(
                f"{count} error{'s' if count != 1 else ''} in the lab file",
                where=str(self.file),
                fix="fix the errors above; `hyperscaler validate` checks without doing anything",
            )
            error.details["findings"] = [finding.to_json() for finding in self.report.findings]
            raise error

    @property
    def spec(self) -> ClusterSpec:
        self.require_valid()
        assert self.maybe_spec is not None  # noqa: S101  checked by require_valid
        return self.maybe_spec


def load_lab_file(file: Path, stream: BinaryIO | None = None, *, recorded: bool = False) -> LoadedLab:
    """Load and check a file. Errors are in the report, never raised.

    Args:
        stream: read in place of the file, and not kept; `file` is then its name.
        recorded: a lab stands with this file, see `emulator.labfile.load.load_spec`.
    """
    spec, report, read = read_spec(file, stream, recorded=recorded)
    source = read if spec is not None and stream is None else b""
    return LoadedLab(file, source, report, _with_absolute_bundle(spec, file) if spec is not None else None)


def _with_absolute_bundle(spec: ClusterSpec, file: Path) -> ClusterSpec:
    """The spec with the path of its bundle made absolute; in the file it is relative to the file's directory."""
    written = bundle_of(spec)
    if spec.kubernetes is None or written is None:
        return spec
    path = file.absolute().parent / os.path.expanduser(written)  # noqa: PTH111  an unknown ~user stays as it is
    return replace(spec, kubernetes=replace(spec.kubernetes, source=f"{_BUNDLE}{path}"))


def bundle_of(spec: ClusterSpec) -> str | None:
    """The path of the bundle from which the lab takes its Kubernetes; None when it takes it from elsewhere."""
    if spec.kubernetes is None or not spec.kubernetes.source.startswith(_BUNDLE):
        return None
    return spec.kubernetes.source.removeprefix(_BUNDLE).strip()


def load_recorded_lab(home: Home, name: str) -> LoadedLab:
    """The lab file of this lab as it was last provisioned.

    Raises:
        UsageError: there is no such lab on this host.
    """
    require_lab(home, name)
    loaded = load_lab_file(home.lab(name).spec, recorded=True)
    loaded.require_valid()
    return loaded


def require_lab(home: Home, name: str) -> None:
    """Raise unless the lab was provisioned on this host.

    Raises:
        UsageError: there is no such lab; names the labs that there are.
    """
    require_lab_name(name)
    if not home.lab(name).spec.is_file():
        known = lab_names(home)
        listed = f"labs here: {', '.join(known)}" if known else "there are no labs on this host"
        raise UsageError(f"there is no lab {name}", fix=f"{listed}; hyperscaler provision FILE makes one")


def require_lab_name(name: str) -> None:
    """Check a name before anything else, since it becomes part of paths.

    Raises:
        UsageError: it is not a lab's name.
    """
    if not LAB_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a lab's name: lower-case letters, digits and dashes, at most 30",
            fix="hyperscaler status lists the labs",
        )


def lab_names(home: Home) -> list[str]:
    """Labs that have a directory on this host."""
    if not home.labs.is_dir():
        return []
    return sorted(entry.name for entry in home.labs.iterdir() if entry.is_dir() and LAB_NAME.fullmatch(entry.name))
