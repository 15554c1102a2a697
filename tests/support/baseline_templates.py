"""Templates of the role that both playbooks share, as Ansible renders them from an inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import yaml

from emulator.core.data_files import share_dir
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import ConnectionFacts
from emulator.guests.inventory.render import InventoryFormat, render
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ADMIN

PLAYBOOKS = share_dir() / "playbooks"
LAB = """
version: "1.0"
metadata: {name: x}
clusters:
  hpc: {compute_nodes: {count: 2}}
  cloud: {worker_nodes: {cpu_workers: {count: 1}}}
"""


def inventory_of(text: str) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Variables of every node, with those of the lab and its cluster, and the nodes of every group."""
    spec, report = parse_spec(text, file="f")
    assert spec is not None, report.findings
    inventory = build_inventory(spec, ConnectionFacts(ADMIN, Path("/k"), Path("/h")))
    tree = yaml.safe_load(render(inventory, InventoryFormat.YAML))["all"]
    hostvars: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    for name, cluster in tree["children"].items():
        groups[name] = []
        for group, body in cluster["children"].items():
            groups[group] = list(body["hosts"])
            groups[name] += groups[group]
            for node, variables in body["hosts"].items():
                hostvars[node] = {**tree["vars"], **cluster.get("vars", {}), **variables, "inventory_hostname": node}
    return hostvars, groups


def rendered(template: str, host: str, text: str = LAB) -> str:
    hostvars, groups = inventory_of(text)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PLAYBOOKS / "roles" / "baseline" / "templates"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 -- configuration files, not HTML
    )
    # Ansible's own filter: the entry of a mapping, and then one of that entry.
    environment.filters["extract"] = lambda key, container, inner: container[key][inner]
    return environment.get_template(template).render(**hostvars[host], hostvars=hostvars, groups=groups)
