"""Labs, students and exercises for tests that need no machine."""

from __future__ import annotations

from dataclasses import replace

from emulator.credentials.users import AccessRole
from emulator.exercises.load import parse_exercise
from emulator.exercises.model import Exercise
from emulator.exercises.setting import Setting, Student
from emulator.guests.inventory.model import NodeGpu
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterSpec

STARTED = 1767225600  # 2026-01-01T00:00:00Z

LAB = """\
version: "1.0"
metadata: {name: demo}
clusters:
  hpc: {compute_nodes: {count: 2}}
  cloud: {worker_nodes: {cpu_workers: {count: 1}}}
"""
SLURM_ALONE = """\
version: "1.0"
metadata: {name: demo}
clusters: {hpc: {compute_nodes: {count: 1}}}
"""
KUBERNETES_ALONE = """\
version: "1.0"
metadata: {name: demo}
clusters: {cloud: {worker_nodes: {cpu_workers: {count: 1}}}}
"""

EXERCISE = """\
version: "1.0"
title: A title
cluster: slurm
text: What to do.
setup: [{node: controller, run: prepare}]
checks: [{title: it holds, node: controller, run: look, points: 5, expect: {prints: "yes"}, otherwise: not so}]
cleanup: [{node: controller, run: take back}]
hints: [the first, the second]
"""


def lab(text: str = LAB) -> ClusterSpec:
    spec, report = parse_spec(text, file="cluster.yaml")
    assert spec is not None, report.errors
    return spec


def exercise(text: str = EXERCISE, name: str = "own") -> Exercise:
    found, report = parse_exercise(text, file="exercise.yaml")
    assert found is not None, [each.render() for each in report.errors]
    return replace(found, name=name)


def setting_of(
    of: Exercise | None = None,
    *,
    spec: ClusterSpec | None = None,
    user: str = "labadmin",
    role: AccessRole | None = None,
    gpus: int = 2,
) -> Setting:
    """A setting with slices on the first compute node, for the lab's owner or for a student who may solve it."""
    of, spec = of or exercise(), spec or lab()
    person = Student(user, role or (AccessRole.ADMIN if user == "labadmin" else of.role), user != "labadmin")
    granted = {"hpc-compute-1": (NodeGpu("1g.10gb", gpus, simulated=True),)} if gpus else {}
    return Setting(spec, granted, of, person, STARTED)
