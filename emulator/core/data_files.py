"""Data that ships with the program: schemas, GPU tables, image recipes, playbooks, the Packer template, examples."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from emulator.core.errors import HyperscalerError

#: What an installation must have; the rest comes along.
REQUIRED = ("config", "playbooks", "schemas")


@cache
def share_dir() -> Path:
    """The directory that holds `config/`, `packer/`, `playbooks/`, `schemas/` and `scripts/`.

    A wheel carries it inside the package, as `emulator/data`. A checkout, and so an editable install, has its folders
    next to the package. Ansible and Packer read them as files, so the package must not be run from an archive.

    Raises:
        HyperscalerError: neither place has them; the installation is broken.
    """
    package = Path(str(resources.files("emulator")))
    return first_complete((package / "data", package.parent))


def first_complete(candidates: Iterable[Path]) -> Path:
    """The first directory that has all of `REQUIRED`.

    Raises:
        HyperscalerError: none has.
    """
    tried = tuple(candidates)
    for candidate in tried:
        if all((candidate / name).is_dir() for name in REQUIRED):
            return candidate
    raise HyperscalerError(
        f"the installation lacks its data files ({', '.join(REQUIRED)})",
        where=" or ".join(str(path) for path in tried),
        fix="install it again: `make setup` in a checkout, or pip install --force-reinstall 'hyperscaler[host]'",
    )
