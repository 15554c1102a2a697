"""What is done with running guests: ssh, playbooks, probes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from emulator.adapters.ssh_shell import OpenSshShell, host_keys_from_console, ssh_config, write_known_hosts
from emulator.app.world import Access, CheckOutcome, ConfigureOutcome
from emulator.apply.handler import StopFlag
from emulator.apply.handlers.files import write_private
from emulator.configure.model import TaskStatus
from emulator.configure.playbook import configure_cluster
from emulator.errors import HyperscalerError
from emulator.inventory.build import build_inventory
from emulator.inventory.model import AnsibleInventory, ConnectionFacts
from emulator.inventory.render import InventoryFormat, render
from emulator.ports import GuestAddress, GuestShell, ProcessRunner
from emulator.progress import Event, Reporter, Status
from emulator.spec.model import ClusterSpec, Role
from emulator.verify.cloud import cloud_summary, verify_cloud
from emulator.verify.hpc import slurm_summary, verify_hpc
from emulator.verify.kubeconfig import admin_kubeconfig, student_kubeconfig
from emulator.verify.report import Check


class RealGuests:
    """`Guests` over OpenSSH and ansible-runner."""

    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner

    def parse_host_keys(self, console: str) -> Sequence[str]:
        return host_keys_from_console(console)

    def write_access(self, spec: ClusterSpec, access: Access, keys: Mapping[str, Sequence[str]] | None) -> None:
        paths = access.paths
        config = ssh_config(
            addresses(spec), key=paths.ssh_key, known_hosts=paths.known_hosts, guest_prefix=access.prefix
        )
        write_private(paths.ssh_config, config.encode())
        if keys is not None:
            write_known_hosts(paths.known_hosts, keys)

    def shell(self, access: Access) -> GuestShell:
        return self._shell(access)

    def _shell(self, access: Access) -> OpenSshShell:
        return OpenSshShell(access.paths.ssh_key, access.paths.known_hosts, access.prefix, self._runner)

    def ssh_argv(self, access: Access, node: str, command: Sequence[str]) -> list[str]:
        # ssh joins the words with blanks and a shell in the guest splits them again, as people know it.
        return ["ssh", "-F", str(access.paths.ssh_config), "--", node, *command]

    def inventory(self, spec: ClusterSpec, access: Access, form: str) -> str:
        return render(self._inventory(spec, access), InventoryFormat(form))

    def _inventory(self, spec: ClusterSpec, access: Access) -> AnsibleInventory:
        connection = ConnectionFacts(
            user=access.user,
            private_key=access.paths.ssh_key,
            known_hosts=access.paths.known_hosts,
            ssh_config=access.paths.ssh_config,
        )
        return build_inventory(spec, connection, access.gpus)

    def configure(self, spec: ClusterSpec, access: Access, reporter: Reporter, stop: StopFlag) -> ConfigureOutcome:
        """Run the playbooks of all clusters side by side; one that fails does not stop the other."""
        inventory = self._inventory(spec, access)
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="configure") as pool:
            runs = [
                pool.submit(
                    configure_cluster,
                    kind,
                    inventory,
                    access.paths,
                    timeout=spec.timeouts.configure,
                    on_event=_TaskProgress(reporter).event,
                    cancelled=stop.is_set,
                )
                for kind in spec.clusters
            ]
        errors = [error for error in (run.exception() for run in runs) if error]
        if errors:
            raise errors[0]
        changed = {node: count for run in runs for node, count in run.result().changed.items()}
        return ConfigureOutcome(changed, time.monotonic() - started)

    def verify(self, spec: ClusterSpec, access: Access, reporter: Reporter) -> tuple[CheckOutcome, ...]:
        shell, guests = self._shell(access), _by_name(spec)

        def tell(check: Check) -> None:
            status = Status.DONE if check.ok else Status.FAILED
            reporter.event(Event("verify", check.name, status, check.detail, check.seconds))

        checks: list[Check] = []
        if spec.slurm is not None:
            checks += verify_hpc(spec, shell, guests, access.gpus, on_check=tell).checks
        if spec.kubernetes is not None:
            checks += verify_cloud(spec, shell, guests, access.gpus, on_check=tell).checks
        return tuple(CheckOutcome(check.name, check.ok, check.detail, check.seconds) for check in checks)

    def cluster_state(self, spec: ClusterSpec, access: Access) -> Mapping[str, str]:
        asked: dict[str, Summary] = {}
        if spec.slurm is not None:
            asked["slurm"] = slurm_summary
        if spec.kubernetes is not None:
            asked["kubernetes"] = cloud_summary
        shell, guests = self._shell(access), _by_name(spec)
        return {name: _answer(ask, spec, shell, guests) for name, ask in asked.items()}

    def kubeconfig(self, spec: ClusterSpec, access: Access, *, student: bool) -> str:
        head = next(node.name for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE)
        shell, address = self._shell(access), _by_name(spec)[head]
        if student:
            return student_kubeconfig(shell, address, cluster=spec.name)
        return admin_kubeconfig(shell, address)


Summary = Callable[[ClusterSpec, GuestShell, Mapping[str, GuestAddress]], str]


def _answer(ask: Summary, spec: ClusterSpec, shell: GuestShell, guests: Mapping[str, GuestAddress]) -> str:
    """What a cluster says of itself, or why it does not."""
    try:
        return ask(spec, shell, guests)
    except HyperscalerError as error:
        return f"no answer: {error.what.splitlines()[0]}"


class _TaskProgress:
    """Ansible's tasks as progress of their nodes."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._began: dict[str, float] = {}

    def event(self, node: str, task: str, status: TaskStatus) -> None:
        began = self._began.setdefault(node, time.monotonic())
        failed = status in (TaskStatus.FAILED, TaskStatus.UNREACHABLE)
        if status is not TaskStatus.SKIPPED:
            shown = Status.FAILED if failed else Status.RUNNING
            self._reporter.event(Event("configure", node, shown, task, time.monotonic() - began))


def _by_name(spec: ClusterSpec) -> Mapping[str, GuestAddress]:
    return {address.name: address for address in addresses(spec)}


def addresses(spec: ClusterSpec) -> tuple[GuestAddress, ...]:
    return tuple(GuestAddress(node.name, node.ip, spec.ssh.user) for node in spec.nodes)
