"""For each exercise that ships what solves it and what does not, as a person would do it in a real lab."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.labs import COMMAND, hyperscaler
from tests.support.waiting import PATIENCE, until


@dataclass(frozen=True)
class Step:
    """A script for the lab's owner on a node, a variable of the exercise; `output_of` is a step on another node whose
    output is its input."""

    node: str
    script: str
    output_of: Step | None = None


@dataclass(frozen=True)
class Attempt:
    """What is done, and the points that it has."""

    steps: tuple[Step, ...]
    points: int


CONTROLLER, COMPUTE, HEAD = "EXERCISE_CONTROLLER", "EXERCISE_COMPUTE", "EXERCISE_CONTROL_PLANE"
RUN_THERE = Step(CONTROLLER, 'srun -w "$EXERCISE_COMPUTE" hostname')
KUBECTL = 'k() { kubectl -n "$EXERCISE_NAMESPACE" "$@"; }; '


def cluster(script: str) -> Step:
    return Step(HEAD, KUBECTL + script)


# exercise -> an attempt that is wrong, and one that solves it, one after the other in the same lab
ATTEMPTS: Mapping[str, tuple[Attempt, Attempt]] = {
    "first-job": (
        Attempt((Step(CONTROLLER, "srun --job-name=first-job --time=5 hostname"),), 7),
        Attempt((Step(CONTROLLER, "sbatch --wait --job-name=first-job --time=5 -o /dev/null --wrap hostname"),), 10),
    ),
    "array-dependency": (
        Attempt(
            (
                Step(CONTROLLER, "sbatch --wait --job-name=measure --array=1-4 -o /dev/null --wrap 'sleep 1'"),
                Step(CONTROLLER, "sbatch --wait --job-name=collect -o /dev/null --wrap true"),
            ),
            6,
        ),
        Attempt(
            (
                Step(
                    CONTROLLER,
                    "job=$(sbatch --parsable --job-name=measure --array=1-4 -o /dev/null --wrap 'sleep 20') &&"
                    " sbatch --wait --job-name=collect --dependency=afterok:$job -o /dev/null --wrap true",
                ),
            ),
            10,
        ),
    ),
    "gpu-slice": (
        Attempt((Step(CONTROLLER, "squeue -h -n evaluation -o %T | grep -x PENDING"),), 0),
        Attempt(
            (
                Step(
                    CONTROLLER,
                    "scancel --name=notebook; while squeue -h -n evaluation,notebook -o %i | grep -q .;"
                    " do sleep 2; done",
                ),
            ),
            10,
        ),
    ),
    "drained-node": (
        # Slurm goes on waiting for the node, whose slurmd is stopped.
        Attempt((Step(CONTROLLER, "sinfo -R -h -o '%E %N' | grep '^exercise - '"),), 0),
        Attempt(
            (
                Step(COMPUTE, "sudo -n systemctl start slurmd"),
                Step(CONTROLLER, 'scontrol update "nodename=$EXERCISE_COMPUTE" state=resume'),
                RUN_THERE,
            ),
            10,
        ),
    ),
    "munge-key": (
        Attempt((Step(COMPUTE, "sudo -n systemctl restart munge"),), 0),
        Attempt(
            (
                Step(
                    COMPUTE,
                    "sudo -n sh -c 'cat >/etc/munge/munge.key && systemctl restart munge && systemctl restart slurmd'",
                    output_of=Step(CONTROLLER, "sudo -n cat /etc/munge/munge.key"),
                ),
                RUN_THERE,
            ),
            10,
        ),
    ),
    "pending-pod": (
        Attempt((cluster("k rollout restart deployment/web"),), 0),
        Attempt(
            (
                cluster(
                    "k patch deployment web --type=json"
                    """ -p '[{"op": "remove", "path": "/spec/template/spec/nodeSelector"}]'"""
                    " && k rollout status deployment/web"
                ),
            ),
            10,
        ),
    ),
    "rolling-update": (
        Attempt((cluster("k set env deployment/shop RELEASE=green && k rollout status deployment/shop"),), 7),
        Attempt(
            (
                cluster(
                    "k rollout undo deployment/shop && k rollout status deployment/shop &&"
                    """ k patch deployment shop -p '{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0}}}}'"""
                    " && k set env deployment/shop RELEASE=green && k rollout status deployment/shop"
                ),
            ),
            10,
        ),
    ),
    "small-quota": (
        Attempt((cluster("k scale deployment kiosk --replicas=1 && k rollout status deployment/kiosk"),), 0),
        Attempt(
            (
                cluster(
                    "k scale deployment kiosk --replicas=2 && k set resources deployment kiosk --requests=cpu=40m"
                    " && k rollout status deployment/kiosk"
                ),
            ),
            10,
        ),
    ),
}


SLURM = ("first-job", "array-dependency", "gpu-slice", "drained-node", "munge-key")
KUBERNETES = ("pending-pod", "rolling-update", "small-quota")


def prove(lab: str, name: str) -> None:
    """Carry out both attempts at an exercise in a lab: each has its points, and grading twice says the same."""
    started: dict[str, Any] = hyperscaler("exercise", "start", lab, name, "--json").json()
    try:
        assert points(lab, name) == 0
        for attempt in ATTEMPTS[name]:
            for step in attempt.steps:
                carry_out(lab, step, started["values"])
            # Slurm's accounting learns of a job's end some seconds after the job.
            until(partial(_has, lab, name, attempt.points), pause=2)
            assert points(lab, name) == attempt.points
    finally:
        hyperscaler("exercise", "end", lab, name)
    hyperscaler("exercise", "end", lab, name)


def _has(lab: str, name: str, wanted: int) -> bool:
    grade: dict[str, Any] = json.loads(hyperscaler("exercise", "grade", lab, name, "--json", check=False).stdout)
    return int(grade["points"]) == wanted


def points(lab: str, name: str) -> int:
    first, second = (hyperscaler("exercise", "grade", lab, name, "--json", check=False) for _ in range(2))
    assert first.stdout == second.stdout
    grade: dict[str, Any] = json.loads(first.stdout)
    assert not [each for each in grade["checks"] if each["result"] == "unanswered"], grade
    assert first.code == (0 if grade["solved"] else 1)
    return int(grade["points"])


def carry_out(lab: str, step: Step, values: Mapping[str, str]) -> None:
    given = b"" if step.output_of is None else _ssh(lab, step.output_of, values)
    _ssh(lab, step, values, given)


def _ssh(lab: str, step: Step, values: Mapping[str, str], given: bytes = b"") -> bytes:
    names = " ".join(f"{name}={value}" for name, value in values.items())
    argv: Sequence[str] = [str(COMMAND), "ssh", lab, values[step.node], "--", f"export {names}; {step.script}"]
    done = subprocess.run(argv, input=given, capture_output=True, timeout=4 * PATIENCE, check=False)
    assert done.returncode == 0, (step.script, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout
