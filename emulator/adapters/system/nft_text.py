"""nftables tables, written in the language of nft(8) and read back from its JSON. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from emulator.core.errors import HyperscalerError
from emulator.core.ports import Ownership
from emulator.core.ports.packet_filter import FilterChain, FilterHook, FilterTable, FilterTableInfo

# The family of every table of ours, IPv4 and IPv6 in one.
FAMILY = "inet"

# The chain that bears the ownership mark in the comments of its rules (the first names lab, resource and digest, the
# others the home directory piece by piece), because nft 1.0 keeps comments of tables but omits them from its JSON.
# Nothing jumps there.
OWNER_CHAIN = "owner"

# type and priority of a base chain by its hook. Before the host's own tables (priority 0), so that what is refused
# is refused by an answer of ours and counted here; what we let pass still has to pass theirs.
_BASE = {
    FilterHook.INPUT: "type filter hook input priority -10; policy accept;",
    FilterHook.FORWARD: "type filter hook forward priority -10; policy accept;",
    FilterHook.POSTROUTING: "type nat hook postrouting priority 90; policy accept;",
}
_OWNER = re.compile(
    r"hyperscaler lab=(?P<lab>[a-z0-9-]+) resource=(?P<resource>[a-z0-9/-]+) digest=(?P<digest>[0-9a-f]*)"
)
_HOME = "home="
_COMMENT_LIMIT = 127


def replacement(table: FilterTable) -> str:
    """Commands that replace the table of this name. nft carries them out as one transaction.

    `delete` alone fails if there is no such table, hence the declaration before it.
    """
    return f"table {FAMILY} {table.name}\n{deletion(table.name)}{_rendered(table)}"


def deletion(name: str) -> str:
    return f"delete table {FAMILY} {name}\n"


def _rendered(table: FilterTable) -> str:
    owner = table.owner
    marks = [f"hyperscaler lab={owner.lab} resource={owner.resource_id} digest={owner.digest}"]
    room = _COMMENT_LIMIT - len(_HOME)
    marks += [_HOME + owner.home[at : at + room] for at in range(0, len(owner.home), room)]
    lines = [f"table {FAMILY} {table.name} {{", f"\tchain {OWNER_CHAIN} {{"]
    lines += [*(f"\t\treturn{_comment(mark)}" for mark in marks), "\t}"]
    for chain in table.chains:
        lines += _chain(chain)
    return "\n".join([*lines, "}", ""])


def _chain(chain: FilterChain) -> Iterable[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook is not None:
        yield f"\t\t{_BASE[chain.hook]}"
    for rule in chain.rules:
        yield f"\t\t{rule.text}{_comment(rule.comment)}"
    yield "\t}"


def _comment(text: str) -> str:
    """nft has no escapes in quoted text."""
    plain = re.sub(r"[^ !#-\[\]-~]", "?", text)[:_COMMENT_LIMIT]
    return f' comment "{plain}"' if plain else ""


def read_table(name: str, text: str) -> FilterTableInfo:
    """A table from the output of `nft -j list table`.

    Raises:
        HyperscalerError: the text is not nft's JSON.
    """
    try:
        items = [(kind, body) for item in json.loads(text)["nftables"] for kind, body in item.items()]
        contents = [(kind, body) for kind, body in items if kind not in ("metainfo", "table")]
        parts: dict[str, list[Any]] = {}
        for kind, body in contents:
            part = body["chain"] if kind == "rule" else f"{'' if kind == 'chain' else f'{kind} '}{body['name']}"
            parts.setdefault(part, []).append(_settled({key: body[key] for key in body if key not in _PASSING}))
        marks = [body.get("comment", "") for kind, body in contents if kind == "rule" and body["chain"] == OWNER_CHAIN]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise HyperscalerError(
            f"nft describes the table in an unknown way: {error}",
            where=f"nft -j list table {FAMILY} {name}",
        ) from error
    return FilterTableInfo(name, _owner(marks), {part: _digest(found) for part, found in sorted(parts.items())})


# Numbers that the kernel assigns anew.
_PASSING = ("handle", "index", "position")


def _settled(value: Any) -> Any:
    """JSON of a rule without its changing parts: counters and the order within a set."""
    if isinstance(value, Mapping):
        if set(value) == {"counter"}:
            return "counter"
        return {
            key: sorted(map(_settled, item), key=_digest) if key == "set" and isinstance(item, list) else _settled(item)
            for key, item in value.items()
        }
    return [_settled(item) for item in value] if isinstance(value, list) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _owner(marks: list[str]) -> Ownership | None:
    match = _OWNER.fullmatch(marks[0]) if marks else None
    if match is None or not all(mark.startswith(_HOME) for mark in marks[1:]):
        return None
    home = "".join(mark.removeprefix(_HOME) for mark in marks[1:])
    return Ownership(match["lab"], match["resource"], match["digest"], home)
