"""An inventory as text: INI, YAML, or the JSON of Ansible's dynamic inventories. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeAlias

import yaml

from emulator.guests.inventory.model import AnsibleInventory, InventoryGroup, Vars, VarValue

Plain: TypeAlias = str | int | bool | list["Plain"] | dict[str, "Plain"]


class InventoryFormat(StrEnum):
    INI = "ini"
    YAML = "yaml"
    JSON = "json"


def render(inventory: AnsibleInventory, form: InventoryFormat) -> str:
    """The inventory in one of Ansible's formats; each parses back to the same hosts and variables."""
    return _RENDERERS[form](inventory)


def _plain(value: VarValue) -> Plain:
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()}


def _plain_vars(variables: Vars) -> dict[str, Plain]:
    return {key: _plain(value) for key, value in variables.items()}


def _render_json(inventory: AnsibleInventory) -> str:
    """`ansible-inventory --list` shape; host variables under `_meta`, so that no host is asked for one by one."""
    groups: dict[str, Plain] = {"all": {"children": [*_top_level(inventory)], "vars": _plain_vars(inventory.vars)}}
    for group in inventory.groups:
        groups[group.name] = {
            "hosts": [*group.hosts],
            "children": [*group.children],
            "vars": _plain_vars(group.vars),
        }
    groups["_meta"] = {"hostvars": {host.name: _plain_vars(host.vars) for host in inventory.hosts}}
    return json.dumps(groups, indent=2) + "\n"


def _top_level(inventory: AnsibleInventory) -> tuple[str, ...]:
    nested = {child for group in inventory.groups for child in group.children}
    return tuple(group.name for group in inventory.groups if group.name not in nested)


def _render_yaml(inventory: AnsibleInventory) -> str:
    groups = {group.name: group for group in inventory.groups}

    def body(group: InventoryGroup) -> Plain:
        return {
            "hosts": {name: _plain_vars(inventory.host(name).vars) for name in group.hosts},
            "children": {name: body(groups[name]) for name in group.children},
            "vars": _plain_vars(group.vars),
        }

    top: dict[str, Plain] = {name: body(groups[name]) for name in _top_level(inventory)}
    document = {"all": {"children": top, "vars": _plain_vars(inventory.vars)}}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=False, width=1000)


def _literal(value: VarValue) -> str:
    """A Python literal, which is what Ansible's INI parser evaluates: the type survives, and so does any text."""
    return repr(_plain(value))


def _render_ini(inventory: AnsibleInventory) -> str:
    lines: list[str] = []
    for group in inventory.groups:
        if group.hosts or not group.children:
            lines.append(f"[{group.name}]")
            for name in group.hosts:
                words = [f"{key}={shlex.quote(_literal(v))}" for key, v in inventory.host(name).vars.items()]
                lines.append(" ".join([name, *words]))
            lines.append("")
        if group.children:
            lines += [f"[{group.name}:children]", *group.children, ""]
        lines += _ini_vars(group.name, group.vars)
    lines += _ini_vars("all", inventory.vars)
    return "\n".join(lines)


def _ini_vars(group: str, variables: Vars) -> list[str]:
    if not variables:
        return []
    return [f"[{group}:vars]", *(f"{key}={_literal(value)}" for key, value in variables.items()), ""]


_RENDERERS: Mapping[InventoryFormat, Callable[[AnsibleInventory], str]] = {
    InventoryFormat.INI: _render_ini,
    InventoryFormat.YAML: _render_yaml,
    InventoryFormat.JSON: _render_json,
}
