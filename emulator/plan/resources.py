"""Resources: the things on the host that a lab owns.

A resource is a frozen request made of JSON values only, so that the journal can hold it and `destroy` can work from the
journal alone. Its `digest` covers every field. Facts found while making it (the base image of a disk, the process id of
a daemon) form its *handle* and live in the state.

A new kind of resource needs a class here, a handler in `apply/handlers/` and its place in `build.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

from emulator.core.errors import StateError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JsonValue = Any  # JSON data at the journal's boundary, parsed into the classes below at once

# Marks fields that a newer version added. Empty ones are left out of records and digests, so that resources made before
# the field existed keep their digest.
OMIT_EMPTY = {"omit_empty": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Base of all resources.

    `id` is `<kind>/<name>`, unique in the lab. `needs` are the ids that must exist first. `exclusive` names things
    shared with other resources (a GPU): every delete that names one runs before every create that names it.
    """

    kind: ClassVar[str] = ""
    #: Kept when the lab is destroyed, because other labs share it (golden images).
    shared: ClassVar[bool] = False
    #: Gone after a reboot of the host without having been deleted.
    volatile: ClassVar[bool] = False
    #: Resources of a group are made together: a failure undoes those that the run has made.
    group: ClassVar[str] = ""
    #: All wanted resources of this group are made first.
    waits_for_group: ClassVar[str] = ""
    #: Changes only after its dependents that are to be removed are gone (a packet filter outlives its guests).
    outlives_departing: ClassVar[bool] = False
    #: Fields that the handler can change in place; any other change means delete and create.
    updatable: ClassVar[frozenset[str]] = frozenset()

    name: str
    needs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def exclusive(self) -> tuple[str, ...]:
        return ()

    @property
    def chain(self) -> str:
        """Resources of the same chain are made one after the other, in the plan's order; empty: no chain."""
        return ""

    @property
    def digest(self) -> str:
        """16 hex digits over all fields except `needs`, compared with libvirt metadata and the journal."""
        data = {key: value for key, value in self.to_json().items() if key != "needs"}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, JsonValue]:
        return {"kind": self.kind, **_fields(self)}

    def differences(self, old: Resource) -> dict[str, tuple[JsonValue, JsonValue]]:
        """Fields in which this request differs from `old`, as `{field: (old, new)}`."""
        if self == old:
            return {}
        mine, theirs = self.to_json(), old.to_json()
        return {
            key: (theirs.get(key, ""), mine.get(key, ""))
            for key in dict.fromkeys((*mine, *theirs))
            if key != "needs" and theirs.get(key, "") != mine.get(key, "")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervisor(Resource):
    """The lab's own libvirtd in its own namespaces. `directory` is absolute."""

    kind = "hypervisor"
    volatile = True
    directory: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SshKeyPair(Resource):
    """The lab's ed25519 key pair; `path` is the private key, 0600."""

    kind = "ssh-key"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Resource):
    """Random bytes in a 0600 file; the content never enters the journal.

    `encoding`: raw, text (URL-safe), or ec-key, a private key on the curve P-256 as PEM.
    """

    kind = "secret"
    path: str
    size_bytes: int
    encoding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenImage(Resource):
    """A golden image in the store, built when the store has none or its recipe has changed.

    Its digest does not cover the image's content: a lab keeps the image that its disks are made from.
    """

    kind = "image"
    shared = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpReservation:
    """One guest's fixed address; part of a `Network`. The IPv6 address, if it has one, is for DNS alone."""

    mac: str
    ip: str
    name: str
    ip_v6: str = field(default="", metadata=OMIT_EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilteredNode:
    """A node's addresses for a `Firewall`: packets from its network with any other pair are spoofed."""

    name: str
    mac: str
    ip: str
    ip_v6: str = field(default="", metadata=OMIT_EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallZone:
    """One network behind a `Firewall`. Without `subnet_v6` nothing passes in IPv6.

    `nat`: its nodes may reach public addresses through the host, and the private ranges in `nat_private` (CIDR).
    """

    name: str
    bridge: str
    subnet: str
    gateway: str
    nat: bool
    nodes: tuple[FilteredNode, ...]
    subnet_v6: str = field(default="", metadata=OMIT_EMPTY)
    gateway_v6: str = field(default="", metadata=OMIT_EMPTY)
    nat_private: tuple[str, ...] = field(default=(), metadata=OMIT_EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallRule:
    """Traffic that may pass from one zone to another.

    `sources` and `targets` are addresses (both families for nodes with IPv6); empty means every node of the zone.
    `ports` are numbers and ranges (`8000-8100`), empty for `icmp`.
    """

    name: str
    source_zone: str
    target_zone: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    protocol: str
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall(Resource):
    """The lab's own nftables table: what its networks may exchange with each other, the host and the outside.

    The networks need it, so that it exists from before the first guest until after the last one.
    """

    kind = "firewall"
    volatile = True
    outlives_departing = True
    updatable = frozenset({"zones", "rules"})
    table: str
    zones: tuple[FirewallZone, ...]
    rules: tuple[FirewallRule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsAlias:
    """A node of the lab's other network, for this network's DNS; the canonical name comes first."""

    name: str
    ip: str
    names: tuple[str, ...]
    ip_v6: str = field(default="", metadata=OMIT_EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network(Resource):
    """A libvirt network with DHCP reservations for its nodes and DNS names for all nodes of the lab.

    `filtering` names the rules that confine it: `libvirt`'s (older versions) or the lab's own table, `firewall`.
    `subnet_v6` and `gateway_v6` are empty where there is no IPv6.
    """

    kind = "network"
    volatile = True
    updatable = frozenset({"hosts", "aliases"})
    uuid: str
    bridge: str
    subnet: str
    gateway: str
    dns_domain: str
    hosts: tuple[DhcpReservation, ...]
    nat: bool
    aliases: tuple[DnsAlias, ...] = ()
    filtering: str = "libvirt"
    subnet_v6: str = field(default="", metadata=OMIT_EMPTY)
    gateway_v6: str = field(default="", metadata=OMIT_EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Resource):
    """A qcow2 overlay on a golden image. It can grow; it never shrinks.

    `admin` is the account of its image that the lab's key can log in to; root in records without it.
    """

    kind = "volume"
    updatable = frozenset({"size_gib"})
    path: str
    image: str
    size_gib: int
    admin: str = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostdevRequest:
    """A host device for a guest. `source` is the id of the resource whose handle holds its address."""

    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain(Resource):
    """A domain. `volume` and `network` are ids; the network has a reservation for the MAC address."""

    kind = "domain"
    volatile = True
    waits_for_group = "gpu"
    updatable = frozenset({"vcpus", "memory_mib", "hostdevs", "accelerated"})
    uuid: str
    node: str
    vcpus: int
    memory_mib: int
    mac: str
    ip: str
    network: str
    volume: str
    console_log: str
    accelerated: bool
    hostdevs: tuple[HostdevRequest, ...] = ()


class DamagedRecordError(StateError):
    """A record lacks a field or holds a value of the wrong type."""


R = TypeVar("R", bound=type[Resource])
_KINDS: dict[str, type[Resource]] = {
    cls.kind: cls for cls in (Hypervisor, SshKeyPair, Secret, GoldenImage, Firewall, Network, Volume, Domain)
}
_NESTED: dict[tuple[str, str], type] = {
    ("firewall", "zones"): FirewallZone,
    ("firewall", "rules"): FirewallRule,
    ("firewall/zones", "nodes"): FilteredNode,
    ("network", "hosts"): DhcpReservation,
    ("network", "aliases"): DnsAlias,
    ("domain", "hostdevs"): HostdevRequest,
}


def register(cls: R) -> R:
    """Class decorator for kinds that live in other modules (GPU resources)."""
    _KINDS[cls.kind] = cls
    return cls


def resource_from_json(data: Mapping[str, JsonValue]) -> Resource:
    """The inverse of `Resource.to_json`.

    Raises:
        StateError: unknown kind.
        DamagedRecordError: a field is missing, unknown or of the wrong type.
    """
    kind = data.get("kind")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise StateError(
            f"unknown kind of resource: {kind!r}",
            fix="use the version of hyperscaler that wrote this state, or a newer one",
        )
    try:
        return cls(**{key: _read(cls.kind, cls, key, value) for key, value in data.items() if key != "kind"})
    except TypeError as error:
        raise DamagedRecordError(f"damaged record of a {kind}: {error}") from error


def _read(place: str, cls: type, key: str, value: JsonValue) -> JsonValue:
    """A field's value in the type that the class declares; lists become tuples, of the records that `_NESTED` names.

    Raises:
        TypeError: the value is of another type.
    """
    nested = _NESTED.get((place, key))
    wanted = _types(cls).get(key, str)
    if isinstance(value, list):
        if wanted in (str, int, bool):
            raise TypeError(f"{key} is a list")
        return tuple(_read_item(f"{place}/{key}", nested, item) for item in value)
    if wanted not in (str, int, bool) or type(value) is not wanted:
        raise TypeError(f"{key} is a {type(value).__name__}")
    return value


def _read_item(place: str, nested: type | None, item: JsonValue) -> object:
    if nested is None:
        if not isinstance(item, str):
            raise TypeError(f"{item!r} is not text")
        return item
    if not isinstance(item, dict):
        raise TypeError(f"{item!r} is not a {nested.__name__}")
    return nested(**{key: _read(place, nested, key, value) for key, value in item.items()})


@cache
def _types(cls: type) -> Mapping[str, Any]:
    """The types of the fields of a record."""
    hints = get_type_hints(cls)
    return {each.name: hints[each.name] for each in dataclasses.fields(cls)}


def _plain(value: JsonValue) -> JsonValue:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _fields(record: DataclassInstance) -> dict[str, JsonValue]:
    values = ((each, getattr(record, each.name)) for each in dataclasses.fields(record))
    return {
        each.name: _plain(value) for each, value in values if value not in ("", ()) or "omit_empty" not in each.metadata
    }
