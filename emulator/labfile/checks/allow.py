"""Checks of `allow`, and its entries with groups written out as nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from emulator.labfile.draft import Draft, NetworkDraft
from emulator.labfile.findings import quoted
from emulator.labfile.model import ClusterKind
from emulator.labfile.networks import AllowSpec, Protocol
from emulator.labfile.read.structure import nearest
from emulator.labfile.read.view import View

LAST_PORT = 65535


def check_allow(draft: Draft) -> None:
    """Every entry of every network: its names against the nodes of the lab, its ports against its protocol."""
    for network in draft.networks.values():
        other = _other(network.kind)
        for view, entry in network.allow:
            if other not in draft.networks:
                view.error(
                    "allow.alone",
                    f"the lab has no {other.value} cluster that the nodes of {network.key} could reach",
                    f"remove the entry, or add `clusters.{other.value}`",
                )
                continue
            _check_names(draft, network, view.each("from", entry.sources), network.kind, "from")
            _check_names(draft, network, view.each("to", entry.targets), other, "to")
            _check_ports(view, entry)


def allowed(draft: Draft, network: NetworkDraft) -> tuple[AllowSpec, ...]:
    """The entries of a network without errors: groups as their nodes, ports in ascending order."""
    return tuple(
        replace(
            entry,
            sources=_expanded(draft, network.kind, entry.sources),
            targets=_expanded(draft, _other(network.kind), entry.targets),
            ports=merged_ports(entry.ports),
        )
        for _, entry in network.allow
    )


def _other(kind: ClusterKind) -> ClusterKind:
    return next(each for each in ClusterKind if each is not kind)


def _groups(draft: Draft, kind: ClusterKind) -> dict[str, tuple[str, ...]]:
    """What may be written for nodes of a cluster: the name of each, and the name of a group for all that it has."""
    groups = draft.groups_of(kind)
    return {group.role.value: group.names for group in groups} | {
        name: (name,) for group in groups for name in group.names
    }


def _expanded(draft: Draft, kind: ClusterKind, names: Iterable[str]) -> tuple[str, ...]:
    known = _groups(draft, kind)
    return tuple(dict.fromkeys(node for name in names for node in known[name]))


def _check_names(
    draft: Draft, network: NetworkDraft, named: Iterable[tuple[View, str]], kind: ClusterKind, key: str
) -> None:
    if any(group.count is None for group in draft.groups_of(kind)):
        return  # how many nodes there are is not known, so neither are their names
    known, elsewhere = _groups(draft, kind), _groups(draft, _other(kind))
    for view, name in named:
        if name in known:
            if not known[name]:
                view.error("allow.empty", f"{quoted(name)} has no nodes", "remove the name, or raise the count")
            continue
        if name in elsewhere:
            side = "nodes of the same network always reach each other" if key == "to" else "it is on the other side"
            view.error(
                "allow.side",
                f"{quoted(name)} is no node of the {kind.value} cluster: {side}",
                f"entries of {network.key} lead from {network.kind.value} to {_other(network.kind).value} nodes",
            )
            continue
        populated = [each for each, nodes in known.items() if nodes]
        near = nearest(name, populated)
        choices = f"one of {', '.join(populated[:6])}"
        view.error(
            "allow.name",
            f"the {kind.value} cluster has no node or group {quoted(name)}",
            f"did you mean {quoted(near)}?" if near else choices,
        )


def _check_ports(view: View, entry: AllowSpec) -> None:
    ports, protocol = view.child("ports"), view.usable("protocol", entry.protocol)
    if protocol is Protocol.ICMP:
        if ports.present:
            ports.error("allow.ports", "icmp has no ports", "remove `ports`, or name tcp or udp as the protocol")
        return
    if protocol is not None and not ports.present:
        view.error("allow.ports", f"{protocol.value} needs `ports`", "for example `ports: [443]`")
    for item, text in view.each("ports", entry.ports):
        first, last = _bounds(text)
        if not 1 <= first <= last <= LAST_PORT:
            what = "ends before it begins" if first > last else f"is not between 1 and {LAST_PORT}"
            item.error("allow.range", f"{quoted(text)} {what}", "for example 8000-8100")


def _bounds(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    return int(first), int(last if dash else first)


def merged_ports(texts: Iterable[str]) -> tuple[str, ...]:
    """Ports and ranges in ascending order, those that touch or overlap as one: older nft refuses overlaps in a set."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(_bounds(text) for text in texts):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return tuple(str(first) if first == last else f"{first}-{last}" for first, last in merged)
