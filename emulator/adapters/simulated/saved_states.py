"""The saved states of simulated guests, with the refusals of libvirt and QEMU, and one rule that these do not enforce:
a state is only restored on a disk that has the content of its moment. A guest that is not so would lose its files."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

from emulator.adapters.simulated.disks import backing_of, data_of, put_on
from emulator.core.errors import HypervisorError
from emulator.core.fs import replace_file
from emulator.core.ports import DomainInfo, DomainState

_ON = (DomainState.RUNNING, DomainState.PAUSED)
QEMU = "simulated QEMU 1"


class SimulatedSavedStates:
    """`SavedStates`; what it stands on is the rest of `SimulatedHypervisor`."""

    _domains: dict[str, str]
    _states: dict[str, str]
    _live: dict[str, str]
    _memory: dict[str, str]
    _ran: dict[str, list[str]]

    qemu = QEMU

    def _call(self, name: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _state(self, name: str) -> DomainState:
        raise NotImplementedError

    def _info(self, name: str) -> DomainInfo:
        raise NotImplementedError

    def _check_start(self, name: str) -> None:
        raise NotImplementedError

    def machine(self, *, accelerated: bool) -> str:
        with self._call("machine"):
            return f"{self.qemu}, {'its CPU' if accelerated else 'TCG'}"

    def power_off_domain(self, name: str) -> None:
        with self._call("power_off_domain"):
            if name in self._domains:
                self._states[name] = DomainState.SHUTOFF
                self._end(name)

    def save_domain(self, name: str, file: Path) -> None:
        with self._call("save_domain"):
            where = f"domain {name}"
            if self._state(name) not in _ON:
                raise HypervisorError("Requested operation is not valid: domain is not running", where=where)
            info = self._info(name)
            if (info.live or info).hostdevs:
                text = "Requested operation is not valid: cannot migrate a domain with assigned host devices"
                raise HypervisorError(text, where=where)
            disk = data_of(info.disks[0])
            state = {
                "uuid": str(info.uuid),
                "live": self._live[name],
                "memory": self._memory.get(name, ""),
                "disk": disk,
            }
            replace_file(file, json.dumps(state).encode())
            self._ran[name] = [token for token in self._ran.get(name, []) if token != disk]
            self._states[name] = DomainState.SHUTOFF
            self._end(name)

    def restore_domain(self, name: str, file: Path) -> None:
        with self._call("restore_domain"):
            where = f"domain {name}"
            if self._state(name) in _ON:
                raise HypervisorError(f"operation failed: domain '{name}' is already active", where=where)
            try:
                state = json.loads(file.read_text())
            except (OSError, ValueError) as error:
                raise HypervisorError(f"operation failed: failed to read qemu header of {file}", where=where) from error
            info = self._info(name)
            if state["uuid"] != str(info.uuid):
                raise HypervisorError(f"domain '{name}' is already defined with uuid {info.uuid}", where=where)
            self._check_start(name)
            self._require_its_disk(name, info.disks[0], state["disk"])
            self._states[name] = DomainState.PAUSED
            self._live[name] = state["live"]
            if state["memory"]:
                self._memory[name] = state["memory"]

    def flatten_disk(self, name: str, base: Path) -> None:
        with self._call("flatten_disk"):
            where = f"domain {name}"
            if self._state(name) not in _ON:
                raise HypervisorError("Requested operation is not valid: domain is not running", where=where)
            (disk,) = self._info(name).disks
            layer: Path | None = disk
            while layer is not None and layer != base:
                layer = backing_of(layer)
            if layer is None:
                raise HypervisorError(f"invalid argument: could not find image '{base}' in chain", where=where)
            if backing_of(disk) != base:
                put_on(disk, base)

    # -------------------------------------------------------------- for tests
    def remember(self, name: str, text: str) -> None:
        """Something into the memory of a guest that is on, as a program in it would; gone once it is off."""
        with self._call("test"):
            self._memory[name] = text

    def remembers(self, name: str) -> str:
        with self._call("test"):
            return self._memory.get(name, "")

    # -------------------------------------------------------------- rules
    def _end(self, name: str) -> None:
        self._live.pop(name, None)
        self._memory.pop(name, None)

    def _note_run(self, name: str) -> None:
        if name in self._ran and (token := data_of(self._info(name).disks[0])) not in self._ran[name]:
            self._ran[name].append(token)

    def _require_its_disk(self, name: str, disk: Path, saved: str) -> None:
        base = backing_of(disk)
        below = data_of(base) if base is not None else ""
        if data_of(disk) in self._ran.get(name, ()) or saved not in (data_of(disk), below):
            raise HypervisorError("the disk was written since this state was saved", where=f"domain {name}")
