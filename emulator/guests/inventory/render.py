"""An inventory as text: INI, YAML, or the JSON of Ansible's dynamic inventories. Pure.

Every string is literal: Ansible evaluates none of them as a template, see `emulator.core.ansible_text`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeAlias

from emulator.core.ansible_text import literal_json, literal_template, literal_yaml
from emulator.guests.inventory.model import AnsibleInventory, InventoryGroup, Vars, VarValue

Plain: TypeAlias = str | int | bool | list["Plain"] | dict[str, "Plain"]


class InventoryFormat(StrEnum):
    INI = "ini"
    YAML = "yaml"
    JSON = "json"


def render(inventory: AnsibleInventory, form: InventoryFormat) -> str:
    """The inventory in one of Ansible's formats; each parses back to the same hosts and variables."""
    return _RENDERERS[form](inventory)


def _same(text: str) -> Plain:
    return text


def _plain(value: VarValue, write: Callable[[str], Plain] = _same) -> Plain:
    """The value in lists and dictionaries, each string as `write` puts it."""
    if isinstance(value, str):
        return write(value)
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, tuple):
        return [_plain(item, write) for item in value]
    return {key: _plain(item, write) for key, item in value.items()}


def _plain_vars(variables: Vars, write: Callable[[str], Plain] = _same) -> dict[str, Plain]:
    return {key: _plain(value, write) for key, value in variables.items()}


def _json_text(text: str) -> Plain:
    found = literal_json(text)
    return found if isinstance(found, str) else {**found}


def _render_json(inventory: AnsibleInventory) -> str:
    """`ansible-inventory --list` shape; host variables under `_meta`, so that no host is asked for one by one."""
    groups: dict[str, Plain] = {
        "all": {"children": [*_top_level(inventory)], "vars": _plain_vars(inventory.vars, _json_text)}
    }
    for group in inventory.groups:
        groups[group.name] = {
            "hosts": [*group.hosts],
            "children": [*group.children],
            "vars": _plain_vars(group.vars, _json_text),
        }
    groups["_meta"] = {"hostvars": {host.name: _plain_vars(host.vars, _json_text) for host in inventory.hosts}}
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
    return literal_yaml(document)


def _literal(value: VarValue) -> str:
    """A Python literal, which is what Ansible's INI parser evaluates: the type survives, and so does any text."""
    return repr(_plain(value, literal_template))


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
