"""One exercise in one lab for one student: what its commands become on the nodes, and what the lab lacks. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from emulator.core.errors import UsageError
from emulator.core.ports import GuestAddress
from emulator.credentials.users import AccessRole
from emulator.exercises.model import Cluster, Command, Exercise, Place, RunAs
from emulator.guests.inventory.model import NodeGpu
from emulator.kubernetes.config.kubectl import ADMIN_CONF
from emulator.kubernetes.config.users import student_namespace
from emulator.labfile.findings import counted
from emulator.labfile.model import ClusterSpec, NodeSpec, Role

_ENV = "/usr/bin/env"
_SUDO = "/usr/bin/sudo -n"


@dataclass(frozen=True, slots=True)
class Student:
    """Who does the exercise.

    Attributes:
        name: of the account on the nodes.
        role: of the person in the exercise's cluster.
        own_namespace: whether the person works in a namespace of their own in Kubernetes.
    """

    name: str
    role: AccessRole
    own_namespace: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """An exercise in a lab.

    Attributes:
        spec: the lab.
        gpus: node name -> its GPUs.
        exercise: what is asked.
        student: who is asked.
        started: when it was prepared, in seconds since the epoch.
    """

    spec: ClusterSpec
    gpus: Mapping[str, tuple[NodeGpu, ...]]
    exercise: Exercise
    student: Student
    started: int = 0

    @property
    def namespace(self) -> str:
        """The student's own namespace, or one for the exercise: an admin has the whole cluster."""
        if self.student.own_namespace:
            return student_namespace(self.student.name)
        return f"exercise-{self.exercise.name}"

    def node(self, place: Place) -> GuestAddress:
        """Raises: UsageError when the lab has no such node."""
        node = next(self._at(place), None)
        if node is None:
            raise UsageError(f"lab {self.spec.name} has no {place.value} node", fix=_FIX)
        return GuestAddress(node.name, node.ip, self.spec.ssh.user)

    def variables(self) -> Mapping[str, str]:
        """What the commands can use; the places that a lab lacks have no variable."""
        granted = self._granted()
        found = {
            "EXERCISE_USER": self.student.name,
            "EXERCISE_STARTED": str(self.started),
            "EXERCISE_GPUS": str(sum(gpu.count for gpu in granted)),
            "EXERCISE_GPU": granted[0].type if granted else "",
        }
        if self.exercise.cluster is Cluster.KUBERNETES:
            found |= {"EXERCISE_NAMESPACE": self.namespace, "KUBECONFIG": ADMIN_CONF}
        for place in Place:
            node = next(self._at(place), None)
            if place.cluster is self.exercise.cluster and node is not None:
                found[f"EXERCISE_{place.name}"] = node.name
        return found

    def line(self, command: Command) -> str:
        """The command as one line for the shell of the lab's owner on the node.

        The script is one quoted word, and so is each value: nothing in them is read by that shell. A student's command
        starts in their home, without their profile.
        """
        variables = self.variables()
        if command.run_as is not RunAs.ROOT:
            variables = {name: value for name, value in variables.items() if name != "KUBECONFIG"}
        words = [
            _ENV,
            *(f"{name}={value}" for name, value in variables.items()),
            "sh",
            "-c",
            f"cd || cd /\n{command.run}",
        ]
        quoted = shlex.join(words)
        match command.run_as:
            case RunAs.ADMIN:
                return quoted
            case RunAs.ROOT:
                return f"{_SUDO} -H -- {quoted}"
            case RunAs.USER:
                return f"{_SUDO} -H -u {shlex.quote(self.student.name)} -- {quoted}"

    def lacks(self) -> tuple[str, ...]:
        """What the lab has not and the exercise needs, in words; empty when it can be done."""
        return tuple(self._lacks())

    def _lacks(self) -> Iterator[str]:
        cluster, needs = self.exercise.cluster, self.exercise.needs
        has = self.spec.slurm if cluster is Cluster.SLURM else self.spec.kubernetes
        if has is None:
            yield f"a {cluster.value.capitalize()} cluster"
            return
        for place, wanted in ((Place.COMPUTE, needs.compute_nodes), (Place.WORKER, needs.workers)):
            found = len(list(self._at(place)))
            if found < wanted:
                yield f"{counted(wanted, _NOUN[place])} (it has {found})"
        gpus = sum(gpu.count for gpu in self._granted())
        if gpus < needs.gpus:
            yield f"{counted(needs.gpus, 'GPU or slice')} in its {cluster.value.capitalize()} cluster (it has {gpus})"

    def require(self) -> None:
        """Raises: UsageError when the lab lacks something, or the student may not solve it."""
        missing = self.lacks()
        if missing:
            raise UsageError(
                f"lab {self.spec.name} cannot have the exercise {self.exercise.name}: it lacks {' and '.join(missing)}",
                fix=_FIX,
            )
        if self.exercise.role is AccessRole.ADMIN and self.student.role is not AccessRole.ADMIN:
            raise UsageError(
                f"{self.student.name} is a student, and the exercise {self.exercise.name} takes an admin of the nodes",
                fix=f"hyperscaler access add {self.spec.name} {self.student.name} --role admin, or take the exercise"
                " yourself, without --user",
            )

    def _at(self, place: Place) -> Iterator[NodeSpec]:
        return (node for node in self.spec.nodes if node.role in place.roles)

    def _granted(self) -> tuple[NodeGpu, ...]:
        nodes = self.spec.nodes_of(self.exercise.cluster.kind)
        return tuple(gpu for node in nodes for gpu in self.gpus.get(node.name, ()))


_FIX = "change the lab file and provision it; `hyperscaler exercise list LAB` shows which exercises a lab can have"
_NOUN: Mapping[Place, str] = {Place.COMPUTE: "compute node", Place.WORKER: "Kubernetes worker"}


def head_of(exercise: Exercise) -> Role:
    """The role of the node where access makes a person an admin of the exercise's cluster."""
    return Role.HPC_CONTROLLER if exercise.cluster is Cluster.SLURM else Role.CLOUD_CONTROL_PLANE
