"""Working with a lab that is there: configure, verify, inventory, ssh."""

from __future__ import annotations

import time
from collections.abc import Sequence

from emulator.app.files import load_recorded_lab
from emulator.app.gpu_planning import node_gpus
from emulator.app.lab import Lab, open_lab
from emulator.app.planning import recorded_backends
from emulator.app.provision import ProvisionResult, configure_lab, verify_lab
from emulator.app.world import CheckOutcome, World
from emulator.apply.handler import StopFlag
from emulator.apply.journal import Journal
from emulator.apply.lock import exclusive_lock
from emulator.apply.state import StateStore
from emulator.errors import UsageError
from emulator.plan.model import Plan
from emulator.progress import Reporter
from emulator.spec.model import ClusterSpec


def _opened(world: World, name: str) -> tuple[Lab, StateStore]:
    store = StateStore(Journal(world.home.lab(name).journal))
    backends = recorded_backends(store.state)
    if not backends.hypervisor:
        raise UsageError(f"lab {name} is not provisioned", fix="hyperscaler provision FILE")
    return open_lab(world, name, backends), store


def configure(world: World, spec: ClusterSpec, reporter: Reporter, stop: StopFlag) -> ProvisionResult:
    """Run the playbooks of a provisioned lab with the settings of the given file."""
    started = time.monotonic()
    with exclusive_lock(world.home.locks / f"{spec.name}.lock", purpose=f"configure {spec.name}"):
        lab, store = _opened(world, spec.name)
        store.start_run("configure")
        changed = configure_lab(world, lab, store, spec, reporter, stop)
    return ProvisionResult(Plan(spec.name, ()), changed=changed, seconds=time.monotonic() - started)


def verify(world: World, name: str, reporter: Reporter) -> tuple[CheckOutcome, ...]:
    """Probe a provisioned lab.

    Raises:
        VerifyError: names every check that failed.
    """
    spec = load_recorded_lab(world.home, name).spec
    with exclusive_lock(world.home.locks / f"{name}.lock", purpose=f"verify {name}"):
        lab, store = _opened(world, name)
        store.start_run("verify")
        return verify_lab(world, lab, store, spec, reporter)


def inventory(world: World, name: str, form: str) -> str:
    """The lab's Ansible inventory; reads only."""
    spec = load_recorded_lab(world.home, name).spec
    lab, store = _opened(world, name)
    return world.guests.inventory(spec, lab.access(spec.ssh.user, node_gpus(spec, store.state)), form)


def ssh_argv(world: World, name: str, node: str, command: Sequence[str]) -> list[str]:
    """The command that opens a shell on a node.

    Raises:
        UsageError: no such lab or node; names those that there are.
    """
    spec = load_recorded_lab(world.home, name).spec
    if node not in {known.name for known in spec.nodes}:
        names = ", ".join(known.name for known in spec.nodes)
        raise UsageError(f"lab {name} has no node {node}", fix=f"its nodes are {names}")
    lab, _ = _opened(world, name)
    return world.guests.ssh_argv(lab.access(spec.ssh.user), node, command)


def kubeconfig(world: World, name: str, *, student: bool) -> str:
    """A kubeconfig of the lab's Kubernetes cluster. Whoever has the admin's owns the cluster.

    Raises:
        UsageError: the lab has no Kubernetes cluster.
    """
    spec = load_recorded_lab(world.home, name).spec
    if spec.kubernetes is None:
        raise UsageError(f"lab {name} has no Kubernetes cluster", fix="add clusters.cloud to its file and provision it")
    lab, _ = _opened(world, name)
    return world.guests.kubeconfig(spec, lab.access(spec.ssh.user), student=student)
