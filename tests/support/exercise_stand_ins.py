"""Stand-ins for the programs that exercises ask in the guests: they answer from a table of jobs and objects.

They take the options that the exercises use, and refuse all others, so that a check cannot pass by a misread option.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulator.core.ports import Completed, GuestAddress
from emulator.exercises.grade import Graded, grade
from emulator.exercises.model import Command
from emulator.exercises.setting import Setting
from tests.support.waiting import PATIENCE

RELEASE = "/usr/lib/hyperscaler/kubernetes.json"
IMAGE = "hyperscaler.invalid/kubernetes/tools:1"

_PROGRAM = """\
#!{python} -I
import argparse, json, os, sys
table = json.load(open({table!r}))
called = os.path.basename(sys.argv[0])
"""
_SACCT = """
ask = argparse.ArgumentParser(allow_abbrev=False)
for flag in ("-X", "-n", "-P"):
    ask.add_argument(flag, action="store_true")
for option in ("-u", "-S", "-N", "-o"):
    ask.add_argument(option, default="")
ask.add_argument("--name", default="")
given = ask.parse_args()
assert given.n and given.P and given.u and given.S, "the table needs no heading, and a user and a time"
for job in table["jobs"]:
    mine = job["User"] == given.u and (not given.name or job["JobName"] == given.name)
    there = not given.N or given.N in job["NodeList"].split(",")
    if mine and there and (job["End"] == "Unknown" or job["End"] >= given.S):
        rows = [job] if given.X else [job, *({{**job, **step}} for step in job.get("steps", []))]
        for row in rows:
            print("|".join(row[name] for name in given.o.split(",")))
"""
_SQUEUE = (
    """
ask = argparse.ArgumentParser(allow_abbrev=False)
ask.add_argument("-h", action="store_true", dest="no_heading")
for option in ("-u", "-n", "-o"):
    ask.add_argument(option, default="")
""".replace("ArgumentParser(", "ArgumentParser(add_help=False, ")
    + """
given = ask.parse_args()
assert given.no_heading and given.o == "%i"
for job in table["jobs"]:
    if job["End"] == "Unknown" and job["User"] == given.u and job["JobName"] == given.n:
        print(job["JobID"])
"""
)
_SINFO = """
ask = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
for flag in ("-h", "-N"):
    ask.add_argument(flag, action="store_true")
for option in ("-n", "-o"):
    ask.add_argument(option, default="")
given = ask.parse_args()
assert given.h and given.N and given.o == "%T"
for partition in ("main", "debug"):
    print(table["nodes"][given.n])
"""
_MUNGE = """
if called == "munge":
    print("MUNGE:" + table["munge"] + ":")
else:
    known = sys.stdin.read().strip() == "MUNGE:right:"
    print("STATUS:           Success (0)" if known else "STATUS:           Invalid credential (15)")
    sys.exit(0 if known else 15)
"""
_KUBECTL = """
words = sys.argv[1:]
assert words[0] == "get" and words[words.index("-o") + 1] == "json"
space = words[words.index("-n") + 1]
kinds = [each.rstrip("s") for each in words[1].split(",")]
found = [each for each in table["objects"] if each["metadata"]["namespace"] == space and each["kind"].lower() in kinds]
if words[2] != "-n":
    found = [each for each in found if each["metadata"]["name"] == words[2]]
    if not found:
        sys.exit("Error from server (NotFound)")
    print(json.dumps(found[0]))
else:
    print(json.dumps({{"kind": "List", "items": found}}))
"""
_PROGRAMS: Mapping[str, str] = {
    "sacct": _SACCT,
    "squeue": _SQUEUE,
    "sinfo": _SINFO,
    "munge": _MUNGE,
    "unmunge": _MUNGE,
    "kubectl": _KUBECTL,
}


@dataclass
class StandIns:
    """`GuestShell` that runs the scripts of checks here, with the stand-ins in place of the real programs."""

    root: Path
    table: dict[str, Any]
    ran: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._programs = self.root / "programs"
        self._programs.mkdir(parents=True, exist_ok=True)
        table = self.root / "table.json"
        table.write_text(json.dumps(self.table))
        (self.root / "release.json").write_text(json.dumps({"tools": IMAGE}))
        for name, text in _PROGRAMS.items():
            program = self._programs / name
            program.write_text((_PROGRAM + text).format(python=sys.executable, table=str(table)))
            program.chmod(0o755)

    def grade(self, setting: Setting) -> tuple[Graded, ...]:
        lines = {setting.line(command): (command, setting) for command in _commands(setting)}
        self._lines = lines
        return grade(setting, self)

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        del timeout, check
        wanted, setting = self._lines[command]
        self.ran.append((guest.name, wanted.run))
        script = wanted.run.replace(RELEASE, str(self.root / "release.json"))
        path = f"{self._programs}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", script],
            env={**setting.variables(), "PATH": path, "TZ": "UTC"},
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Completed(("ssh", guest.name), done.returncode, done.stdout, done.stderr)

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        del guest, timeout
        return True


def _commands(setting: Setting) -> Sequence[Command]:
    checks = setting.exercise.checks
    return [*checks, *(check.input_from for check in checks if check.input_from is not None)]


def job(name: str, state: str = "COMPLETED", **fields: Any) -> dict[str, Any]:
    """A job of ada's on the first compute node, with a batch step."""
    made = {
        "JobID": "7",
        "JobName": name,
        "User": "ada",
        "State": state,
        "NodeList": "hpc-compute-1",
        "Submit": "2026-01-01T10:00:00",
        "Start": "2026-01-01T10:00:05",
        "End": "2026-01-01T10:00:30" if state not in ("PENDING", "RUNNING") else "Unknown",
        "TimelimitRaw": "5",
        "AllocTRES": "billing=1,cpu=1,gres/gpu=1,mem=50M,node=1",
        **fields,
    }
    made["steps"] = [{"JobID": f"{made['JobID']}.batch", "JobName": "batch"}]
    return made


def deployment(name: str, replicas: int, available: int, **fields: Any) -> dict[str, Any]:
    """A Deployment in ada's namespace, all of whose `replicas` are of the present revision."""
    container = {"name": name, "image": fields.pop("image", IMAGE), "env": fields.pop("env", [])}
    status = {"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas}
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "student-ada", "uid": name, "generation": 1},
        "spec": {
            "replicas": fields.pop("wanted", replicas),
            "strategy": {"type": "Recreate"},
            "template": {"spec": {"containers": [container]}},
            **fields,
        },
        "status": {**status, **({"availableReplicas": available} if available else {})},
    }
