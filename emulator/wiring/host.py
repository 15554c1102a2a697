"""This machine, or a recorded one, as a host that can be checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.adapters.system.host_files import HostFiles, RecordedFiles
from emulator.adapters.system.host_probe import LiveProbe, RecordedProbe
from emulator.adapters.system.host_readings import HostReader
from emulator.adapters.system.process import HostProcess
from emulator.core.data_files import share_dir
from emulator.core.paths import Home
from emulator.host.parsers import parse_package_list
from emulator.host.readings import HostProbe, HostReadings

if TYPE_CHECKING:
    from emulator.operations.host.record import PreparedHost


def wanted_packages() -> dict[str, bool]:
    """The product's one list of Debian packages, True for optional ones; empty where the installation lacks it."""
    path = share_dir() / "scripts" / "system-packages.txt"
    return parse_package_list(path.read_text()) if path.is_file() else {}


def this_host() -> PreparedHost:
    """This machine as one that can be changed."""
    from emulator.adapters.system.host_edits import HostEdits
    from emulator.operations.host.record import PreparedHost, backups_of

    home = Home.default()
    edits = HostEdits(Path("/"), backups_of(home))
    return PreparedHost(home, host_reader(None), edits, HostProcess())


def host_reader(root: Path | None) -> Callable[[], HostReadings]:
    """Reads this machine, or with `root` the host that was recorded there."""
    probe: HostProbe = LiveProbe(HostProcess()) if root is None else RecordedProbe(root)
    files = HostFiles() if root is None else RecordedFiles(root)
    return HostReader(files, probe, home=Home.default().root, wanted_packages=wanted_packages()).read
