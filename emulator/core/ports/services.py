"""The port to what keeps a lab's services running: processes that outlive the command that asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class ServiceState(StrEnum):
    """STARTING: its process runs and has not yet said that it is ready. BACKOFF: it ended, and is started again after a
    pause. ENDING: it is asked to end. DOWN: it should run, and nothing is there that would start it."""

    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "restarting"
    ENDING = "ending"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """A process to keep running.

    Attributes:
        name: unique in the lab, lower case letters, digits and dashes.
        digest: of the resource, to be given back by `services`.
        program: an absolute path, or the name of a program of our own (`console-limits`).
        arguments: its arguments.
        account: the user that it runs as; empty for the supervisor's own.
        notifies: it writes a note when it is ready (the first argument of our own programs); until then it is STARTING.
        memory_mib: address space of each of its processes; 0 for no limit.
        files: files that each of its processes may have open.
        processes: processes and threads, where control groups are to be had or the account is not root's.
        cpu_weight: share of the processor against others, 100 for an ordinary one (1 to 10000).
        definition: the resource as JSON, to be given back by `services`.
        host_processes: it may signal processes of the host, as far as its rights go; other services of root's are in
            process namespaces of their own.
    """

    name: str
    digest: str
    program: str
    arguments: tuple[str, ...] = ()
    account: str = ""
    notifies: bool = False
    memory_mib: int = 0
    files: int = 256
    processes: int = 16
    cpu_weight: int = 100
    definition: Mapping[str, Any] = field(default_factory=dict)
    host_processes: bool = False


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A service as it is kept.

    Attributes:
        digest: of the resource that it was made from; empty where its record cannot be read.
        reason: why it does not run, in words.
        note: what it last said of itself, such as `ready`.
        pid: of its process, 0 if it has none.
        definition: the resource as JSON; empty where it cannot be read.
        failures: how often in a row it ended without being asked to.
    """

    name: str
    digest: str
    state: ServiceState
    reason: str = ""
    note: str = ""
    pid: int = 0
    definition: Mapping[str, Any] = field(default_factory=dict)
    failures: int = 0


class ServiceSupervisor(Protocol):
    """The supervisor of one lab: one process that starts the lab's services, restarts them and bounds their logs.

    Services never outlive it. It ends with its last service, and by itself when its directory is gone.
    """

    def services(self) -> tuple[ServiceInfo, ...]:
        """All services that are to run, by name. Looks only, waits for nobody, starts nothing."""
        ...

    def ensure(self, request: ServiceRequest) -> None:
        """Keep this service running, in the place of one of the same name; returns once it runs (and is ready).

        Idempotent. A supervisor that died is started again, and with it the lab's other services. The caller holds the
        lab's lock.

        Raises:
            ServiceError: it ends at once, or the supervisor cannot be started; says why.
        """
        ...

    def remove(self, name: str) -> None:
        """End the service and forget it; after the last one nothing of the supervisor is left. Idempotent.

        Raises:
            ServiceError: its process does not end.
        """
        ...
