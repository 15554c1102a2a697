"""Ansible's view of a lab, as frozen types. Nothing here is secret: an inventory may be shown to everyone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

VarValue: TypeAlias = str | int | bool | tuple["VarValue", ...] | Mapping[str, "VarValue"]
"""A variable's value, of a type that INI, YAML and JSON all have: no None and no float."""

Vars: TypeAlias = Mapping[str, VarValue]


@dataclass(frozen=True, slots=True)
class NodeGpu:
    """GPUs of one type on one node.

    `type` is what a job asks for: a MIG profile (`1g.10gb`) or a GPU's short name (`a100`). `device_files` are
    the guest's device nodes, one per unit; a simulated GPU has none.
    """

    type: str
    count: int
    simulated: bool = False
    device_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """How the guests are reached by ssh, always with host keys checked.

    `ssh_config` is the lab's own configuration file, if there is one: it also enters the guests' network namespace,
    so that plain `ansible-playbook -i` with the exported inventory works from anywhere on the host.
    """

    user: str
    private_key: Path
    known_hosts: Path
    ssh_config: Path | None = None

    def ssh_args(self) -> str:
        """Arguments for ssh, quoted the way that Ansible splits them."""
        options = (
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={_ssh_quoted(str(self.known_hosts))}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "PasswordAuthentication=no",
        )
        argv = [] if self.ssh_config is None else ["-F", str(self.ssh_config)]
        for option in options:
            argv += ["-o", option]
        return shlex.join(argv)


def _ssh_quoted(path: str) -> str:
    """A path inside an ssh option: ssh splits it at blanks and expands percent signs."""
    return '"' + path.replace("%", "%%") + '"'


@dataclass(frozen=True, slots=True)
class InventoryHost:
    name: str
    vars: Vars = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InventoryGroup:
    """A group of hosts; `children` are groups whose hosts belong to it too."""

    name: str
    hosts: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    vars: Vars = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnsibleInventory:
    """Hosts, groups and the variables of all hosts. Every group is listed, empty ones included: plays name them."""

    hosts: tuple[InventoryHost, ...]
    groups: tuple[InventoryGroup, ...]
    vars: Vars = field(default_factory=dict)

    def host(self, name: str) -> InventoryHost:
        """The host of this name.

        Raises:
            KeyError: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)
