"""How many connections one may have, and how fast new ones may come. Pure, on a clock of the caller's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address


@dataclass(frozen=True, slots=True)
class Bounds:
    """`each`: open connections of one. `all`: of everybody. `burst`: new ones of one at once. `rate`: new ones of one
    in a second, after that."""

    each: int
    all: int
    burst: int
    rate: float


@dataclass(slots=True)
class Limits:
    """Counts connections by who has them: a client's address, a user, a node."""

    bounds: Bounds
    _open: Counter[str] = field(default_factory=Counter)
    _spent: dict[str, tuple[float, float]] = field(default_factory=dict)

    def refusal(self, who: str, now: float) -> str:
        """Why `who` gets no further connection now; empty when it is admitted, and then counted."""
        self._forget(now)
        spent, last = self._spent.get(who, (0.0, now))
        spent = max(0.0, spent - (now - last) * self.bounds.rate)
        if self._open.total() >= self.bounds.all:
            return f"{self.bounds.all} connections are open"
        if self._open[who] >= self.bounds.each:
            return f"it has {self.bounds.each} open connections"
        if spent + 1 > self.bounds.burst:
            return "its connections come too fast"
        self._spent[who] = (spent + 1, now)
        self._open[who] += 1
        return ""

    def ended(self, who: str) -> None:
        """After the end of an admitted connection."""
        self._open[who] -= 1
        if self._open[who] <= 0:
            del self._open[who]

    def _forget(self, now: float) -> None:
        """Let nobody fill the memory by coming from ever new addresses."""
        if len(self._spent) > 4096:
            steady = self.bounds.burst / self.bounds.rate
            self._spent = {who: item for who, item in self._spent.items() if now - item[1] < steady}
        if len(self._spent) > 65536:
            self._spent.clear()


def source_of(address: str) -> str:
    """Whose connection it is, by the client's address: in IPv6 a client has the whole /64."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found)
