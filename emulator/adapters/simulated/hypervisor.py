"""A simulated libvirt: it keeps the XML that the real adapter would send and refuses what libvirt refuses.

The contract tests observe its rules on a real libvirtd. It accepts everything that libvirt accepts, such as two domains
with the same MAC address, which the program itself must prevent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID

from emulator.adapters.libvirt.domain_xml import domain_xml, read_domain
from emulator.adapters.libvirt.network_xml import network_xml, read_network
from emulator.adapters.libvirt.ownership_xml import parse
from emulator.adapters.simulated.calls import CallHook
from emulator.adapters.simulated.disks import backing_of
from emulator.adapters.simulated.saved_states import SimulatedSavedStates
from emulator.core.errors import ConflictError, HypervisorError
from emulator.core.fs import replace_file
from emulator.core.ports import DomainInfo, DomainRequest, DomainState, NetworkInfo, NetworkRequest
from emulator.core.ports.guest_accounts import GuestAccount

_VERSION = 1
# One text gives one answer, and is read hundreds of times.
_read_domain = lru_cache(maxsize=1024)(read_domain)
_read_network = lru_cache(maxsize=1024)(read_network)
_FILE_LOCK = threading.RLock()  # connections of one process may share a file


class SimulatedHypervisor(SimulatedSavedStates):
    """`Hypervisor` in memory, or in the JSON file `state`, so that it survives between commands.

    Args:
        state: file that holds everything; None keeps it in memory.
        hook: see `CallHook`.
    """

    def __init__(self, state: Path | None = None, *, hook: CallHook | None = None) -> None:
        self._file = state
        self._text = ""  # what the file held when it was last read
        self._hook = hook or CallHook()
        self._lock = threading.RLock() if state is None else _FILE_LOCK
        # Name -> XML, and the names of running objects.
        self._domains: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._memory: dict[str, str] = {}  # what tests have put into a guest's memory
        self._ran: dict[str, list[str]] = {}  # disks on which a guest with a saved state has run since
        self._live: dict[str, str] = {}  # the XML that a running domain was started with
        self._networks: dict[str, str] = {}
        self._active: set[str] = set()
        self._live_networks: dict[str, str] = {}  # the XML that an active network runs with

    # ---------------------------------------------------------------- state
    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._hook.around(name), self._lock:
            self._load()
            yield
            self._save()

    def _load(self) -> None:
        if self._file is None or not self._file.exists():
            return
        self._text = self._file.read_text()
        data = json.loads(self._text)
        if data["version"] != _VERSION:
            raise HypervisorError("the simulated hypervisor's file has another version", where=str(self._file))
        self._domains, self._states, self._networks = data["domains"], data["states"], data["networks"]
        self._active = set(data["active"])
        self._live = data.get("live", {})
        self._live_networks = data.get("live_networks", {})
        self._memory, self._ran = data.get("memory", {}), data.get("ran", {})

    def _save(self) -> None:
        if self._file is None:
            return
        data = {
            "version": _VERSION,
            "domains": self._domains,
            "states": self._states,
            "live": self._live,
            "networks": self._networks,
            "active": sorted(self._active),
            "live_networks": self._live_networks,
            **({"memory": self._memory} if self._memory else {}),
            **({"ran": self._ran} if self._ran else {}),
        }
        text = json.dumps(data)
        if text == self._text:
            return  # a call that only looks
        replace_file(self._file, text.encode())

    # -------------------------------------------------------------- seeding
    def seed_foreign_domain(self, name: str, uuid: UUID, *, mac: str = "52:54:00:ff:ff:ff") -> None:
        """Add a foreign domain, without our metadata."""
        with self._lock:
            self._load()
            self._domains[name] = (
                f"<domain><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>512</memory><vcpu>1</vcpu>"
                f"<devices><interface type='bridge'><mac address='{mac}'/></interface></devices></domain>"
            )
            self._states[name] = DomainState.SHUTOFF
            self._save()

    def seed_foreign_network(
        self, name: str, uuid: UUID, *, bridge: str, subnet: IPv4Network | None = None, active: bool = True
    ) -> None:
        """Add a foreign network, without our metadata."""
        ip = f"<ip address='{subnet[1]}' netmask='{subnet.netmask}'/>" if subnet else ""
        with self._lock:
            self._load()
            text = f"<network><name>{name}</name><uuid>{uuid}</uuid><bridge name='{bridge}'/>{ip}</network>"
            self._networks[name] = text
            self._active |= {name} if active else set()
            self._save()

    def copy_domain(self, name: str, new: str, uuid: UUID, *, mac: str = "52:54:00:ff:ff:fe") -> None:
        """Copy a domain as `virt-clone` does: name, UUID and address are new, the metadata stays."""
        with self._lock:
            self._load()
            old = self._info(name)
            text = self._domains[name].replace(f"<name>{name}</name>", f"<name>{new}</name>")
            self._domains[new] = text.replace(str(old.uuid), str(uuid)).replace(old.macs[0], mac)
            self._states[new] = DomainState.SHUTOFF
            self._save()

    def copy_network(self, name: str, new: str, uuid: UUID, *, bridge: str, active: bool = True) -> None:
        """Copy a network as by dumping it and defining it under another name, with other addresses."""
        with self._lock:
            self._load()
            old = self._network(name)
            text = self._networks[name].replace(f"<name>{name}</name>", f"<name>{new}</name>")
            text = re.sub("<ip .*</ip>", "", text, flags=re.DOTALL)
            self._networks[new] = text.replace(str(old.uuid), str(uuid)).replace(f'"{old.bridge}"', f'"{bridge}"')
            self._active |= {new} if active else set()
            self._save()

    def call_domain(self, name: str, new: str) -> None:
        """Rename a domain by hand, and start it again if it ran."""
        with self._lock:
            self._load()
            self._domains[new] = self._domains.pop(name).replace(f"<name>{name}</name>", f"<name>{new}</name>")
            self._states[new] = self._states.pop(name)
            if self._live.pop(name, None) is not None:
                self._live[new] = self._domains[new]
            self._save()

    def unmark(self, name: str) -> None:
        """Remove the metadata of a domain or network by hand."""
        with self._lock:
            self._load()
            for texts in (self._domains, self._networks):
                if name in texts:
                    texts[name] = re.sub("<metadata>.*</metadata>", "", texts[name], flags=re.DOTALL)
            self._save()

    def set_state(self, name: str, state: DomainState) -> None:
        """Change a domain's state behind the program's back: a crash, a pause, a power-off by the guest."""
        with self._lock:
            self._load()
            self._states[name] = state
            if state not in (DomainState.RUNNING, DomainState.PAUSED):
                self._end(name)
            self._save()

    def edit(self, name: str, old: str, new: str, *, live: bool = False) -> None:
        """Edit the stored description of a domain or network by hand, or the one that a domain runs with."""
        with self._lock:
            self._load()
            stored = (self._domains, self._networks)
            kinds = (self._live, self._live_networks) if live else stored
            texts = next(kind for kind in kinds if old in kind.get(name, ""))
            texts[name] = texts[name].replace(old, new)
            self._save()

    def reboot_host(self) -> None:
        """Reboot: everything stays defined and nothing runs."""
        with self._lock:
            self._load()
            self._states = dict.fromkeys(self._domains, DomainState.SHUTOFF.value)
            self._active = set()
            self._live = {}
            self._memory = {}
            self._live_networks = {}
            self._save()

    # -------------------------------------------------------------- domains
    def domains(self) -> tuple[DomainInfo, ...]:
        with self._call("domains"):
            return tuple(self._info(name) for name in sorted(self._domains))

    def domain(self, name: str) -> DomainInfo | None:
        with self._call("domain"):
            return self._info(name) if name in self._domains else None

    def domain_by_uuid(self, uuid: UUID) -> DomainInfo | None:
        with self._call("domain"):
            return next((info for info in map(self._info, self._domains) if info.uuid == uuid), None)

    def admit_guests(self, directories: Iterable[Path], account: GuestAccount | None = None) -> None:
        del account
        with self._call("admit_guests"):
            for directory in directories:
                if not directory.is_dir():
                    raise HypervisorError("cannot be opened for QEMU: No such file or directory", where=str(directory))

    def define_domain(self, request: DomainRequest) -> None:
        with self._call("define_domain"):
            for other in map(self._info, self._domains):
                _refuse_rival("domain", request.name, request.uuid, other.name, other.uuid)
            self._domains[request.name] = domain_xml(request)
            self._states.setdefault(request.name, DomainState.SHUTOFF)

    def rename_domain(self, name: str, new: str) -> None:
        with self._call("rename_domain"):
            if self._state(name) is not DomainState.SHUTOFF:
                raise HypervisorError("Requested operation is not valid: cannot rename active domain", where=name)
            if new in self._domains:
                raise ConflictError(f"domain with name '{new}' already exists", where=f"domain {name}")
            self._domains[new] = self._domains.pop(name).replace(f"<name>{name}</name>", f"<name>{new}</name>")
            self._states[new] = self._states.pop(name)

    def start_domain(self, name: str) -> None:
        with self._call("start_domain"):
            state = self._state(name)
            if state is DomainState.RUNNING:
                return
            if state is not DomainState.PAUSED:
                self._check_start(name)
                self._say_host_key(name)
                self._live[name] = self._domains[name]
            self._states[name] = DomainState.RUNNING
            self._note_run(name)

    def pause_domain(self, name: str) -> None:
        with self._call("pause_domain"):
            if name in self._domains and self._state(name) is DomainState.RUNNING:
                self._states[name] = DomainState.PAUSED

    def shutdown_domain(self, name: str, *, timeout: float) -> None:
        del timeout
        with self._call("shutdown_domain"):
            if name in self._domains:
                self._states[name] = DomainState.SHUTOFF
                self._end(name)

    def delete_domain(self, name: str) -> None:
        with self._call("delete_domain"):
            self._domains.pop(name, None)
            self._states.pop(name, None)
            self._end(name)

    def running_macs(self) -> tuple[str, ...]:
        """MAC addresses of running domains, for the simulated guests."""
        with self._lock:
            self._load()
            running = (self._info(name) for name in self._domains if self._state(name) is DomainState.RUNNING)
            return tuple(mac for info in running for mac in info.macs)

    def _info(self, name: str) -> DomainInfo:
        state = self._state(name)
        live = _read_domain(self._live[name], state=state, autostart=False) if name in self._live else None
        return replace(_read_domain(self._domains[name], state=state, autostart=False), live=live)

    def _state(self, name: str) -> DomainState:
        if name not in self._domains:
            raise HypervisorError(f"Domain not found: no domain with matching name '{name}'", where=f"domain {name}")
        return DomainState(self._states[name])

    def _check_start(self, name: str) -> None:
        where = f"domain {name}"
        root = parse(self._domains[name], "domain")
        source = root.find("devices/interface/source")
        network = source.get("network", "") if source is not None else ""
        if network not in self._networks:
            raise HypervisorError(f"Network not found: no network with matching name '{network}'", where=where)
        if network not in self._active:
            raise HypervisorError(f"network '{network}' is not active", where=where)
        files = [Path(root.findtext(f"os/{tag}") or "") for tag in ("kernel", "initrd")]
        disks = self._info(name).disks
        bases = [base for disk in disks if disk.is_file() and (base := backing_of(disk)) is not None]
        for file in (*disks, *bases, *files):
            if not file.is_file():
                raise HypervisorError(f"Cannot access storage file '{file}': No such file or directory", where=where)

    def _say_host_key(self, name: str) -> None:
        """Print the guest's host key on its console, as golden images do. The key is derived and not secret."""
        log = parse(self._domains[name], "domain").find("devices/serial/log")
        console = Path(log.get("file", "")) if log is not None else None
        if console is None or not console.parent.is_dir():
            return
        kind = b"ssh-ed25519"
        point = hashlib.sha256(name.encode()).digest()
        blob = len(kind).to_bytes(4, "big") + kind + len(point).to_bytes(4, "big") + point
        with console.open("a") as file:
            file.write(f"\nhyperscaler-host-key: ssh-ed25519 {base64.b64encode(blob).decode()}\n")

    # ------------------------------------------------------------- networks
    def networks(self) -> tuple[NetworkInfo, ...]:
        with self._call("networks"):
            return tuple(self._network(name) for name in sorted(self._networks))

    def network(self, name: str) -> NetworkInfo | None:
        with self._call("network"):
            return self._network(name) if name in self._networks else None

    def network_by_uuid(self, uuid: UUID) -> NetworkInfo | None:
        with self._call("network"):
            return next((info for info in map(self._network, self._networks) if info.uuid == uuid), None)

    def define_network(self, request: NetworkRequest) -> None:
        with self._call("define_network"):
            for other in map(self._network, self._networks):
                _refuse_rival("network", request.name, request.uuid, other.name, other.uuid)
                if other.name != request.name and other.bridge == request.bridge:
                    raise ConflictError(
                        f"bridge name '{request.bridge}' already in use", where=f"network {request.name}"
                    )
            self._networks[request.name] = network_xml(request)
            self._start_network(request.name)
            self._live_networks[request.name] = self._networks[request.name]

    def start_network(self, name: str) -> None:
        with self._call("start_network"):
            if name not in self._networks:
                raise HypervisorError(
                    f"Network not found: no network with matching name '{name}'", where=f"network {name}"
                )
            self._start_network(name)

    def _start_network(self, name: str) -> None:
        subnets = self._network(name).subnets
        for other in map(self._network, self._active - {name}):
            if any(subnet.overlaps(theirs) for subnet in subnets for theirs in other.subnets):
                raise ConflictError(f"Network is already in use by interface {other.bridge}", where=f"network {name}")
        if name not in self._active:
            self._live_networks[name] = self._networks[name]
        self._active.add(name)

    def delete_network(self, name: str) -> None:
        with self._call("delete_network"):
            self._networks.pop(name, None)
            self._active.discard(name)
            self._live_networks.pop(name, None)

    def _network(self, name: str) -> NetworkInfo:
        active = name in self._active
        info = _read_network(self._networks[name], active=active)
        text = self._live_networks.get(name) if active else None
        return info if text is None else replace(info, live=_read_network(text, active=True))

    # ------------------------------------------------------------ connection
    def guest_command_prefix(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        """Nothing to close."""


def _refuse_rival(kind: str, name: str, uuid: UUID, other_name: str, other_uuid: UUID) -> None:
    """Refuse an existing name with another UUID, as libvirt does."""
    if (name == other_name) != (uuid == other_uuid):
        raise ConflictError(f"{kind} '{other_name}' is already defined with uuid {other_uuid}", where=f"{kind} {name}")
