"""Names and quotas of a lab's users in its Kubernetes cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

USERS_NAMESPACE = "hyperscaler-users"
"""The namespace of all users' service accounts. Users do not work in it: anyone who may make pods or secrets next to an
account could create tokens for it that never expire."""

PODS = 20
CLAIMS = 5


def student_namespace(user: str) -> str:
    """The namespace of a student's own. The prefix keeps it apart from those of the system."""
    return f"student-{user}"


def student_quota(cpu_cores: int, memory_mib: int, gpu_resources: Iterable[str]) -> Mapping[str, str]:
    """What one student may have at a time, as `hard` of a ResourceQuota: half of what the workers have, and like in
    Slurm one GPU (of each kind).

    Args:
        cpu_cores: of all nodes that run pods.
        memory_mib: of all of them, in MiB.
        gpu_resources: names under which the cluster offers GPUs.
    """
    return {
        "pods": str(PODS),
        "persistentvolumeclaims": str(CLAIMS),
        # Ports of the nodes themselves are for the admins to give.
        "services.nodeports": "0",
        "services.loadbalancers": "0",
        "requests.cpu": str(max(1, cpu_cores // 2)),
        "requests.memory": _quantity(max(256, memory_mib // 2)),
        **{f"requests.{name}": "1" for name in sorted(set(gpu_resources))},
    }


def _quantity(mib: int) -> str:
    """MiB as the API server writes them down: in another spelling, a quota would look changed for ever."""
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"
