"""Services: processes of a lab that stay running after the command has ended. A supervisor keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.paths import Home, LabPaths
from emulator.core.units import GIB, MIB
from emulator.plan.resources import Resource, register

CONSOLE_LIMIT, CONSOLE_KEPT = 8 * MIB, 256 * 1024
"""Bytes from which a guest's console log is cut, and of its end that stay. A boot prints about 50 KiB."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Resource):
    """A process that is to stay running.

    Attributes:
        directory: of the lab's supervisor, absolute.
        program: an absolute path, or the name of one of our own programs.
        account: the user that it runs as; empty for the supervisor's own.
        notifies: it says when it is ready.
        memory_mib: address space, 0 for no limit.
        files: that it may have open.
        processes: and threads of the service.
        cpu_weight: its share of the processor, 100 for an ordinary one.
        host_processes: it may signal processes of the host, as far as its rights go.
    """

    kind = "service"
    volatile = True
    updatable = frozenset(
        {
            "directory",
            "program",
            "arguments",
            "account",
            "notifies",
            "memory_mib",
            "files",
            "processes",
            "cpu_weight",
            "host_processes",
        }
    )
    directory: str
    program: str
    arguments: tuple[str, ...] = ()
    account: str = ""
    notifies: bool = True
    memory_mib: int = 0
    files: int = 256
    processes: int = 16
    cpu_weight: int = 100
    host_processes: bool = False


def build_services(
    paths: LabPaths, hypervisor: str, needs: tuple[str, ...], *, disk_reserve_gib: float
) -> tuple[Service, ...]:
    """The services of a lab.

    Args:
        paths: of the lab.
        hypervisor: `embedded` or a libvirt URI.
        needs: ids of what they need.
        disk_reserve_gib: free space to be kept on the file system of its disks; 0 for none.
    """
    directory = str(paths.supervisor)
    console = Service(
        name="console-limits",
        directory=directory,
        program="console-limits",
        arguments=(str(paths.console), "--limit", str(CONSOLE_LIMIT), "--kept", str(CONSOLE_KEPT)),
        memory_mib=512,
        files=64,
        processes=4,
    )
    if not disk_reserve_gib:
        return (console,)
    # The paths of a lab are those of its home, whatever the command's environment says.
    home = Home(paths.root.parent.parent)
    where = ("--home", str(home.root), "--lab", paths.root.name, "--hypervisor", hypervisor)
    reserve = Service(
        name="disk-reserve",
        needs=needs,
        directory=directory,
        program="disk-reserve",
        arguments=(*where, "--bytes", str(round(disk_reserve_gib * GIB))),
        memory_mib=1024,
        host_processes=True,
    )
    return (console, reserve)
