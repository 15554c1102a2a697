"""The files of a lab's supervisor, all in one private directory.

wanted/NAME.json   a service that is to run, written by commands
NAME.note          what the service says of itself
NAME.log           what its process printed, bounded
status             the supervisor's process and its services' states
lock               held by the supervisor as long as it lives
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.core.fs import private_directory, replace_file, unfinished
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState
from emulator.core.trust.identity import ProcessIdentity
from emulator.supervisor.in_place import read_in_place, read_own, write_in_place

_VERSION = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LIMIT = 256 * 1024  # bytes of a record
_NOTE = 400  # characters that are shown of a note


class SupervisorFiles:
    """The files below `directory`. Only what this user owns is believed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._wanted = directory / "wanted"

    def note(self, name: str) -> Path:
        return self.directory / f"{name}.note"

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    @property
    def status(self) -> Path:
        return self.directory / "status"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    # ------------------------------------------------------------- what is to run
    def names(self) -> tuple[str, ...]:
        """Services that are to run, those with a damaged record included."""
        try:
            found = os.listdir(self._wanted)  # noqa: PTH208 - names are wanted, not paths
        except OSError:
            return ()
        names = (name.removesuffix(".json") for name in found if name.endswith(".json"))
        return tuple(sorted(name for name in names if _NAME.fullmatch(name)))

    def want(self, request: ServiceRequest) -> None:
        """Note a service, in the place of another of its name; on the disk when this returns.

        Raises:
            OSError: it cannot be written.
            StateError: the directory cannot be made, or is not ours.
        """
        private_directory(self.directory)
        private_directory(self._wanted)
        data = {"version": _VERSION, **dataclasses.asdict(request)}
        replace_file(self._record(request.name), (json.dumps(data, sort_keys=True) + "\n").encode())

    def forget(self, name: str) -> None:
        """Note that the service is no longer to run."""
        for path in (self._record(name), unfinished(self._record(name))):
            path.unlink(missing_ok=True)

    def request(self, name: str) -> ServiceRequest | None:
        """The record of a service; None where there is none that can be believed."""
        content = read_own(self._record(name), limit=_LIMIT)
        try:
            return _request(json.loads(content or b""), name)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def _record(self, name: str) -> Path:
        return self._wanted / f"{name}.json"

    # ------------------------------------------------------------- what runs
    def place(self) -> str:
        """Identifies the directory itself: a copy of it has another place."""
        try:
            found = self.directory.lstat()
        except OSError:
            return ""
        return f"{found.st_dev}:{found.st_ino}"

    def supervisor(self) -> ProcessIdentity | None:
        """The supervisor's process, if it lives."""
        return self._read_status()[0]

    def _read_status(self) -> tuple[ProcessIdentity | None, Mapping[str, Any]]:
        """The living supervisor, and what it last wrote of each service."""
        status = read_in_place(self.status)
        who, said = ProcessIdentity.read(status), status.get("services")
        if who is None or status.get("place") != self.place() or not isinstance(said, dict) or not who.lives():
            return None, {}
        return who, said

    def write_status(self, me: ProcessIdentity, services: Mapping[str, Mapping[str, Any]]) -> None:
        """What the supervisor says of itself and its services; lost where the disk takes no more.

        Raises:
            OSError, StateError: the file cannot be opened.
        """
        write_in_place(self.status, {**me.to_json(), "place": self.place(), "services": dict(services)})

    def kept(self) -> frozenset[str]:
        """Services that a living supervisor has, those included that are on their way out."""
        return frozenset(self._read_status()[1])

    def services(self) -> tuple[ServiceInfo, ...]:
        """See `ServiceSupervisor.services`."""
        who, said = self._read_status()
        return tuple(self._info(name, said if who is not None else None) for name in self.names())

    def _info(self, name: str, said: Mapping[str, Any] | None) -> ServiceInfo:
        request = self.request(name)
        digest, definition = (request.digest, request.definition) if request else ("", {})
        note = read_in_place(self.note(name)).get("text")
        text = note[:_NOTE] if isinstance(note, str) else ""
        if said is None:
            return ServiceInfo(name, digest, ServiceState.DOWN, "its supervisor does not run", definition=definition)
        mine = said.get(name)
        if not isinstance(mine, dict) or mine.get("digest") != digest:
            return ServiceInfo(name, digest, ServiceState.STARTING, definition=definition)
        pid, reason, failures = mine.get("pid"), mine.get("reason"), mine.get("failures")
        try:
            state = ServiceState(str(mine.get("state")))
        except ValueError:
            state = ServiceState.DOWN
        known = pid if type(pid) is int else 0
        return ServiceInfo(
            name,
            digest,
            state,
            reason if isinstance(reason, str) else "",
            text if state is ServiceState.RUNNING else "",
            known,
            definition,
            failures if type(failures) is int else 0,
        )

    # ------------------------------------------------------------- the end
    def clear(self, name: str) -> None:
        """Remove what a service has left."""
        for path in (self.note(name), self.log(name)):
            path.unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove the directory, if nothing is in it but what this class makes and no service is to run."""
        if self.names() or not self.directory.is_dir():
            return
        for path in (self.status, self.lock):
            path.unlink(missing_ok=True)
        for path in self.directory.glob("*"):
            if path.suffix in (".note", ".log", ".ballast"):
                path.unlink()
        for directory in (self._wanted, self.directory):
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


def _request(data: Any, name: str) -> ServiceRequest:
    """The record as a request.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    if data["version"] != _VERSION or data["name"] != name:
        raise ValueError
    values: dict[str, Any] = {}
    for each in dataclasses.fields(ServiceRequest):
        # Records of earlier versions lack it.
        value = data.get(each.name, False) if each.name == "host_processes" else data[each.name]
        values[each.name] = tuple(value) if isinstance(value, list) else value
    made = ServiceRequest(**values)
    texts = (made.name, made.digest, made.program, made.account, *made.arguments)
    figures = (made.memory_mib, made.files, made.processes, made.cpu_weight)
    if not all(isinstance(text, str) and "\0" not in text for text in texts) or not made.program:
        raise ValueError
    if not all(type(figure) is int and figure >= 0 for figure in figures) or not isinstance(made.definition, dict):
        raise ValueError
    if not isinstance(made.host_processes, bool):
        raise ValueError
    return made
