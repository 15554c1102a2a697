"""Probes a Slurm cluster through a shell in its guests; `slurm_verdicts` judges the answers.

A login takes about a second on an emulated CPU, so each probe asks for as much as possible at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace

from emulator.core.errors import HyperscalerError, VerifyError
from emulator.core.pool import threads
from emulator.core.ports import GuestAddress, GuestShell
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock, Look, wait_until
from emulator.guests.inventory.build import LAB_USERS
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.verify import slurm_extras, slurm_verdicts
from emulator.guests.verify.report import SUMMARY_SECONDS, CheckResult, Verdict, VerifyReport, after_waiting, check_from
from emulator.labfile.model import ClusterKind, ClusterSpec, PartitionSpec, Role

POLL_SECONDS = 2.0
JOB_SECONDS = 120
"""How long the probe job may wait for its nodes and run."""

_SINFO = f"sinfo --Node --noheader --format={shlex.quote(slurm_verdicts.SINFO_FORMAT)}"
_JOB_MARK = "--accounting--"
# One line from each node: job, Slurm's name of the node, the node's own name.
_JOB = 'echo "$SLURM_JOB_ID $SLURMD_NODENAME $(hostname)"'
_WORKERS = 8
_NOT_UP = "not tried: not all nodes are up"


def verify_slurm(
    spec: ClusterSpec,
    shell: GuestShell,
    addresses: Mapping[str, GuestAddress],
    gpus: Mapping[str, tuple[NodeGpu, ...]] | None = None,
    *,
    clock: Clock | None = None,
    pace: Pace | None = None,
    on_check: Callable[[CheckResult], None] | None = None,
) -> VerifyReport:
    """Whether the lab's Slurm cluster works: MUNGE between nodes, all nodes up, a job on all, its record, GPUs, a job
    from each login node, and what else the lab file asks for: MPI, the REST API, scrontab.

    Args:
        spec: the lab; the nodes have `timeouts.verify` to come up, and longer while one after the other does.
        shell: runs commands in the guests.
        addresses: node name -> how to reach it.
        gpus: node name -> its GPUs by the allocation.
        clock: time; the real one if not given.
        pace: of this host.
        on_check: called with each check when it is done.

    Raises:
        VerifyError: the lab has no Slurm cluster.
    """
    if spec.slurm is None or not spec.nodes_of(ClusterKind.HPC):
        raise VerifyError("the lab has no Slurm cluster to verify", where=spec.name)
    probes = _Probes(spec, shell, addresses, clock or Clock(), pace or Pace())
    checks: list[CheckResult] = []

    def done(*new: CheckResult) -> None:
        for check in new:
            checks.append(check)
            if on_check is not None:
                on_check(check)

    done(*probes.munge())
    nodes, rows = probes.nodes(spec.timeouts.verify)
    done(nodes)
    if gpus:
        done(check_from("gpus", slurm_verdicts.judge_gpus(rows, gpus), 0.0))
    for partition in slurm_verdicts.covering_partitions(spec.slurm.partitions, probes.compute):
        # A job on nodes that are down would wait in vain.
        done(*(probes.job(partition) if nodes.ok else _not_run(partition)))
    for name in probes.login:
        done(probes.job_from(name) if nodes.ok else _not_run_from(name))
    if spec.slurm.mpi != "none":
        widest = slurm_verdicts.covering_partitions(spec.slurm.partitions, probes.compute)[0]
        done(probes.mpi(widest) if nodes.ok else CheckResult("mpi", False, _NOT_UP, 0.0))
    if spec.slurm.rest_api:
        done(probes.rest())
    if spec.slurm.scrontab:
        done(probes.scrontab())
    return VerifyReport(tuple(checks))


def verify_realm(
    spec: ClusterSpec,
    shell: GuestShell,
    addresses: Mapping[str, GuestAddress],
    *,
    clock: Clock | None = None,
    pace: Pace | None = None,
) -> VerifyReport:
    """Whether all nodes share one MUNGE key and Slurm works with it: a credential, the nodes' states, and a job on an
    idle node. It does not wait for jobs of others.

    Raises:
        VerifyError: the lab has no Slurm cluster.
    """
    if spec.slurm is None or not spec.nodes_of(ClusterKind.HPC):
        raise VerifyError("the lab has no Slurm cluster to verify", where=spec.name)
    probes = _Probes(spec, shell, addresses, clock or Clock(), pace or Pace())
    checks = list(probes.munge())
    nodes, rows = probes.nodes(spec.timeouts.verify)
    checks.append(nodes)
    idle = [name for name in probes.compute if name in rows and rows[name].idle]
    partition = slurm_verdicts.covering_partitions(spec.slurm.partitions, probes.compute)[0]
    chosen = tuple(name for name in partition.nodes if name in idle)[:1]
    if not nodes.ok:
        checks += _not_run(partition)
    elif chosen:
        checks += probes.job(replace(partition, nodes=chosen))
    else:
        checks.append(CheckResult(f"job {partition.name}", True, "not tried: every node has jobs of others", 0.0))
    return VerifyReport(tuple(checks))


def slurm_summary(spec: ClusterSpec, shell: GuestShell, addresses: Mapping[str, GuestAddress], pace: Pace) -> str:
    """One line about the nodes, for a status display.

    Raises:
        HyperscalerError: the controller cannot be asked.
    """
    del pace
    head = next(node.name for node in spec.nodes if node.role is Role.HPC_CONTROLLER)
    return slurm_verdicts.summarise_nodes(
        slurm_verdicts.parse_sinfo(shell.run(addresses[head], _SINFO, timeout=SUMMARY_SECONDS).stdout)
    )


class _Probes:
    def __init__(
        self, spec: ClusterSpec, shell: GuestShell, addresses: Mapping[str, GuestAddress], clock: Clock, pace: Pace
    ) -> None:
        self.compute = tuple(node.name for node in spec.nodes if node.role is Role.HPC_COMPUTE)
        self.login = tuple(node.name for node in spec.nodes if node.role is Role.HPC_LOGIN)
        self._head = addresses[next(node.name for node in spec.nodes if node.role is Role.HPC_CONTROLLER)]
        self._shell = shell
        self._addresses = addresses
        self._clock = clock
        self._pace = pace

    def _run(self, node: GuestAddress, command: str, seconds: float, stdin: str | None = None) -> tuple[int, str, str]:
        """Exit status, output and complaints; 255 for a node that cannot be reached."""
        try:
            done = self._shell.run(node, command, timeout=seconds, check=False, stdin=stdin)
        except HyperscalerError as error:
            return 255, "", error.what
        return done.returncode, done.stdout, done.stderr

    def munge(self) -> tuple[CheckResult, ...]:
        """A credential of the controller's, decoded on every other node at the same time."""
        started = self._clock.now()
        status, credential, complaint = self._run(self._head, "munge --no-input", seconds=60)
        if status != 0:
            verdict = Verdict(False, f"cannot encode: {complaint.strip() or 'no reason given'}")
            return (check_from(f"munge {self._head.name}", verdict, self._clock.now() - started),)

        def decode(name: str) -> CheckResult:
            begun = self._clock.now()
            code, output, said = self._run(self._addresses[name], "unmunge", seconds=60, stdin=credential)
            verdict = slurm_verdicts.judge_unmunge(code, output or said, sender=self._head.name)
            return check_from(f"munge {name}", verdict, self._clock.now() - begun)

        with threads(_WORKERS, "verify") as pool:
            return tuple(pool.map(decode, self.compute + self.login))

    def nodes(self, seconds: float) -> tuple[CheckResult, Mapping[str, slurm_verdicts.NodeRow]]:
        """The nodes, once they are all up or none comes up any more."""

        def look() -> Look[tuple[Verdict, Mapping[str, slurm_verdicts.NodeRow]]]:
            status, output, complaint = self._run(self._head, _SINFO, seconds=60)
            rows = slurm_verdicts.parse_sinfo(output)
            verdict = slurm_verdicts.judge_nodes(rows, self.compute)
            if status != 0:
                verdict = Verdict(False, f"sinfo: {complaint.strip() or f'exit status {status}'}")
            return Look((verdict, rows), verdict.ok, sign=verdict.detail, pause=POLL_SECONDS)

        waited = wait_until(look, self._pace.patience(seconds), clock=self._clock)
        verdict, rows = waited.value
        return check_from("nodes", after_waiting(verdict, waited.given_up), waited.seconds), rows

    def job(self, partition: PartitionSpec) -> tuple[CheckResult, CheckResult]:
        """A job of an ordinary user on all nodes of the partition, and its record in the accounting database."""
        started = self._clock.now()
        user = next(iter(LAB_USERS))
        longest = round(self._pace.seconds(JOB_SECONDS))
        _, output, complaint = self._run(self._head, job_script(partition, user, longest), JOB_SECONDS + 60)
        printed, _, record = output.partition(_JOB_MARK)
        job = slurm_verdicts.parse_job(printed)
        seconds = self._clock.now() - started
        ran = slurm_verdicts.judge_job(job, partition.nodes, complaint=complaint)
        kept = slurm_verdicts.judge_accounting(record, job, user=user, node_count=len(partition.nodes))
        return (
            check_from(f"job {partition.name}", ran, seconds),
            check_from(f"accounting {partition.name}", kept, 0.0),
        )

    def job_from(self, name: str) -> CheckResult:
        """A job that an ordinary user starts on a login node: whatever compute node runs it reaches the login node."""
        started = self._clock.now()
        longest = round(self._pace.seconds(JOB_SECONDS))
        command = f"cd /tmp; {srun_as(next(iter(LAB_USERS)), longest, '--nodes=1', '--ntasks=1')}"
        _, output, complaint = self._run(self._addresses[name], command, JOB_SECONDS + 60)
        verdict = slurm_verdicts.judge_any_job(slurm_verdicts.parse_job(output), self.compute, complaint=complaint)
        return check_from(f"job from {name}", verdict, self._clock.now() - started)

    def mpi(self, partition: PartitionSpec) -> CheckResult:
        """An MPI program of an ordinary user, whose ranks on two nodes find each other."""
        started = self._clock.now()
        command = slurm_extras.mpi_command(partition, next(iter(LAB_USERS)), round(self._pace.seconds(JOB_SECONDS)))
        _, output, complaint = self._run(self._head, command, JOB_SECONDS + 60)
        verdict = slurm_extras.judge_mpi(output, partition.nodes, complaint=complaint)
        return check_from("mpi", verdict, self._clock.now() - started)

    def rest(self) -> CheckResult:
        """slurmrestd answers an ordinary user with a token, and nobody else."""
        started = self._clock.now()
        _, output, complaint = self._run(self._head, slurm_extras.rest_command(next(iter(LAB_USERS))), JOB_SECONDS)
        verdict = slurm_extras.judge_rest(output, self.compute, complaint=complaint)
        return check_from("rest api", verdict, self._clock.now() - started)

    def scrontab(self) -> CheckResult:
        """An ordinary user may have jobs by the clock."""
        started = self._clock.now()
        command = slurm_extras.scrontab_command(next(iter(LAB_USERS)))
        status, output, complaint = self._run(self._head, command, seconds=60)
        verdict = slurm_extras.judge_scrontab(status, f"{output}\n{complaint}")
        return check_from("scrontab", verdict, self._clock.now() - started)


def _not_run(partition: PartitionSpec) -> tuple[CheckResult, ...]:
    return (CheckResult(f"job {partition.name}", False, _NOT_UP, 0.0),)


def _not_run_from(name: str) -> CheckResult:
    return CheckResult(f"job from {name}", False, _NOT_UP, 0.0)


def srun_as(user: str, seconds: int, *options: str) -> str:
    """The command that runs the probe job as `user`, which has `seconds` for it, with further options of srun."""
    return shlex.join(
        [
            "sudo", "-n", "-u", user, "--",
            "timeout", str(seconds),
            "srun", "--quiet", "--job-name=lab-verify",
            f"--time={max(5, -(-seconds // 60))}", f"--immediate={seconds * 3 // 4}", *options,
            "sh", "-c", _JOB,
        ]
    )  # fmt: skip


def job_script(partition: PartitionSpec, user: str, seconds: int = JOB_SECONDS) -> str:
    """A shell script that runs the probe job as `user`, which has `seconds` for it, and then waits for its accounting
    record a quarter as long."""
    nodes = f"--nodes={len(partition.nodes)}", "--ntasks-per-node=1", f"--nodelist={','.join(partition.nodes)}"
    srun = srun_as(user, seconds, f"--partition={partition.name}", *nodes)
    return f"""cd /tmp
output=$({srun})
printf '%s\\n' "$output"
echo {_JOB_MARK}
job=${{output%% *}}
case $job in '' | *[!0-9]*) exit 1 ;; esac
tries=0
while :; do
    record=$(sacct --noheader --parsable2 --allusers --allocations --jobs="$job" --format={slurm_verdicts.SACCT_FIELDS})
    case $record in *'|COMPLETED|'*) break ;; esac
    tries=$((tries + 1))
    [ "$tries" -lt {max(seconds // 8, 1)} ] || break
    sleep 2
done
printf '%s\\n' "$record"
"""
