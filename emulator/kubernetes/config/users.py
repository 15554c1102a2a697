"""Names and quotas of a lab's users in its Kubernetes cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

USERS_NAMESPACE = "hyperscaler-users"
"""The namespace of all users' service accounts. Users do not work in it: anyone who may make pods or secrets next to an
account could create tokens for it that never expire."""

CLAIMS = 5

_OBJECTS: Mapping[str, int] = {
    "configmaps": 50,
    "secrets": 50,
    "services": 20,
    "replicationcontrollers": 10,
    "count/serviceaccounts": 10,
    "count/deployments.apps": 20,
    # Of each Deployment one that runs and ten of before, as many as Kubernetes keeps by default.
    "count/replicasets.apps": 220,
    "count/statefulsets.apps": 10,
    "count/daemonsets.apps": 5,
    # Of StatefulSets and DaemonSets, as above.
    "count/controllerrevisions.apps": 165,
    "count/jobs.batch": 50,
    "count/cronjobs.batch": 10,
    "count/horizontalpodautoscalers.autoscaling": 20,
    "count/ingresses.networking.k8s.io": 20,
    "count/httproutes.gateway.networking.k8s.io": 20,
    "count/poddisruptionbudgets.policy": 20,
    "count/leases.coordination.k8s.io": 20,
    "services.loadbalancers": 0,
}
"""Objects that a student may keep: all that they may make, so that nobody fills the cluster's database."""

_DEFAULT_REQUEST: Mapping[str, str] = {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "64Mi"}
_DEFAULT_LIMIT: Mapping[str, str] = {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "512Mi"}


@dataclass(frozen=True, slots=True)
class Workers:
    """What the nodes have that run pods: `cpus` cores, `memory` MiB and `disk` GiB of each node, in one order."""

    cpus: Sequence[int]
    memory: Sequence[int]
    disk: Sequence[int]

    @property
    def half_of_disks(self) -> int:
        """GiB."""
        return max(2, sum(self.disk) // 2)


def student_namespace(user: str) -> str:
    """The namespace of a student's own. The prefix keeps it apart from those of the system."""
    return f"student-{user}"


def student_quota(
    workers: Workers, gpu_resources: Iterable[str], *, pods: int = 20, node_ports: int = 0
) -> Mapping[str, str]:
    """What one student may have at a time, as `hard` of a ResourceQuota: half of what the workers have, and like in
    Slurm one GPU (of each kind).

    Requests are what the scheduler gives. Limits may exceed them: cores are shared by what was requested, and memory
    beyond it is taken back first where a node runs short.

    Args:
        workers: all nodes that run pods.
        gpu_resources: names under which the cluster offers GPUs.
        pods: at a time.
        node_ports: services with a port of the nodes; those are for the lab's owner to give.
    """
    cores, memory, disk = sum(workers.cpus), sum(workers.memory), f"{workers.half_of_disks}Gi"
    return {
        "pods": str(pods),
        # Those that have ended included.
        "count/pods": str(10 * pods),
        "services.nodeports": str(node_ports),
        "persistentvolumeclaims": str(CLAIMS),
        **{name: str(most) for name, most in _OBJECTS.items()},
        "requests.cpu": str(max(1, cores // 2)),
        "requests.memory": _quantity(max(256, memory // 2)),
        "limits.cpu": str(max(pods, 2 * cores)),
        "limits.memory": _quantity(max(1024, memory)),
        "requests.ephemeral-storage": disk,
        "limits.ephemeral-storage": disk,
        "requests.storage": disk,
        **{f"requests.{name}": "1" for name in sorted(set(gpu_resources))},
    }


def student_limits(workers: Workers) -> Sequence[Mapping[str, str | Mapping[str, str]]]:
    """What a container of a student's gets that says nothing, and what one container, pod and claim may have at most,
    as `limits` of a LimitRange. The most is the largest node: nothing larger could run.

    Cores of a pod's containers are not added up: on a node of one core, a pod of two containers with the default of one
    core each would be refused.
    """
    most = {"memory": _quantity(max(256, *workers.memory)), "ephemeral-storage": f"{workers.half_of_disks}Gi"}
    cores = {"cpu": str(max(workers.cpus))}
    return (
        {"type": "Container", "default": _DEFAULT_LIMIT, "defaultRequest": _DEFAULT_REQUEST, "max": {**cores, **most}},
        {"type": "Pod", "max": most},
        {"type": "PersistentVolumeClaim", "max": {"storage": f"{workers.half_of_disks}Gi"}},
    )


def _quantity(mib: int) -> str:
    """MiB as the API server writes them down: in another spelling, a quota would look changed for ever."""
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"
