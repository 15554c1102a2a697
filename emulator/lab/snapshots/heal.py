"""After the way back: the guests' clocks, the present users and secrets, and what Slurm makes of the gap in time.

The networks between the clusters are closed until the present record of access holds again on every node.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from emulator.apply.handler import ApplyContext
from emulator.apply.handlers.secrets import public_key
from emulator.core.errors import CommandError, ConfigureError
from emulator.core.pool import threads
from emulator.core.ports import Completed, GuestAddress, GuestShell
from emulator.core.progress import Event, Status
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.users import read_book
from emulator.lab.cluster_pipeline import Step, configure_tagged, work_on_clusters
from emulator.lab.run import LabRun
from emulator.lab.snapshots.fits import stale_tags
from emulator.lab.snapshots.manifest import Manifest
from emulator.lab.snapshots.present import describe
from emulator.lab.wait_for_ssh import LOGIN_SECONDS, boot_cluster, open_host_keys
from emulator.labfile.model import ClusterKind, Role
from emulator.plan.resources import Firewall

_SECONDS = 60.0
# The timer of docs/design/0007 does this every 20 seconds; it reads the real-time clock, which is the host's.
_SET_CLOCK = "sudo -n systemctl start hyperscaler-clock"
# Nodes that Slurm took for lost while they stood still. Those that an administrator drained stay drained.
_RESUME = (
    'nodes=$(sinfo --noheader --Node --states=down --format=%N | sort -u | paste -sd, -); [ -z "$nodes" ] ||'
    ' sudo -n scontrol update "nodename=$nodes" state=resume'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Healing:
    """Brings guests of the time of `manifest` to the present.

    Attributes:
        key: the lab's private key of that time.
        booted: they have booted from the disks of that time; else they went on from their memory.
    """

    run: LabRun
    manifest: Manifest
    key: Path
    booted: bool

    @property
    def _tags(self) -> tuple[str, ...]:
        now = describe(self.run, self.manifest.name, ram=self.manifest.ram)
        return stale_tags(self.manifest, now, read_book(self.run.paths.access), at=time.time())

    def close_networks(self) -> None:
        """Let nothing pass between the clusters, or out, where users or secrets have changed since."""
        firewall = self._firewall
        if firewall is None or not (self._tags or self.booted):
            return
        zones = tuple(dataclasses.replace(zone, nat=False, nat_private=()) for zone in firewall.zones)
        self.run.store.begin("close", firewall)
        self._ensure(dataclasses.replace(firewall, zones=zones, rules=()))

    def _open_networks(self) -> None:
        firewall = self._firewall
        if firewall is not None and self.run.store.open_action(firewall.id) is not None:
            self.run.store.end("close", firewall, self._ensure(firewall))

    @property
    def _firewall(self) -> Firewall | None:
        found = [item.resource for item in self.run.state.resources.values() if isinstance(item.resource, Firewall)]
        return found[0] if found else None

    def _ensure(self, firewall: Firewall) -> Mapping[str, object]:
        context = ApplyContext(self.run.name, self.run.store.handle)
        return self.run.lab.handlers[Firewall.kind].ensure(firewall, None, context)

    def heal(self) -> None:
        """Return when the guests have the host's time, and the present users and secrets. It can be repeated.

        Raises:
            HyperscalerError: a node does not let us in, or cannot be configured.
        """
        tags = self._tags
        self._let_in(rotated=RotatedSecret.SSH.value in tags)
        if self.booted:
            work_on_clusters(self.run, Step.CONFIGURE).conclude()
        elif tags:
            configure_tagged(self.run, tags, self._kinds(tags))
        self._open_networks()
        self._resume_slurm()

    def _kinds(self, tags: tuple[str, ...]) -> tuple[ClusterKind, ...]:
        """The key of MUNGE is Slurm's alone."""
        only_munge = tags == ("munge",)
        return tuple(kind for kind in self.run.spec.clusters if not only_munge or kind is ClusterKind.HPC)

    def _let_in(self, *, rotated: bool) -> None:
        """Wait until all nodes answer, set their clocks, and have those take the lab's present key that know the former
        one alone."""
        run = self.run
        present = run.shell
        shell: _EitherKey | GuestShell = present
        if rotated and self.key.is_file():
            shell = _EitherKey(present, run.env.guests.shell(dataclasses.replace(run.access, key=self.key)))
        keys = open_host_keys(run)
        for kind in run.spec.clusters:
            boot_cluster(run, kind, keys, shell)
        new = shlex.quote(public_key(run.paths.ssh_key).read_text().strip())
        trust = f"echo {new} | sudo -n tee -a {shlex.quote(_trusted(run.spec.ssh.user))} > /dev/null"

        def enter(guest: GuestAddress) -> None:
            door = shell.door(guest) if isinstance(shell, _EitherKey) else present
            door.run(guest, _SET_CLOCK, timeout=_SECONDS, check=False)
            if door is not present:
                door.run(guest, trust, timeout=_SECONDS)

        self._on_each(enter)

    def _on_each(self, action: Callable[[GuestAddress], None]) -> None:
        guests = [GuestAddress(node.name, node.ip, self.run.spec.ssh.user) for node in self.run.spec.nodes]
        with threads(min(len(guests), 16), "heal") as pool:
            done = [(guest, pool.submit(action, guest)) for guest in guests]
        for guest, future in done:
            error = future.exception()
            if isinstance(error, CommandError):
                raise ConfigureError(
                    f"the present key of the lab cannot be brought to it: {error.what}", where=guest.name
                ) from error
            if error is not None:
                raise error

    def _resume_slurm(self) -> None:
        for node in self.run.spec.nodes:
            if node.role is Role.HPC_CONTROLLER:
                guest = GuestAddress(node.name, node.ip, self.run.spec.ssh.user)
                done = self.run.shell.run(guest, _RESUME, timeout=_SECONDS, check=False)
                if done.returncode != 0:
                    self.run.reporter.warn(f"Slurm was not asked to resume its nodes: {done.stderr.strip()[:200]}")
                self.run.reporter.event(Event("snapshot", node.name, Status.DONE, "Slurm looked after"))


def _trusted(user: str) -> str:
    """Where a guest has the public keys that may log in as the lab's own account (role lab_access)."""
    return "/root/.ssh/authorized_keys" if user == "root" else f"/etc/ssh/lab_keys/{user}"


@dataclasses.dataclass(frozen=True, slots=True)
class _EitherKey:
    """A shell for guests of which nobody knows yet whether they have the lab's present key or the former one."""

    present: GuestShell
    former: GuestShell

    def door(self, guest: GuestAddress) -> GuestShell:
        return self.present if self.present.ready(guest, timeout=LOGIN_SECONDS) else self.former

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return self.present.ready(guest, timeout=timeout) or self.former.ready(guest, timeout=timeout)

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        return self.door(guest).run(guest, command, timeout=timeout, check=check, stdin=stdin)
