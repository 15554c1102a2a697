"""Data that ships beside the package: schemas, GPU tables, image recipes, playbooks, Packer templates, examples."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from emulator.core.errors import HyperscalerError


@cache
def share_dir() -> Path:
    """The directory that holds `schemas/`, `config/`, `playbooks/` and `packer/`.

    A checkout (or an editable install) has them beside the package; a wheel puts them under
    `<prefix>/share/hyperscaler`.

    Raises:
        HyperscalerError: neither place has them; the installation is broken.
    """
    candidates = (Path(__file__).resolve().parents[2], Path(sys.prefix) / "share" / "hyperscaler")
    for candidate in candidates:
        if (candidate / "schemas").is_dir() and (candidate / "playbooks").is_dir():
            return candidate
    raise HyperscalerError(
        "the installation lacks its data files (schemas, config, playbooks)",
        where=" or ".join(str(path) for path in candidates),
        fix="install again from the project's checkout: make setup",
    )
