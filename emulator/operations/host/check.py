"""Check whether this host, or a recorded one, can run labs; with a lab file, that lab."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.core.errors import HyperscalerError
from emulator.core.paths import Home
from emulator.host.checks import HostReport, check_host_readings
from emulator.host.checks.networks import uses_host_networks
from emulator.host.checks.result import Wanted, wanted_of
from emulator.host.readings import HostReadings

if TYPE_CHECKING:
    # Reading lab files needs most of the program, which is not loaded without one.
    from emulator.apply.state import State
    from emulator.lab.lab_files import LoadedLab


def check_host(read: Callable[[], HostReadings], file: Path | None, home: Home | None) -> HostReport:
    """Read the host once and check it.

    Args:
        file: a lab file to check it against.
        home: the home with the records of labs that already run here: their nodes and bridges are not counted against
            them. None for a recorded host.

    Raises:
        ConfigError: the file has errors.
    """
    if file is None:
        return check_host_readings(read(), Wanted())
    from emulator.lab.lab_files import load_lab_file

    loaded = load_lab_file(file)
    loaded.require_valid()
    host = read()
    return check_host_readings(host, _wanted(loaded, host, home))


def _wanted(loaded: LoadedLab, host: HostReadings, home: Home | None) -> Wanted:
    from emulator.core.hypervisors import EMBEDDED
    from emulator.operations.validate import host_findings
    from emulator.plan.gpu_resources import WholeGpu

    wanted = wanted_of(loaded.spec)
    hypervisor = "system" if uses_host_networks(host, wanted) else EMBEDDED
    ours = [] if home is None else [record.resource for record in _state(home, wanted.lab).resources.values()]
    findings = host_findings(loaded, host.facts, ours, private_network=hypervisor == EMBEDDED)
    return dataclasses.replace(
        wanted,
        findings=tuple(item for item in findings if item.code.startswith("host.")),
        own_gpus=frozenset(item.pci_address.lower() for item in ours if isinstance(item, WholeGpu)),
    )


def _state(home: Home, lab: str) -> State:
    """The record of a lab; empty if there is none, or if this user cannot read it."""
    from emulator.apply.journal import Journal
    from emulator.apply.state import State, StateStore

    path = home.lab(lab).journal
    try:
        return StateStore(Journal(path)).state if path.exists() else State()
    except (HyperscalerError, OSError):
        return State()
