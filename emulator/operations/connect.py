"""Connect: how people and programs on this host reach a provisioned lab. Reads only, and takes no lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from emulator.core.errors import UsageError
from emulator.guests.ports import Access
from emulator.lab.environment import Environment
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.gpu_placement import node_gpus
from emulator.lab.planning.release_on_disks import slurm_on_disks
from emulator.lab.run import open_provisioned
from emulator.labfile.model import ClusterSpec


def inventory(env: Environment, name: str, form: str) -> str:
    """The lab's Ansible inventory, in one of the formats of `Guests.inventory`."""
    spec = load_recorded_lab(env.home, name).spec
    return env.guests.inventory(spec, access_to(env, spec), form)


def ssh_argv(env: Environment, name: str, node: str, command: Sequence[str]) -> list[str]:
    """The command that opens a shell on a node.

    Raises:
        UsageError: no such lab or node; names those that there are.
    """
    spec = load_recorded_lab(env.home, name).spec
    if node not in {known.name for known in spec.nodes}:
        names = ", ".join(known.name for known in spec.nodes)
        raise UsageError(f"lab {name} has no node {node}", fix=f"its nodes are {names}")
    return env.guests.ssh_argv(access_to(env, spec), node, command)


def kubeconfig(env: Environment, name: str, *, student: bool) -> str:
    """A kubeconfig of the lab's Kubernetes cluster. The admin's gives full control of the cluster.

    Raises:
        UsageError: the lab has no Kubernetes cluster.
    """
    spec = load_recorded_lab(env.home, name).spec
    if spec.kubernetes is None:
        raise UsageError(f"lab {name} has no Kubernetes cluster", fix="add clusters.cloud to its file and provision it")
    access = replace(access_to(env, spec), pace=env.pace(spec))  # the only one here that asks a node, and waits for it
    return env.guests.kubeconfig(spec, access, student=student)


def way_to_lab(env: Environment, name: str) -> tuple[str, ...]:
    """The argv prefix with which commands on this host reach the lab's nodes by their addresses.

    Empty where they are reachable without one.
    """
    return tuple(access_to(env, load_recorded_lab(env.home, name).spec).prefix)


def access_to(env: Environment, spec: ClusterSpec) -> Access:
    """The way into the nodes of a provisioned lab, with the GPUs that they have by the record."""
    record = open_record(env.home, spec.name)
    gpus, slurm = node_gpus(spec, record.state), slurm_on_disks(spec, record.state.resources)
    return open_provisioned(env, record).access(spec.ssh.user, gpus, slurm=slurm)
