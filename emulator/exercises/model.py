"""An exercise as its file has it. As in `emulator.labfile.model`, an attribute with a `key(...)` is in the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Annotated

from emulator.credentials.users import AccessRole
from emulator.labfile.key import key
from emulator.labfile.model import ClusterKind, Role
from emulator.labfile.schema import Schema, section_schema

FILE = "exercise.yaml"


class Cluster(StrEnum):
    """The cluster that an exercise is about."""

    SLURM = "slurm"
    KUBERNETES = "kubernetes"

    @property
    def kind(self) -> ClusterKind:
        return ClusterKind.HPC if self is Cluster.SLURM else ClusterKind.CLOUD


class Place(StrEnum):
    """A node by what it is for; of several it is the first."""

    CONTROLLER = "controller"
    COMPUTE = "compute"
    CONTROL_PLANE = "control-plane"
    WORKER = "worker"

    @property
    def roles(self) -> tuple[Role, ...]:
        return {
            Place.CONTROLLER: (Role.HPC_CONTROLLER,),
            Place.COMPUTE: (Role.HPC_COMPUTE,),
            Place.CONTROL_PLANE: (Role.CLOUD_CONTROL_PLANE,),
            Place.WORKER: (Role.CLOUD_GPU_WORKER, Role.CLOUD_CPU_WORKER),
        }[self]

    @property
    def cluster(self) -> Cluster:
        return Cluster.SLURM if self in (Place.CONTROLLER, Place.COMPUTE) else Cluster.KUBERNETES


class RunAs(StrEnum):
    """Whose command it is on the node."""

    ADMIN = "admin"
    ROOT = "root"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A shell script on a node."""

    node: Annotated[Place, key("The node that it runs on.", required=True)] = Place.CONTROLLER
    run: Annotated[
        str,
        key(
            "A script for sh. It gets the variables of docs/user/exercises.md and no terminal.",
            required=True,
            minLength=1,
            maxLength=8000,
        ),
    ] = ""
    run_as: Annotated[
        RunAs,
        key(
            "Who runs it: the lab's owner, root, or the student, whose word it then is.",
            name="as",
        ),
    ] = RunAs.ADMIN
    seconds: Annotated[
        int, key("It takes no longer on a fast host; a slow one gets more.", minimum=1, maximum=3600)
    ] = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a check's command must come to. Only what equals it counts, so that no output can contain it as well."""

    prints: Annotated[
        str | None,
        key("All that it prints, without blanks around it.", maxLength=1000, computed=True),
    ] = None
    at_least: Annotated[
        int | None,
        key("It prints a whole number, which is not smaller.", minimum=0, maximum=1_000_000_000, computed=True),
    ] = None
    exit: Annotated[int, key("Its exit status.", minimum=0, maximum=254)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Command):
    """A command whose result says whether a part of the exercise is solved."""

    title: Annotated[str, key("What is checked, in a few words.", required=True, minLength=1, maxLength=120)] = ""
    points: Annotated[int, key("What it counts.", required=True, minimum=1, maximum=100, examples=[5])] = 1
    expect: Annotated[Expectation, key("The result that counts.")] = field(default_factory=Expectation)
    otherwise: Annotated[
        str, key("What the student reads when it does not hold.", required=True, minLength=1, maxLength=500)
    ] = ""
    input_from: Annotated[
        Command | None,
        key(
            "Another command, which runs first; what it prints is this one's standard input.",
            computed=True,
            start=Command(),
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a lab must have."""

    compute_nodes: Annotated[int, key("Compute nodes of Slurm.", minimum=0, maximum=512)] = 0
    workers: Annotated[int, key("Workers of Kubernetes.", minimum=0, maximum=512)] = 0
    gpus: Annotated[int, key("GPUs or slices in the exercise's cluster.", minimum=0, maximum=4096)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """An exercise: the whole file. `name` is that of its directory."""

    name: str = ""
    version: Annotated[str, key("Of this format.", required=True, enum=["1.0"])] = "1.0"
    title: Annotated[str, key("One line.", required=True, minLength=1, maxLength=80)] = ""
    text: Annotated[str, key("What the student is to do.", required=True, minLength=1, maxLength=8000)] = ""
    cluster: Annotated[Cluster, key("The cluster that it is about.", required=True)] = Cluster.SLURM
    role: Annotated[
        AccessRole,
        key("The access that it takes to solve it: an admin becomes root on the nodes."),
    ] = AccessRole.STUDENT
    minutes: Annotated[
        int,
        key(
            "The time that a student has. Who takes longer is late, with the same points.",
            minimum=1,
            maximum=1440,
        ),
    ] = 30
    needs: Annotated[Needs, key("What the lab must have.")] = field(default_factory=Needs)
    setup: Annotated[
        tuple[Annotated[Command, key("A shell script on a node.")], ...],
        key("Commands that prepare the lab, in this order.", maxItems=20),
    ] = ()
    checks: Annotated[
        tuple[Annotated[Check, key("A check, with its points.")], ...],
        key("Commands that look whether it is solved. They change nothing.", required=True, minItems=1, maxItems=20),
    ] = ()
    cleanup: Annotated[
        tuple[Annotated[Command, key("A shell script on a node.")], ...],
        key(
            "Commands that take back what was prepared. They run before it, too, and find nothing to do then.",
            maxItems=20,
        ),
    ] = ()
    hints: Annotated[
        tuple[Annotated[str, key("A hint.", minLength=1, maxLength=1000)], ...],
        key("Given one by one.", maxItems=10),
    ] = ()

    @property
    def points(self) -> int:
        return sum(check.points for check in self.checks)


@cache
def exercise_schema() -> Schema:
    """The schema of an exercise's file, draft 2020-12; `schemas/exercise.schema.json` is this, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://hyperscaler.invalid/schemas/exercise/1.0/exercise.schema.json",
        "title": "hyperscaler exercise, version 1.0",
        "description": "An exercise on a lab: a text, what prepares it, and what grades it.",
        **section_schema(Exercise),
    }
