"""The Debian packages that the product needs on a host."""

from __future__ import annotations

from emulator.core.data_files import share_dir
from emulator.host.parsers import parse_package_list


def wanted_packages() -> dict[str, bool]:
    """The product's one list of Debian packages, True for optional ones; empty where the installation lacks it."""
    path = share_dir() / "scripts" / "system-packages.txt"
    return parse_package_list(path.read_text()) if path.is_file() else {}
