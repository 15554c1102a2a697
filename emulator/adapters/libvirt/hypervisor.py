"""`Hypervisor` on libvirt."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from emulator.adapters.control_groups.guests import GuestGroups
from emulator.adapters.libvirt import errors as errors
from emulator.adapters.libvirt import saved_states
from emulator.adapters.libvirt.config_files import may_have
from emulator.adapters.libvirt.device_access import opened_for
from emulator.adapters.libvirt.domain_xml import domain_xml, read_domain
from emulator.adapters.libvirt.errors import ALIVE_SECONDS, answered, call, load_libvirt, tolerate
from emulator.adapters.libvirt.guest_account import (
    account_for,
    admit,
    hand_over,
    open_devices,
    own_account,
    vfio_nodes,
)
from emulator.adapters.libvirt.guest_limits import limit_by_libvirt, limit_tasks, limits_of, processes_of
from emulator.adapters.libvirt.networks import LibvirtNetworks
from emulator.adapters.system.acceleration import capabilities_offer_kvm
from emulator.adapters.system.host_clock import tsc_khz
from emulator.core.errors import ConflictError, HostNotFitError, HyperscalerError, HypervisorError
from emulator.core.hypervisors import EMBEDDED, SYSTEM_URI, SystemHypervisor
from emulator.core.ids import host_name
from emulator.core.ports import DomainInfo, DomainRequest, DomainState, NetworkInfo, NetworkRequest
from emulator.core.ports.guest_accounts import GuestAccount
from emulator.core.waiting.watch import Patience, Watch

# virDomainState of <libvirt/libvirt-domain.h>. Blocked (2) means waiting, so the domain runs.
_STATES = {
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,
    3: DomainState.PAUSED,
    5: DomainState.SHUTOFF,
    6: DomainState.CRASHED,
}

# virDomainPausedReason of <libvirt/libvirt-domain.h>: unknown, a user, an I/O error (a full disk), the watchdog,
# restored from a snapshot. For other reasons (migration, save, dump, a crash) another process works on it or it is
# lost.
_MAY_RESUME = frozenset({0, 1, 5, 6, 7})

# Seconds between presses of the power button, which a guest that is still booting ignores.
_PRESS_AGAIN = 10.0


class LibvirtHypervisor:
    """One connection, shared by threads: libvirt's client is thread-safe and lets calls overlap.

    Args:
        uri: libvirt URI.
        guest_prefix: argv prefix for commands that must reach the guests.
    """

    def __init__(self, uri: str, guest_prefix: tuple[str, ...] = ()) -> None:
        self._uri = uri
        self._prefix = guest_prefix
        self._lock = threading.Lock()
        self._connection: Any = None
        self._capabilities: str | None = None
        self._groups = GuestGroups()
        self._networks = LibvirtNetworks(self._connect)
        self._connect()

    # ----------------------------------------------------------- connection
    def _connect(self) -> Any:
        """The connection; reopened after a restart of libvirtd."""
        with self._lock:
            if self._connection is not None and self._is_alive():
                return self._connection
            self._drop()
            libvirt = load_libvirt()
            self._connection = call(lambda: libvirt.open(self._uri), where=self._uri, seconds=ALIVE_SECONDS)
            return self._connection

    def _is_alive(self) -> bool:
        # Not isAlive(): without an event loop it detects a dead libvirtd only after a call has failed.
        try:
            return bool(answered(self._connection.getLibVersion, seconds=ALIVE_SECONDS, where=self._uri))
        except load_libvirt().libvirtError:
            return False

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(load_libvirt().libvirtError, HypervisorError):
                answered(self._connection.close, seconds=ALIVE_SECONDS, where=self._uri)
            self._connection = None

    def close(self) -> None:
        """Close the connection; guests keep running."""
        with self._lock:
            self._drop()

    def guest_command_prefix(self) -> tuple[str, ...]:
        return self._prefix

    def offers_kvm(self) -> bool:
        """Whether libvirt lists KVM in its capabilities, which alone proves nothing (see acceleration.py)."""
        return capabilities_offer_kvm(call(self._connect().getCapabilities, where=self._uri))

    # -------------------------------------------------------------- domains
    def domains(self) -> tuple[DomainInfo, ...]:
        found = call(self._connect().listAllDomains, where=self._uri)
        infos = (self._describe(handle) for handle in found)
        return tuple(sorted((info for info in infos if info), key=lambda info: info.name))

    def domain(self, name: str) -> DomainInfo | None:
        handle = self._lookup(name)
        return self._describe(handle) if handle is not None else None

    def domain_by_uuid(self, uuid: UUID) -> DomainInfo | None:
        connection = self._connect()
        handle = self._unless((errors.NO_DOMAIN,), lambda: connection.lookupByUUIDString(str(uuid)), str(uuid))
        return self._describe(handle) if handle is not None else None

    def define_domain(self, request: DomainRequest) -> None:
        """See `Hypervisor.define_domain`."""
        where = f"domain {request.name}"
        existing = self.domain(request.name)
        if existing is not None and existing.uuid != request.uuid:
            raise ConflictError(
                f"a domain of this name with another UUID ({existing.uuid}) exists",
                where=where,
                fix=f"if it is not needed: virsh undefine {request.name}",
            )
        runs_as = replace(request, account=self._account(request.account))
        xml = domain_xml(runs_as, None if request.accelerated else tsc_khz())
        call(lambda: self._connect().defineXML(xml), where=where)

    def _account(self, wanted: GuestAccount | None) -> GuestAccount | None:
        """What QEMU runs as if it is to run as `wanted`; None where nobody but root could choose."""
        return None if os.geteuid() != 0 else account_for(self._known_capabilities(), wanted)

    def _known_capabilities(self) -> str:
        if self._capabilities is None:
            self._capabilities = call(self._connect().getCapabilities, where=self._uri)
        return self._capabilities

    def admit_guests(self, directories: Iterable[Path], account: GuestAccount | None = None) -> None:
        """See `Hypervisor.admit_guests`."""
        runs_as = self._account(account)
        if runs_as is not None:
            admit(runs_as, directories)

    def _hand_over(self, info: DomainInfo | None) -> None:
        """Give the account that a domain runs as what it needs of the domain's files and devices."""
        if info is None or (shared := self._account(None)) is None:
            return
        account = GuestAccount.of_label(info.account) or shared
        hand_over(account, disks=info.disks, console_log=Path(info.console_log) if info.console_log else None)
        open_devices(account, vfio_nodes(info.hostdevs))

    def rename_domain(self, name: str, new: str) -> None:
        """See `Hypervisor.rename_domain`."""
        handle = self._require(name)
        call(lambda: handle.rename(new, 0), where=f"domain {name}")

    def start_domain(self, name: str) -> None:
        """See `Hypervisor.start_domain`; a paused domain is resumed."""
        handle = self._require(name)
        state = self._state(handle)
        if state is DomainState.PAUSED:
            call(handle.resume, where=f"domain {name}")
        elif state is not DomainState.RUNNING:
            info = self._describe(handle)
            self._hand_over(info)
            try:
                with self._kvm_for(info):
                    call(handle.create, where=f"domain {name}")
            except HyperscalerError:
                # It was started between the check and the call.
                if self._state(handle) is not DomainState.RUNNING:
                    raise
            self._limit(handle, info)

    def _kvm_for(self, info: DomainInfo | None) -> AbstractContextManager[None]:
        """The guest's user may open /dev/kvm meanwhile; a lab's own libvirtd sees one that its group may open."""
        account = own_account(info)
        if account is None or info is None or not info.accelerated or self._prefix:
            return contextlib.nullcontext()
        return opened_for(account)

    def _limit(self, handle: Any, info: DomainInfo | None) -> None:
        """Bound what a guest that was just started may use of the host, by whatever means the host has for it."""
        account = own_account(info)
        if info is None or account is None:
            return
        limits, pids = limits_of(info), tuple(processes_of(account.uid))
        limit_tasks(pids, limits)
        moved = [self._groups.limit(pid, info.name, limits) for pid in pids]
        if not any(moved):
            limit_by_libvirt(handle, limits, where=f"domain {info.name}")

    def pause_domain(self, name: str) -> None:
        """See `Hypervisor.pause_domain`."""
        handle = self._lookup(name)
        if handle is not None and self._state(handle) is DomainState.RUNNING:
            self._unless((errors.OPERATION_INVALID, errors.NO_DOMAIN), handle.suspend, name)

    def shutdown_domain(self, name: str, *, timeout: float) -> None:
        """See `Hypervisor.shutdown_domain`; nothing happens if the domain is absent or off."""
        handle = self._lookup(name)
        patience = Patience.within(timeout)
        watch = Watch(patience, time.monotonic)
        pressed = -_PRESS_AGAIN
        while handle is not None and self._can_hear(handle):
            if watch.look(patience.steps(self._cpu_seconds(handle))):
                break
            now = time.monotonic()
            if now - pressed >= _PRESS_AGAIN:
                self._press(handle, name)
                pressed = now
            time.sleep(0.2)
        if handle is not None and self._state(handle) is not DomainState.SHUTOFF:
            self._unless((errors.OPERATION_INVALID, errors.NO_DOMAIN), handle.destroy, name)

    def _press(self, handle: Any, name: str) -> None:
        """Press the power button. What fails is tried again, and in the end the guest is powered off: QEMU answers here
        itself, and one that a guest has broken out of need not."""
        # A paused guest does not react. One paused by a full disk pauses again as long as the disk is full.
        paused = self._state(handle) is DomainState.PAUSED
        for press in (handle.resume, handle.shutdown) if paused else (handle.shutdown,):
            with contextlib.suppress(HyperscalerError):
                call(press, where=f"domain {name}", seconds=ALIVE_SECONDS)

    def _cpu_seconds(self, handle: Any) -> float:
        """Processor time of a domain since its start; 0 for one that is off."""
        seen = self._unless((errors.NO_DOMAIN, errors.OPERATION_INVALID), handle.info, handle.name())
        return float(seen[4]) / 1e9 if seen else 0.0  # virDomainInfo: state, memory, used memory, CPUs, nanoseconds

    def _can_hear(self, handle: Any) -> bool:
        """Whether the guest runs or was paused for a reason that permits resuming it."""
        seen = self._unless((errors.NO_DOMAIN,), handle.state, handle.name())
        if seen is None:
            return False
        state = _STATES.get(seen[0])
        return state is DomainState.RUNNING or (state is DomainState.PAUSED and seen[1] in _MAY_RESUME)

    # --------------------------------------------------------- saved states
    def machine(self, *, accelerated: bool) -> str:
        return saved_states.machine(self._connect(), self._known_capabilities, accelerated=accelerated, where=self._uri)

    def power_off_domain(self, name: str) -> None:
        handle = self._lookup(name)
        if handle is not None and self._state(handle) is not DomainState.SHUTOFF:
            self._unless((errors.OPERATION_INVALID, errors.NO_DOMAIN), handle.destroy, name)

    def save_domain(self, name: str, file: Path) -> None:
        saved_states.save(self._require(name), file, where=f"domain {name}")

    def restore_domain(self, name: str, file: Path) -> None:
        """See `SavedStates.restore_domain`; the guest's limits hold before it goes on."""
        handle = self._require(name)
        info = self._describe(handle)
        self._hand_over(info)
        with self._kvm_for(info):
            saved_states.restore(self._connect(), handle, file, where=f"domain {name}")
        self._limit(handle, info)

    def flatten_disk(self, name: str, base: Path) -> None:
        saved_states.flatten(self._require(name), base, where=f"domain {name}")

    def delete_domain(self, name: str) -> None:
        """See `Hypervisor.delete_domain`; saved states and snapshots go with it."""
        handle = self._lookup(name)
        if handle is None:
            return
        if self._state(handle) is not DomainState.SHUTOFF:
            self._unless((errors.OPERATION_INVALID, errors.NO_DOMAIN), handle.destroy, name)
        libvirt = load_libvirt()
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        )
        # A transient domain vanishes with its process.
        self._unless((errors.NO_DOMAIN,), lambda: handle.undefineFlags(flags), name)

    def _lookup(self, name: str) -> Any:
        connection = self._connect()
        return self._unless((errors.NO_DOMAIN,), lambda: connection.lookupByName(name), name)

    def _require(self, name: str) -> Any:
        connection = self._connect()
        return call(lambda: connection.lookupByName(name), where=f"domain {name}")

    def _state(self, handle: Any) -> DomainState:
        state = self._unless((errors.NO_DOMAIN,), handle.state, handle.name())
        return DomainState.SHUTOFF if state is None else _STATES.get(state[0], DomainState.OTHER)

    def _describe(self, handle: Any) -> DomainInfo | None:
        """The domain, or None if it has vanished since it was listed."""
        # The persistent description: the next start uses it, and it holds the metadata.
        flags = load_libvirt().VIR_DOMAIN_XML_INACTIVE
        text = self._unless((errors.NO_DOMAIN,), lambda: handle.XMLDesc(flags), handle.name())
        if text is None:
            return None
        autostart = self._unless((errors.NO_DOMAIN, errors.OPERATION_INVALID), handle.autostart, handle.name())
        state = self._state(handle)
        info = read_domain(text, state=state, autostart=bool(autostart))
        if state not in (DomainState.RUNNING, DomainState.PAUSED):
            return info
        live = self._unless((errors.NO_DOMAIN,), lambda: handle.XMLDesc(0), handle.name())
        known = read_domain(live, state=state, autostart=bool(autostart)) if live else None
        return replace(info, live=known, cpu_seconds=self._cpu_seconds(handle))

    @staticmethod
    def _unless(harmless: tuple[int, ...], action: Callable[[], Any], name: str) -> Any:
        return tolerate(harmless, action, where=f"domain {name}")

    # ------------------------------------------------------------- networks
    def networks(self) -> tuple[NetworkInfo, ...]:
        return self._networks.all()

    def network(self, name: str) -> NetworkInfo | None:
        return self._networks.find(name)

    def network_by_uuid(self, uuid: UUID) -> NetworkInfo | None:
        return self._networks.find_by_uuid(uuid)

    def define_network(self, request: NetworkRequest) -> None:
        self._networks.define(request)

    def start_network(self, name: str) -> None:
        self._networks.start(name)

    def delete_network(self, name: str) -> None:
        self._networks.delete(name)


def choose_uri(requested: str, *, probe: Callable[[str], bool]) -> str:
    """The meaning of `hypervisor.uri` on this host: `embedded` or a libvirt URI.

    `auto` means the system's libvirtd if `probe` reaches it, else the embedded one.
    """
    if requested != "auto":
        return requested
    return SYSTEM_URI if probe(SYSTEM_URI) else EMBEDDED


def probe_uri(uri: str) -> bool:
    """Whether a libvirtd answers at `uri` and lets us change things.

    Raises:
        HypervisorError: a libvirtd hangs, which is no reason to choose another hypervisor.
    """
    try:
        libvirt = load_libvirt()
    except HostNotFitError:
        return False
    try:
        connection = answered(lambda: libvirt.open(uri), seconds=ALIVE_SECONDS, where=uri)
    except libvirt.libvirtError:
        return False
    with contextlib.suppress(libvirt.libvirtError, HypervisorError):
        answered(connection.close, seconds=ALIVE_SECONDS, where=uri)
    return True


def look_at_system(lab: str) -> SystemHypervisor:
    """Whether the host's own libvirt answers; failing that, whether by its files it may have something of the lab."""
    if probe_uri(SYSTEM_URI):
        return SystemHypervisor.ANSWERS
    return SystemHypervisor.SILENT if may_have(host_name(lab, "")) else SystemHypervisor.EMPTY
