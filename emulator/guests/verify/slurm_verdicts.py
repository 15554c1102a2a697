"""What Slurm's and MUNGE's commands print, parsed and judged. Pure; odd output is a verdict, never a crash."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emulator.guests.inventory.model import NodeGpu
from emulator.guests.verify.report import Verdict
from emulator.labfile.model import PartitionSpec

SINFO_FORMAT = "%N|%T|%G|%E"
"""Node, state, GRES, reason: the format that `parse_sinfo` reads."""

SACCT_FIELDS = "JobIDRaw,User,State,NNodes,ExitCode"

# Slurm appends what else is known of a state: * no answer, ~ # ! % @ ^ power and reboot, $ maintenance, - planned.
_STATE_MARKS = "*~#!%@^$-"
_IDLE = "idle"
_BUSY = frozenset({"allocated", "mixed", "completing", "planned", "reserved"})


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node as sinfo shows it. `state` is without its mark; `answers` is False when the mark says so."""

    name: str
    state: str
    answers: bool
    gres: Mapping[str, int]
    reason: str

    @property
    def idle(self) -> bool:
        return self.answers and self.state == _IDLE

    @property
    def usable(self) -> bool:
        return self.answers and (self.state == _IDLE or self.state in _BUSY)


def parse_gres(text: str) -> dict[str, int]:
    """`gpu:1g.10gb:2(S:0),gpu:3g.40gb:1` -> {'1g.10gb': 2, '3g.40gb': 1}; GPUs only, what is malformed is left out."""
    counts: Counter[str] = Counter()
    for entry in re.sub(r"\([^)]*\)", "", text).split(","):
        match = re.fullmatch(r"gpu:([^:\s]+):([0-9]{1,9})", entry.strip(), re.ASCII)
        if match:
            counts[match.group(1)] += int(match.group(2))
    return dict(counts)


def parse_sinfo(text: str) -> dict[str, NodeRow]:
    """`sinfo --Node --noheader --format=SINFO_FORMAT`; a node in several partitions has several equal lines."""
    rows = {}
    for line in text.splitlines():
        words = line.split("|", 3)
        if len(words) != 4 or not words[0].strip():
            continue
        name, state, gres, reason = (word.strip() for word in words)
        plain = state.rstrip(_STATE_MARKS)
        rows[name] = NodeRow(name, plain, "*" not in state[len(plain) :], parse_gres(gres), reason)
    return rows


def judge_nodes(rows: Mapping[str, NodeRow], expected: Sequence[str]) -> Verdict:
    """Every expected node is there and can run jobs, and no other node is."""
    faults = []
    for name in expected:
        row = rows.get(name)
        if row is None:
            faults.append(f"{name} is unknown to Slurm")
        elif not row.usable:
            why = f" ({row.reason})" if row.reason not in ("", "none", "Unknown") else ""
            faults.append(f"{name} is {row.state}{'' if row.answers else ' and does not answer'}{why}")
    faults += [f"{name} is not in the lab file" for name in rows if name not in expected]
    return Verdict(not faults, "; ".join(faults) or summarise_nodes(rows))


def summarise_nodes(rows: Mapping[str, NodeRow]) -> str:
    """`2 idle, 1 down` : one line for a status display."""
    counts = Counter(row.state + ("" if row.answers else "*") for row in rows.values())
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no nodes"


def judge_gpus(rows: Mapping[str, NodeRow], granted: Mapping[str, tuple[NodeGpu, ...]]) -> Verdict:
    """Each node offers the GPUs of the allocation: the same types, the same counts, and nothing else."""
    faults, seen = [], []
    for name, row in rows.items():
        wanted: Counter[str] = Counter()
        for gpu in granted.get(name, ()):
            wanted[gpu.type] += gpu.count
        expected = {kind: count for kind, count in wanted.items() if count}
        if dict(row.gres) != expected:
            faults.append(f"{name} offers {_gpu_text(row.gres)} instead of {_gpu_text(expected)}")
        elif expected:
            seen.append(f"{name}: {_gpu_text(expected)}")
    faults += [f"{name} is unknown to Slurm" for name, gpus in granted.items() if gpus and name not in rows]
    return Verdict(not faults, "; ".join(faults) or "; ".join(seen) or "none")


def _gpu_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items())) or "no GPUs"


def judge_unmunge(returncode: int, output: str, *, sender: str) -> Verdict:
    """A credential that was made on another node decodes here."""
    fields = dict(re.findall(r"^([A-Z_]+):[ \t]*(.*)$", output, re.MULTILINE))
    status = fields.get("STATUS", "")
    if returncode == 0 and status.startswith("Success"):
        return Verdict(True, f"decodes what {sender} encodes")
    said = status or (output.strip().splitlines() or ["no output"])[-1]
    return Verdict(False, f"does not decode what {sender} encodes: {said}")


@dataclass(frozen=True, slots=True)
class JobOutput:
    """The probe job: its id, and the nodes that printed their names as (Slurm's name, host name)."""

    job_id: str
    nodes: tuple[tuple[str, str], ...]


def parse_job(text: str) -> JobOutput:
    """Lines `<job id> <Slurm's node name> <host name>`, one from each node; other lines are ignored."""
    found = [match.groups() for match in re.finditer(r"^([0-9]+) (\S+) (\S+)[ \t]*$", text, re.MULTILINE | re.ASCII)]
    job_id = found[0][0] if found else ""
    return JobOutput(job_id, tuple(sorted((node, host) for job, node, host in found if job == job_id)))


def judge_job(job: JobOutput, expected: Sequence[str], *, complaint: str) -> Verdict:
    """Every expected node ran its part exactly once, and is called in the guest what Slurm calls it."""
    ran = Counter(node for node, _ in job.nodes)
    missing = [name for name in expected if name not in ran]
    if missing:
        said = (complaint.strip().splitlines() or ["it said nothing"])[-1]
        return Verdict(False, f"no output from {', '.join(missing)}: {said}")
    faults = [f"{name} ran {count} times" for name, count in ran.items() if count != 1]
    faults += [f"{name} should not have run it" for name in ran if name not in expected]
    faults += [f"{node} calls itself {host}" for node, host in job.nodes if node != host.split(".")[0]]
    return Verdict(not faults, "; ".join(faults) or f"job {job.job_id}: {' '.join(node for node, _ in job.nodes)}")


def judge_any_job(job: JobOutput, nodes: Sequence[str], *, complaint: str) -> Verdict:
    """One node, whichever it was, ran the job, and its output came back."""
    ran = [node for node, _ in job.nodes]
    if not ran:
        said = (complaint.strip().splitlines() or ["it said nothing"])[-1]
        return Verdict(False, f"no output from a job: {said}")
    if len(ran) > 1 or ran[0] not in nodes:
        return Verdict(False, f"job {job.job_id} ran on {' '.join(ran)}")
    return Verdict(True, f"job {job.job_id}: {ran[0]}")


def judge_accounting(text: str, job: JobOutput, *, user: str, node_count: int) -> Verdict:
    """slurmdbd has the job: its user, its nodes, completed with exit status 0 (fields SACCT_FIELDS, `|` between)."""
    if not job.job_id:
        return Verdict(False, "there was no job to look for")
    for line in text.splitlines():
        words = line.strip().split("|")
        if len(words) == 5 and words[0] == job.job_id:
            seen_user, state, nodes, status = words[1:]
            if (seen_user, state, nodes, status) == (user, "COMPLETED", str(node_count), "0:0"):
                return Verdict(True, f"job {job.job_id} of {user}: COMPLETED on {node_count} nodes")
            return Verdict(False, f"job {job.job_id}: user {seen_user}, {state}, {nodes} nodes, exit {status}")
    return Verdict(False, f"job {job.job_id} has no accounting record")


def covering_partitions(partitions: Iterable[PartitionSpec], nodes: Sequence[str]) -> tuple[PartitionSpec, ...]:
    """Few partitions that together hold all nodes, the largest first; each with its nodes spelt out."""
    spelt = [PartitionSpec(partition.name, partition.nodes or tuple(nodes)) for partition in partitions]
    left = set(nodes)
    chosen: list[PartitionSpec] = []
    while left and spelt:
        best = max(spelt, key=lambda partition: len(left & set(partition.nodes)))
        if not left & set(best.nodes):
            break
        chosen.append(best)
        left -= set(best.nodes)
    return tuple(chosen)
