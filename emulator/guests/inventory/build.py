"""Builds Ansible's inventory from a lab file. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from emulator.core.debian.releases import SlurmFeature, slurm_features
from emulator.credentials.ssh_trust import SshTrust
from emulator.credentials.users import AccessRole
from emulator.guests.inventory.inbound import inbound_from_others
from emulator.guests.inventory.model import (
    AnsibleInventory,
    ConnectionFacts,
    InventoryGroup,
    InventoryHost,
    NodeGpu,
    Vars,
    VarValue,
)
from emulator.guests.inventory.slurm_limits import student_tres
from emulator.guests.inventory.slurm_release import slurm_of_release
from emulator.guests.inventory.user_limits import job_processes, user_quota
from emulator.kubernetes.config.addons import optional_addons, wanted_addons
from emulator.kubernetes.config.addresses import pod_subnets
from emulator.kubernetes.config.resources import MigStrategy, node_resources
from emulator.kubernetes.config.users import (
    USERS_NAMESPACE,
    Workers,
    student_limits,
    student_namespace,
    student_quota,
)
from emulator.labfile.model import ADMIN, ClusterKind, ClusterSpec, NodeSpec, Role
from emulator.labfile.networks import NetworkSpec

CLOUD = ClusterKind.CLOUD

GROUP_OF_ROLE: Mapping[Role, str] = {
    Role.HPC_CONTROLLER: "hpc_controller",
    Role.HPC_COMPUTE: "hpc_compute",
    Role.HPC_LOGIN: "hpc_login",
    Role.CLOUD_CONTROL_PLANE: "cloud_control_plane",
    Role.CLOUD_CPU_WORKER: "cloud_workers",
    Role.CLOUD_GPU_WORKER: "cloud_workers",
}

LAB_USERS: Mapping[str, int] = {"student": 2000}
"""Ordinary accounts on every node, with the uid that they have everywhere: Slurm runs a job as its submitter's uid."""

QOS_OF_ROLE: Mapping[AccessRole, str] = {AccessRole.ADMIN: "normal", AccessRole.STUDENT: "student"}
"""Slurm's quality of service for the jobs of each role; the verification's own account has no limits."""

STAND_IN = "/dev/lab-gpu"
"""Path, without its number, of the device node that stands for one simulated GPU in a guest."""


def build_inventory(
    spec: ClusterSpec,
    connection: ConnectionFacts,
    gpus: Mapping[str, tuple[NodeGpu, ...]] | None = None,
    trust: SshTrust | None = None,
    slurm: frozenset[SlurmFeature] | None = None,
) -> AnsibleInventory:
    """The inventory of a lab.

    Args:
        spec: the lab.
        connection: how its guests are reached.
        gpus: node name -> its GPUs by the allocation; other nodes have none.
        trust: the lab's ssh authority and its users.
        slurm: what is done with the Slurm that the nodes have; by default that of the images that the file names.
    """
    granted = gpus or {}
    trust = trust or SshTrust()
    pods = pod_subnets(spec)
    hosts = tuple(
        InventoryHost(
            node.name,
            {
                **_host_vars(node, granted.get(node.name, ())),
                **_ipv6_vars(spec.networks[node.role.cluster], node),
                "node_gateway": str(spec.networks[node.role.cluster].gateway),
                "node_inbound": inbound_from_others(spec, node),
                **_access_vars(node, trust),
                **({"node_pod_subnet": str(pods[node.name])} if node.name in pods else {}),
            },
        )
        for node in spec.nodes
    )
    features = slurm_features(spec.images.of(ClusterKind.HPC)) if slurm is None else slurm
    clusters: Mapping[ClusterKind, Vars] = {
        ClusterKind.HPC: _slurm_vars(spec, features),
        ClusterKind.CLOUD: {**_kubernetes_vars(spec), **_kubernetes_users(spec, trust, granted)},
    }
    groups: list[InventoryGroup] = []
    for kind in ClusterKind:
        names = tuple(dict.fromkeys(group for role, group in GROUP_OF_ROLE.items() if role.cluster is kind))
        groups.append(InventoryGroup(kind.value, children=names, vars=clusters[kind]))
        groups += [
            InventoryGroup(name, hosts=tuple(node.name for node in spec.nodes if GROUP_OF_ROLE[node.role] == name))
            for name in names
        ]
    return AnsibleInventory(hosts, tuple(groups), _lab_vars(spec, connection, trust))


def _access_vars(node: NodeSpec, trust: SshTrust) -> Vars:
    """Who may log in to the node, who may become root, and who is denied: former users, users of other nodes."""
    here = trust.book.on(node.name)
    names = {user.name for user in here}
    return {
        "node_logins": tuple(user.name for user in here),
        "node_admins": tuple(user.name for user in here if user.role is AccessRole.ADMIN),
        "node_denied": tuple(user.name for user in trust.book.users if user.name not in names),
        "host_certificate": trust.host_certificates.get(node.name, ""),
        "node_user_quota": user_quota(node.disk_gib, len(_accounts(trust))),
    }


def _accounts(trust: SshTrust) -> Mapping[str, int]:
    """Names and uids of the ordinary accounts that every node has."""
    return {**LAB_USERS, **{user.name: user.uid for user in trust.book.users if not user.revoked}}


def _lab_vars(spec: ClusterSpec, connection: ConnectionFacts, trust: SshTrust) -> Vars:
    return {
        "lab_name": spec.name,
        "lab_users": tuple({"name": name, "uid": uid} for name, uid in _accounts(trust).items()),
        "slurm_users": (
            *({"name": name, "qos": "normal", "admin": False} for name in LAB_USERS),
            # The lab's owner may run jobs and manage the cluster without becoming root first.
            {"name": ADMIN, "qos": "normal", "admin": True},
            *(
                {"name": user.name, "qos": QOS_OF_ROLE[user.role], "admin": False}
                for user in trust.book.users
                if not user.revoked
            ),
        ),
        "lab_former_users": tuple(user.name for user in trust.book.users if user.revoked),
        "lab_ends": tuple(
            {
                "name": user.name,
                "uid": user.uid,
                "end": 0 if user.revoked else user.expires,
                "namespace": student_namespace(user.name),
            }
            for user in trust.book.users
        ),
        "lab_ssh_authorities": trust.authorities,
        "lab_login_keys": trust.login_keys,
        "lab_revoked_keys": trust.book.revoked_keys,
        "security_unattended_upgrades": spec.security.unattended_upgrades,
        "security_apt_sources": spec.security.apt_sources,
        **connection_vars(connection),
    }


def connection_vars(connection: ConnectionFacts) -> Vars:
    """How Ansible reaches every node."""
    return {
        "ansible_user": connection.user,
        "ansible_become": connection.user != "root",
        "ansible_ssh_private_key_file": str(connection.private_key),
        "ansible_ssh_common_args": connection.ssh_args(),
        # Fixed, because looking for an interpreter costs a round trip per host.
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def _host_vars(node: NodeSpec, gpus: tuple[NodeGpu, ...]) -> Vars:
    return {
        "ansible_host": str(node.ip),
        "node_role": node.role.value,
        "node_ip": str(node.ip),
        "node_cpus": node.cpu_cores,
        "node_memory_mib": node.memory_mib,
        "node_usable_memory_mib": usable_memory_mib(node.memory_mib),
        "node_job_processes": job_processes(node.memory_mib),
        "node_gpus": _gpu_vars(gpus),
    }


def _ipv6_vars(network: NetworkSpec, node: NodeSpec) -> Vars:
    """The node's IPv6 settings; empty if its network has no IPv6."""
    if network.subnet_v6 is None:
        return {}
    return {
        "node_ip_v6": str(network.address_v6(node.ip)),
        "node_prefix_v6": network.subnet_v6.prefixlen,
        "node_gateway_v6": str(network.gateway_v6),
    }


def _gpu_vars(gpus: tuple[NodeGpu, ...]) -> VarValue:
    """GPUs with a device file per unit: Slurm counts a GPU by its device, so a simulated one gets a stand-in."""
    values: list[VarValue] = []
    stand_ins = 0
    for gpu in gpus:
        files = gpu.device_files
        if gpu.simulated:
            files = tuple(f"{STAND_IN}{stand_ins + index}" for index in range(gpu.count))
            stand_ins += gpu.count
        if gpu.count > 0:
            values.append({"type": gpu.type, "count": gpu.count, "simulated": gpu.simulated, "device_files": files})
    return tuple(values)


def usable_memory_mib(memory_mib: int) -> int:
    """The memory of a guest that a scheduler may use, in MiB.

    A Linux guest sees less than the virtual machine has: page descriptors (1.6 %), the kernel's text and data and
    the firmware's reservations. Slurm drains a node that reports less than its configuration says, so
    the figure stays below the guest's own.
    """
    return max(memory_mib * 95 // 100 - 48, 1)


def slurm_time(seconds: int | None) -> str:
    """Seconds as Slurm's `days-hours:minutes:seconds`; None is `UNLIMITED`."""
    if seconds is None:
        return "UNLIMITED"
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02d}:{minute:02d}:{second:02d}"


def _slurm_vars(spec: ClusterSpec, features: frozenset[SlurmFeature]) -> Vars:
    if spec.slurm is None or not spec.nodes_of(ClusterKind.HPC):
        return {}
    slurm = slurm_of_release(spec.slurm, features)
    computes = [node for node in spec.nodes if node.role is Role.HPC_COMPUTE]
    compute = tuple(node.name for node in computes)
    head = next(node for node in spec.nodes if node.role is Role.HPC_CONTROLLER)
    return {
        "slurm_cluster_name": spec.name,
        "slurm_controller": head.name,
        "slurm_max_time": slurm_time(slurm.max_job_seconds),
        "slurm_mpi": slurm.mpi,
        "slurm_rest_api": slurm.rest_api,
        "slurm_scrontab": slurm.scrontab,
        "slurm_fairshare": slurm.priority == "fairshare",
        "slurm_pmix": SlurmFeature.MPI in features,
        "slurm_configless": SlurmFeature.CONFIGLESS in features,
        "slurm_controller_address": f"{head.ip}:6817",
        "slurm_student_tres": student_tres([(node.cpu_cores, usable_memory_mib(node.memory_mib)) for node in computes]),
        "slurm_partitions": tuple(
            {
                "name": partition.name,
                "nodes": partition.nodes or compute,
                "default": partition.name == slurm.default_partition,
                **({"max_time": slurm_time(partition.max_job_seconds)} if partition.max_job_seconds else {}),
            }
            for partition in slurm.partitions
        ),
    }


def _kubernetes_vars(spec: ClusterSpec) -> Vars:
    if spec.kubernetes is None or not spec.nodes_of(ClusterKind.CLOUD):
        return {}
    kubernetes = spec.kubernetes
    head = next(node for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE)
    return {
        "kubernetes_cluster_name": spec.name,
        "kubernetes_control_plane": head.name,
        "kubernetes_cni": kubernetes.cni,
        "kubernetes_addons": wanted_addons(kubernetes),
        "kubernetes_optional_addons": optional_addons(kubernetes),
        "kubernetes_network_policy": kubernetes.network_policy,
        "kubernetes_version": kubernetes.version,
        "kubernetes_pod_subnet": str(kubernetes.pod_subnet),
        "kubernetes_service_subnet": str(kubernetes.service_subnet),
        "kubernetes_mig_strategy": kubernetes.mig_strategy,
        "kubernetes_taint_gpu_workers": kubernetes.taint_gpu_workers,
    }


def _kubernetes_users(spec: ClusterSpec, trust: SshTrust, gpus: Mapping[str, tuple[NodeGpu, ...]]) -> Vars:
    """The users in Kubernetes, and a student's quota there."""
    nodes = spec.nodes_of(CLOUD)
    if spec.kubernetes is None or not nodes:
        return {}
    head = next(node.name for node in nodes if node.role is Role.CLOUD_CONTROL_PLANE)
    workers = [node for node in nodes if node.role is not Role.CLOUD_CONTROL_PLANE] or nodes
    strategy = MigStrategy(spec.kubernetes.mig_strategy)
    types = [(gpu.type, gpu.count) for node in nodes for gpu in gpus.get(node.name, ()) if gpu.count > 0]
    have = Workers(
        cpus=[node.cpu_cores for node in workers],
        memory=[node.memory_mib for node in workers],
        disk=[node.disk_gib for node in workers],
    )
    return {
        "kubernetes_users": tuple(
            {"name": user.name, "role": user.role_at(head).value, "namespace": student_namespace(user.name)}
            for user in trust.book.users
            if not user.revoked
        ),
        "kubernetes_former_users": tuple(
            {"name": user.name, "namespace": student_namespace(user.name)} for user in trust.book.users if user.revoked
        ),
        "kubernetes_users_namespace": USERS_NAMESPACE,
        "kubernetes_student_quota": student_quota(
            have,
            node_resources(types, strategy),
            pods=spec.kubernetes.student_pods,
            node_ports=spec.kubernetes.student_node_ports,
        ),
        "kubernetes_student_limits": tuple(student_limits(have)),
    }
