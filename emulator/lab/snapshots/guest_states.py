"""The guests of a lab, all together: paused, saved, off, on again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from emulator.apply.executor import os_errors_translated
from emulator.apply.handler import ApplyContext
from emulator.core import ids
from emulator.core.errors import HyperscalerError
from emulator.core.fs import private_directory
from emulator.core.pool import threads
from emulator.core.ports import DomainInfo, DomainState, Hypervisor
from emulator.core.progress import Event, Status
from emulator.lab.run import LabRun
from emulator.lab.snapshots.manifest import Manifest, SavedNode
from emulator.lab.snapshots.present import domains
from emulator.lab.snapshots.store import SnapshotStore
from emulator.plan.resources import Domain

_WORKERS = 16
_ON = (DomainState.RUNNING, DomainState.PAUSED)


@dataclass(frozen=True, slots=True)
class GuestStates:
    """What is done with all guests of the lab of `run` at once. All of it can be repeated."""

    run: LabRun
    store: SnapshotStore

    @property
    def hypervisor(self) -> Hypervisor:
        return self.run.lab.session.get()

    def infos(self) -> Mapping[str, DomainInfo | None]:
        return {node: self.hypervisor.domain(self._called(node)) for node in domains(self.run)}

    def _called(self, node: str) -> str:
        return ids.host_name(self.run.name, node)

    def is_on(self, node: str) -> bool:
        info = self.hypervisor.domain(self._called(node))
        return info is not None and info.state in _ON

    def pause(self) -> None:
        self._each("pause", domains(self.run), lambda node: self.hypervisor.pause_domain(self._called(node)))

    def resume(self, nodes: Iterable[str]) -> None:
        """Let guests that are paused go on; one that is off boots."""
        self._each("resume", nodes, lambda node: self.hypervisor.start_domain(self._called(node)))

    def save(self, snapshot: str) -> None:
        """Save the state of every guest that is on; all are off afterwards."""

        def save(node: str) -> None:
            if self.is_on(node):
                self.hypervisor.save_domain(self._called(node), self.store.ram(snapshot, node))

        self._each("save", domains(self.run), save)

    def shut_down(self) -> None:
        """Workers before the nodes that they depend on."""
        seconds = float(self.run.spec.timeouts.shutdown)
        for wave in (self._waves()[1], self._waves()[0]):
            self._each(
                "shut down", wave, lambda node: self.hypervisor.shutdown_domain(self._called(node), timeout=seconds)
            )

    def boot(self) -> None:
        """Start every guest by its definition, heads of clusters first. A guest that was off gets the lab's present key
        on its way, as at each start."""
        handler = self.run.lab.handlers[Domain.kind]
        context = ApplyContext(self.run.name, self.run.store.handle)
        resources = domains(self.run)

        def boot(node: str) -> None:
            self.run.store.end("start", resources[node], handler.ensure(resources[node], None, context))

        for wave in self._waves():
            self._each("start", wave, boot)

    def _waves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        known = domains(self.run)
        heads = tuple(node.name for node in self.run.spec.nodes if node.role.is_head and node.name in known)
        return heads, tuple(node for node in known if node not in heads)

    def power_off(self) -> None:
        self._each("power off", domains(self.run), lambda node: self.hypervisor.power_off_domain(self._called(node)))

    def freeze(self, snapshot: str) -> None:
        """Put a new layer over every disk. All guests are off."""
        self._admit(snapshot)
        self._each(
            "freeze",
            domains(self.run),
            lambda node: self.run.env.disks.freeze(self.store.disk(node), self.store.frozen(snapshot, node)),
        )

    def rewind(self, snapshot: str) -> None:
        """Put a new layer over every frozen disk, in the place of the present one. All guests are off."""
        self._admit(snapshot)
        self._each(
            "rewind",
            domains(self.run),
            lambda node: self.run.env.disks.rewind(self.store.disk(node), base=self.store.frozen(snapshot, node)),
        )

    def _admit(self, snapshot: str) -> None:
        private_directory(self.store.root)
        private_directory(self.store.directory(snapshot))
        account = next((self.run.env.guest_accounts.of_guest(self.run.name, node) for node in domains(self.run)), None)
        self.hypervisor.admit_guests((self.store.root, self.store.directory(snapshot)), account)

    def restore(self, snapshot: str, *, only_off: bool = False) -> None:
        """Restore the saved state of every guest; all are paused afterwards. With `only_off`, guests that are on have
        been restored already."""

        def restore(node: str) -> None:
            if not (only_off and self.is_on(node)):
                self.hypervisor.restore_domain(self._called(node), self.store.ram(snapshot, node))

        self._each("restore", domains(self.run), restore)

    def take_back(self, snapshot: str) -> None:
        """The guests as they were before `pause` and `save`, by their states where these were saved. A state that a
        guest goes on from is removed before the guest goes on."""
        for node, info in self.infos().items():
            ram = self.store.ram(snapshot, node)
            if info is not None and info.state is DomainState.SHUTOFF and ram.is_file():
                self.hypervisor.restore_domain(info.name, ram)
            ram.unlink(missing_ok=True)
        self.resume(domains(self.run))

    # ---------------------------------------------------------------- journal
    def begin(self, action: str) -> None:
        """On record: from here on the guests are not as `provision` left them."""
        for domain in domains(self.run).values():
            self.run.store.begin(action, domain)

    def end(self, action: str, *, started_with: Manifest | None = None) -> None:
        """On record: the guests are as they are to be. Those restored have the key of that time in their memory."""
        nodes = {node.name: node for node in started_with.nodes} if started_with is not None else {}
        for node, domain in domains(self.run).items():
            handle = {**self.run.store.handle(domain.id), **_key(nodes.get(node))}
            self.run.store.end(action, domain, handle)

    def _each(self, what: str, nodes: Iterable[str], action: Callable[[str], None]) -> None:
        """Do the same with several guests side by side, and report the first failure once all have ended."""
        names = tuple(nodes)

        def act(name: str) -> None:
            with os_errors_translated(f"{what} {name}"):
                action(name)

        with threads(min(len(names), _WORKERS), "snapshot") as pool:
            done = [pool.submit(act, name) for name in names]
        errors = [error for error in (each.exception() for each in done) if error is not None]
        if errors:
            raise next((each for each in errors if not isinstance(each, HyperscalerError)), errors[0])
        for name in names:
            self.run.reporter.event(Event("snapshot", name, Status.RUNNING, what))


def _key(node: SavedNode | None) -> Mapping[str, str]:
    return {"public_key": node.public_key} if node is not None and node.public_key else {}
