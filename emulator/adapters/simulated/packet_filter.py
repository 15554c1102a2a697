"""A simulated packet filter: it keeps tables and refuses what nft(8) and the kernel refuse.

It understands the part of nft's language that the program uses; anything else is a syntax error. The contract tests
compare it with the real nft.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

from emulator.adapters.simulated.calls import CallHook
from emulator.core.errors import CommandError
from emulator.core.fs import replace_file
from emulator.core.ports import Ownership
from emulator.core.ports.packet_filter import FilterChain, FilterHook, FilterTable, FilterTableInfo

_VERSION = 1
_TOKEN = re.compile(r'\s*("[^"]*"|!=|[{},]|\.(?=\s)|[^\s{},"]+)')
_SELECTORS = frozenset(("iifname", "oifname", "saddr", "daddr", "dport", "sport", "type", "nfproto", "state"))
_CONSTANTS = frozenset(("echo-request", "ipv4", "ipv6", "established", "related"))
_CONSTANTS |= {"nd-neighbor-solicit", "nd-neighbor-advert", "nd-router-advert", "nd-redirect"}
_STATEMENTS = ("counter", "accept", "drop", "return", "reject", "with", "icmpx", "admin-prohibited", "masquerade")
_PROTOCOLS = ("ip", "ip6", "ether", "tcp", "udp", "icmp", "icmpv6")
_WORDS = frozenset((*_PROTOCOLS, "meta", "ct", "jump", "goto", *_STATEMENTS))
_SIGNS = frozenset("{},.") | {"!="}
_VERDICTS = (["accept"], ["drop"], ["return"], ["masquerade"], ["reject", "with", "icmpx", "admin-prohibited"])
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_PORTS = re.compile(r"\d{1,5}(?:-\d{1,5})?")
# IFNAMSIZ of <linux/if.h>, 16 with the closing NUL.
_INTERFACE_LIMIT = 15


class SimulatedPacketFilter:
    """`PacketFilter` in memory, or in the JSON file `state`, so that it survives between commands."""

    def __init__(self, state: Path | None = None, *, hook: CallHook | None = None) -> None:
        self._file = state
        self._hook = hook or CallHook()
        self._tables: dict[str, dict[str, Any]] = {}

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._hook.around(f"filter.{name}"):
            if self._file is not None:
                self._tables = json.loads(self._file.read_text())["tables"] if self._file.exists() else {}
            yield

    def _save(self) -> None:
        if self._file is None:
            return
        if not self._tables:
            self._file.unlink(missing_ok=True)
            return
        text = json.dumps({"version": _VERSION, "tables": self._tables}, sort_keys=True)
        replace_file(self._file, text.encode())

    def table(self, name: str) -> FilterTableInfo | None:
        with self._call("table"):
            found = self._tables.get(name)
            if found is None:
                return None
            owner, chains = found["owner"], found["chains"]
            parts = {chain: hashlib.sha256(text.encode()).hexdigest()[:16] for chain, text in sorted(chains.items())}
            return FilterTableInfo(name, Ownership(*owner) if owner else None, parts)

    def replace(self, table: FilterTable) -> None:
        with self._call("replace"):
            for chain in table.chains:
                _check_chain(chain, {each.name for each in table.chains})
            owner = table.owner
            self._tables[table.name] = {
                "owner": [owner.lab, owner.resource_id, owner.digest, owner.home],
                "chains": {chain.name: _text(chain) for chain in table.chains} | {"owner": repr(owner)},
            }
            self._save()

    def delete(self, name: str) -> None:
        with self._call("delete"):
            self._tables.pop(name, None)
            self._save()

    # ---------------------------------------------------------------- behind the program's back
    def seed_foreign_table(self, name: str) -> None:
        """Add a foreign table, without our mark."""
        with self._call("seed"):
            self._tables[name] = {"owner": None, "chains": {"input": "drop"}}
            self._save()

    def edit(self, name: str, chain: str, text: str) -> None:
        """Add a rule by hand, as with `nft add rule`."""
        with self._call("edit"):
            chains = self._tables[name]["chains"]
            chains[chain] = f"{chains.get(chain, '')}\n{text}"
            self._save()


def _text(chain: FilterChain) -> str:
    rules = [f"{rule.text} # {rule.comment}" for rule in chain.rules]
    return "\n".join([chain.hook.value if chain.hook else "", *rules])


def _check_chain(chain: FilterChain, chains: set[str]) -> None:
    for rule in chain.rules:
        tokens = _TOKEN.findall(rule.text)
        if "".join(tokens) != re.sub(r"\s", "", rule.text):
            raise _refused(rule.text, "syntax error")
        _check_verdict(rule.text, tokens, chains)
        if "masquerade" in tokens and chain.hook is not FilterHook.POSTROUTING:
            raise _refused(rule.text, "Could not process rule: Operation not supported")
        for token, after in pairwise([*tokens, ""]):
            known = token in _WORDS or token in _SELECTORS or token in _SIGNS or token in chains or _is_value(token)
            if not known or (token in _SELECTORS and not (after in ("{", "!=", ".") or _is_value(after))):
                raise _refused(rule.text, f"syntax error near {token}")
        _check_sets(rule.text, tokens)


def _check_verdict(rule: str, tokens: Sequence[str], chains: set[str]) -> None:
    if len(tokens) >= 2 and tokens[-2] in ("jump", "goto"):
        if tokens[-1] not in chains:
            raise _refused(rule, "Could not process rule: No such file or directory")
    elif not any(list(tokens[-len(verdict) :]) == verdict for verdict in _VERDICTS):
        raise _refused(rule, "syntax error, unexpected newline")


def _is_value(token: str) -> bool:
    if token in _CONSTANTS:
        return True
    if token.startswith('"'):
        return 0 < len(token.strip('"')) <= _INTERFACE_LIMIT
    if _PORTS.fullmatch(token):
        return all(int(number) <= 65535 for number in token.split("-"))
    if _MAC.fullmatch(token):
        return True
    try:
        ip_network(token)
    except ValueError:
        return False
    return True


def _check_sets(rule: str, tokens: Sequence[str]) -> None:
    """Refuse sets that are empty, nested or unclosed."""
    shape = re.sub(r"[^{}]+", "x", " ".join(tokens).replace(" ", ""))
    if re.sub(r"{x}", "", shape).strip("x"):
        raise _refused(rule, "syntax error in a set")


def _refused(rule: str, why: str) -> CommandError:
    return CommandError(f"the command failed with exit status 1: Error: {why}: {rule}", where="nft -f -")
