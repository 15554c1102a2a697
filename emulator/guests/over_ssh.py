"""What is done with running guests: ssh, playbooks, probes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from emulator.core.errors import CommandTimeoutError, ConfigureError, HyperscalerError, InterruptedRunError
from emulator.core.fs import write_private
from emulator.core.gateway.names import local_port
from emulator.core.paths import LabPaths
from emulator.core.pool import threads
from emulator.core.ports import GuestAddress, GuestShell, ProcessRunner
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import Pace
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.ssh_certificates import SshCertificates
from emulator.credentials.ssh_config import ssh_config
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.tls_certificates import TlsCertificates
from emulator.credentials.users import AccessRole, LabUser
from emulator.guests.configure.model import TaskStatus
from emulator.guests.configure.playbook import UPGRADE_PLAYBOOK, configure_cluster, end_work
from emulator.guests.inventory.build import build_inventory, connection_vars
from emulator.guests.inventory.model import AnsibleInventory, ConnectionFacts
from emulator.guests.inventory.render import InventoryFormat, render
from emulator.guests.inventory.slurm_release import slurm_of_release
from emulator.guests.ports import Access, ConfigureOutcome, NodeUpgrade, UpgradeStep
from emulator.guests.ssh import OpenSshShell, host_keys_from_console, write_known_hosts
from emulator.guests.verify.clocks import verify_clocks
from emulator.guests.verify.kubeconfigs import admin_kubeconfig, student_kubeconfig, user_kubeconfig
from emulator.guests.verify.kubernetes_probes import kubernetes_summary, verify_kubernetes
from emulator.guests.verify.report import SUMMARY_SECONDS, CheckResult, VerifyReport
from emulator.guests.verify.rotated_secrets import closed_doors, prove_secret
from emulator.guests.verify.slurm_probes import slurm_summary, verify_slurm
from emulator.kubernetes.config.kubespray import kubespray_inventory
from emulator.kubernetes.config.users import student_namespace
from emulator.kubernetes.release.upgrade_files import UpgradeFiles
from emulator.labfile.model import ClusterKind, ClusterSpec, Role


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
        return OpenSshShell(access.paths.ssh_key, access.paths.known_hosts, access.prefix, self._runner, access.pace)

    def ssh_argv(self, access: Access, node: str, command: Sequence[str]) -> list[str]:
        # ssh joins the words with blanks and a shell in the guest splits them again, as people know it.
        return ["ssh", "-F", str(access.paths.ssh_config), "--", node, *command]

    def inventory(self, spec: ClusterSpec, access: Access, form: str) -> str:
        if form == KUBESPRAY:
            return kubespray_inventory(spec, connection_vars(_connection(access)))
        return render(self._inventory(spec, access), InventoryFormat(form))

    def _inventory(self, spec: ClusterSpec, access: Access) -> AnsibleInventory:
        trust = SshCertificates(access.paths, self._runner).read()
        # Access that has ended is former access in every run, whether its end was carried out on the nodes or not.
        trust = dataclasses.replace(trust, book=trust.book.at(time.time()))
        return build_inventory(spec, _connection(access), access.gpus, trust, access.slurm)

    def user_key(self, spec: ClusterSpec, access: Access, order: CertificateOrder, *, revoked: Collection[str]) -> str:
        return SshCertificates(access.paths, self._runner).user_key(spec, order, revoked=revoked)

    def issue(self, spec: ClusterSpec, access: Access, order: CertificateOrder) -> None:
        SshCertificates(access.paths, self._runner).issue(spec, order, guest_prefix=access.prefix)

    def configure(
        self,
        spec: ClusterSpec,
        kind: ClusterKind,
        access: Access,
        reporter: Reporter,
        stop: StopFlag,
        tags: tuple[str, ...] = (),
    ) -> ConfigureOutcome:
        SshCertificates(access.paths, self._runner).certify(spec, spec.nodes_of(kind))
        TlsCertificates(access.paths).certify(spec, spec.nodes_of(kind))
        tasks = _TaskProgress(reporter)
        outcome = self._play(spec, kind, access, tasks, stop, tags=tags)
        if kind is ClusterKind.CLOUD and not tags:
            # Fetched and checked here, because a playbook would copy the node's file to the host as it is.
            write_private(access.paths.secrets / "kubeconfig", self.kubeconfig(spec, access, student=False).encode())
        return outcome

    def upgrade(
        self, spec: ClusterSpec, part: NodeUpgrade, access: Access, reporter: Reporter, stop: StopFlag
    ) -> ConfigureOutcome:
        tasks = _TaskProgress(reporter, "upgrade", _UPGRADED[part.step])
        return self._play(
            spec,
            ClusterKind.CLOUD,
            access,
            tasks,
            stop,
            playbook=UPGRADE_PLAYBOOK,
            tags=(part.step.value,),
            nodes=part.nodes,
            variables=_upgrade_variables(part.files),
        )

    def _play(
        self,
        spec: ClusterSpec,
        kind: ClusterKind,
        access: Access,
        tasks: _TaskProgress,
        stop: StopFlag,
        **options: Any,
    ) -> ConfigureOutcome:
        """A run of a playbook, as progress of its nodes."""
        try:
            result = configure_cluster(
                kind,
                self._inventory(spec, access),
                access.paths,
                timeout=spec.timeouts.configure,
                pace=access.pace,
                on_event=tasks.event,
                cancelled=stop.is_set,
                **options,
            )
        except ConfigureError as error:
            if not stop.is_set():
                raise
            raise InterruptedRunError(
                f"stopped on request: {error.what}", where=error.where, fix="run the same command again to go on"
            ) from error
        tasks.end()
        return ConfigureOutcome(result.changed, result.seconds)

    def end_work(self, paths: LabPaths) -> None:
        end_work(paths)

    def verify(
        self, spec: ClusterSpec, kind: ClusterKind, access: Access, reporter: Reporter
    ) -> tuple[CheckResult, ...]:
        def report_check(check: CheckResult) -> None:
            status = Status.DONE if check.ok else Status.FAILED
            reporter.event(Event("verify", check.name, status, check.detail, check.seconds))

        if spec.slurm is not None and access.slurm is not None:
            spec = dataclasses.replace(spec, slurm=slurm_of_release(spec.slurm, access.slurm))
        gpus = {node.name: access.gpus[node.name] for node in spec.nodes_of(kind) if node.name in access.gpus}
        shell, guests = self._shell(access), _by_name(spec)
        nodes = [guests[node.name] for node in spec.nodes_of(kind)]
        # First, because certificates, MUNGE and tokens fail with a wrong clock, and none of them says that it is one.
        clocks = verify_clocks(shell, nodes, pace=access.pace, on_check=report_check)
        report = _VERIFY[kind](spec, shell, guests, gpus, pace=access.pace, on_check=report_check)
        return (*clocks, *report.checks)

    def refusing(self, spec: ClusterSpec, access: Access, key: Path) -> tuple[str, ...]:
        shell = OpenSshShell(key, access.paths.known_hosts, access.prefix, self._runner, access.pace)
        return closed_doors(shell, addresses(spec))

    def prove(
        self, spec: ClusterSpec, secret: RotatedSecret, access: Access, reporter: Reporter
    ) -> tuple[CheckResult, ...]:
        checks = prove_secret(spec, secret, access.paths, self._shell(access), addresses(spec), access.pace)
        for check in checks:
            status = Status.DONE if check.ok else Status.FAILED
            reporter.event(Event("prove", check.name, status, check.detail, check.seconds))
        return checks

    def hand_kubeconfig(
        self, spec: ClusterSpec, access: Access, user: LabUser, *, seconds: int, directory: Path
    ) -> None:
        head = next(node.name for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE)
        student = user.role_at(head) is AccessRole.STUDENT
        namespace = student_namespace(user.name) if student else "default"
        text = user_kubeconfig(
            self._shell(access),
            _by_name(spec)[head],
            cluster=spec.name,
            user=user.name,
            namespace=namespace,
            seconds=seconds,
            forwarded_to=local_port(spec.name) if spec.access.gateway else 0,
        )
        write_private(directory / "kubeconfig", text.encode())

    def cluster_state(self, spec: ClusterSpec, access: Access, kinds: Sequence[ClusterKind]) -> Mapping[str, str]:
        asked: dict[str, Summary] = {}
        if spec.slurm is not None and ClusterKind.HPC in kinds:
            asked["slurm"] = slurm_summary
        if spec.kubernetes is not None and ClusterKind.CLOUD in kinds:
            asked["kubernetes"] = kubernetes_summary
        shell, guests = self._shell(access), _by_name(spec)
        with threads(len(asked), "status") as pool:
            answers = pool.map(lambda ask: _answer(ask, spec, shell, guests, access.pace), asked.values())
        return dict(zip(asked, answers, strict=True))

    def kubeconfig(self, spec: ClusterSpec, access: Access, *, student: bool) -> str:
        head = next(node.name for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE)
        shell, address = self._shell(access), _by_name(spec)[head]
        if student:
            return student_kubeconfig(shell, address, cluster=spec.name)
        return admin_kubeconfig(shell, address, cluster=spec.name)


KUBESPRAY = "kubespray"


def _upgrade_variables(files: UpgradeFiles | None) -> Mapping[str, str | int]:
    if files is None:
        return {}
    return {
        "upgrade_files": str(files.directory),
        "upgrade_key": files.key,
        "upgrade_mebibytes": files.mebibytes,
    }


_UPGRADED: Mapping[UpgradeStep, str] = {
    UpgradeStep.STAGE: "has the new release's files",
    UpgradeStep.CONTROL_PLANE: "upgraded",
    UpgradeStep.WORKER: "upgraded",
    UpgradeStep.FORGET: "has no other release's images",
}


def _connection(access: Access) -> ConnectionFacts:
    return ConnectionFacts(
        user=access.user,
        private_key=access.paths.ssh_key,
        known_hosts=access.paths.known_hosts,
        ssh_config=access.paths.ssh_config,
    )


_VERIFY: Mapping[ClusterKind, Callable[..., VerifyReport]] = {
    ClusterKind.HPC: verify_slurm,
    ClusterKind.CLOUD: verify_kubernetes,
}
Summary = Callable[[ClusterSpec, GuestShell, Mapping[str, GuestAddress], Pace], str]


def _answer(ask: Summary, spec: ClusterSpec, shell: GuestShell, guests: Mapping[str, GuestAddress], pace: Pace) -> str:
    """What a cluster says of itself, or why it does not."""
    try:
        return ask(spec, shell, guests, pace)
    except CommandTimeoutError:
        return (
            f"no answer within {pace.seconds(SUMMARY_SECONDS):.0f} s, which says nothing of its jobs or pods: its head"
            " node is busy or hangs; ask again, or look with `hyperscaler verify`"
        )
    except HyperscalerError as error:
        return f"no answer: {error.what.splitlines()[0]}"


class _TaskProgress:
    """Ansible's tasks as progress of their nodes in this phase; `ended` is said of a node that is through."""

    def __init__(self, reporter: Reporter, phase: str = "configure", ended: str = "configured") -> None:
        self._reporter, self._phase, self._ended = reporter, phase, ended
        self._began: dict[str, float] = {}
        self._last: dict[str, str] = {}

    def event(self, node: str, task: str, status: TaskStatus) -> None:
        began = self._began.setdefault(node, time.monotonic())
        failed = status in (TaskStatus.FAILED, TaskStatus.UNREACHABLE)
        if status is TaskStatus.SKIPPED:
            # It was shown when it began. A node with nothing left to do must not look as if it were at it for minutes.
            task = self._last.get(node, "")
        elif status is not TaskStatus.STARTED:
            self._last[node] = task
        shown = Status.FAILED if failed else Status.RUNNING
        self._reporter.event(Event(self._phase, node, shown, task, time.monotonic() - began))

    def end(self) -> None:
        """All nodes are done: what they did last is no longer under way."""
        for node, began in self._began.items():
            self._reporter.event(Event(self._phase, node, Status.DONE, self._ended, time.monotonic() - began))


def _by_name(spec: ClusterSpec) -> Mapping[str, GuestAddress]:
    return {address.name: address for address in addresses(spec)}


def addresses(spec: ClusterSpec) -> tuple[GuestAddress, ...]:
    return tuple(GuestAddress(node.name, node.ip, spec.ssh.user) for node in spec.nodes)
