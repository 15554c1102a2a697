"""Checks of what is Slurm's or Kubernetes' own."""

from __future__ import annotations

from emulator.spec.draft import Draft, KubernetesDraft, SlurmDraft
from emulator.spec.findings import MAX_FINDINGS, counted, quoted
from emulator.spec.kubernetes_versions import DEBIAN_SOURCE_VERSION, minor_of, supported_minors
from emulator.spec.model import ClusterKind, Role
from emulator.spec.structure import nearest
from emulator.spec.times import FORMS, parse_slurm_time

# kubeadm's preflight asks a control plane for 2 CPUs and 1700 MB.
KUBEADM_MIN_CORES = 2
KUBEADM_MIN_MEMORY_MIB = 1792
# The kubelet of every node takes a /24 of the pod network.
POD_PREFIX_PER_NODE = 24


def check_slurm(draft: Draft) -> None:
    slurm = draft.slurm
    if slurm is None:
        return
    names = _check_partitions(draft, slurm)
    default = slurm.view.child("default_partition")
    complete = all(each.name is not None for each in slurm.partitions)
    if default.present and slurm.default_partition and names and complete and slurm.default_partition not in names:
        near = nearest(slurm.default_partition, names)
        default.error(
            "slurm.default-partition",
            f"{quoted(slurm.default_partition)} is not one of the partitions ({_listed(names)})",
            f"did you mean {quoted(near)}?" if near else "name one of them, or add it to `partitions`",
        )
    limit = slurm.view.child("max_job_time")
    if slurm.max_job_time is not None:
        try:
            parse_slurm_time(slurm.max_job_time)
        except ValueError as error:
            limit.error(
                "slurm.time",
                f"{quoted(slurm.max_job_time)} is not a time limit: {error}",
                f"write {FORMS}, for example 24:00:00",
            )


def _check_partitions(draft: Draft, slurm: SlurmDraft) -> list[str]:
    seen: dict[str, str] = {}
    compute = next((group for group in draft.groups if group.role is Role.HPC_COMPUTE), None)
    nodes = compute.names if compute and compute.count is not None else None
    known = frozenset(nodes or ())
    for partition in slurm.partitions:
        name = partition.name
        if name is not None:
            if name.upper() == "DEFAULT":
                partition.view.error(
                    "slurm.partition", f"{quoted(name)} is a reserved word in slurm.conf", "choose another name"
                )
            elif name in seen:
                partition.view.error(
                    "slurm.partition", f"the partition {quoted(name)} is already given by {seen[name]}", "keep one"
                )
            seen.setdefault(name, partition.view.name)
        listed: set[str] = set()
        for view, node in partition.nodes:
            if node in listed:
                view.error("slurm.node", f"the node {quoted(node or '')} is listed twice", "keep one")
            elif node is not None and nodes is not None and node not in known:
                near = nearest(node, nodes) if len(view.context.findings) < MAX_FINDINGS else None
                view.error(
                    "slurm.node",
                    f"{quoted(node)} is not a compute node ({_span(nodes)})",
                    f"did you mean {quoted(near)}?" if near else "name compute nodes only, or raise their count",
                )
            listed.add(node or "")
    return list(seen)


def _span(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else "there are none"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown


def check_kubernetes(draft: Draft) -> None:
    kubernetes = draft.kubernetes
    if kubernetes is None:
        return
    _check_version(kubernetes)
    _check_pod_networks(draft, kubernetes)
    for group in draft.groups:
        if group.role is not Role.CLOUD_CONTROL_PLANE:
            continue
        if group.cpu_cores is not None and group.cpu_cores < KUBEADM_MIN_CORES:
            group.view.child("cpu_cores").error(
                "kubernetes.minimum",
                f"kubeadm refuses a control plane with {group.cpu_cores} core",
                f"give it {KUBEADM_MIN_CORES} or more",
            )
        if group.memory_mib is not None and group.memory_mib < KUBEADM_MIN_MEMORY_MIB:
            group.view.child("memory_gb").error(
                "kubernetes.minimum",
                f"kubeadm refuses a control plane with {group.memory_mib} MiB of memory",
                f"give it {KUBEADM_MIN_MEMORY_MIB / 1024:g} GB or more",
            )
    workers = [g for g in draft.groups if g.role in (Role.CLOUD_CPU_WORKER, Role.CLOUD_GPU_WORKER)]
    if all(group.count == 0 for group in workers):
        workers[0].view.warning(
            "kubernetes.no-workers", "there is no worker, so that pods have nowhere to run", "set `count: 1`"
        )

    cpu_workers = sum(group.count or 0 for group in workers if group.role is Role.CLOUD_CPU_WORKER)
    if kubernetes.taint_gpu_workers and cpu_workers == 0 and any(group.count for group in workers):
        kubernetes.view.child("taint_gpu_workers").warning(
            "kubernetes.taint",
            "all workers are GPU workers, so that pods without a GPU have nowhere to run, those of add-ons included",
            "add a worker under `cpu_workers`, or remove the taint",
        )
    _check_mig_strategy(draft, kubernetes)
    if kubernetes.network_policy == "default-deny" and kubernetes.cni != "calico":
        kubernetes.view.child("network_policy").error(
            "kubernetes.network-policy",
            f"cni: {kubernetes.cni} stores network policies and enforces none of them",
            "write cni: calico, or network_policy: none",
        )


def _check_mig_strategy(draft: Draft, kubernetes: KubernetesDraft) -> None:
    """How the device plugin names slices, against the slices that its nodes ask for."""
    profiles = {group.gpu.profile for group in draft.groups_of(ClusterKind.CLOUD) if group.gpu and group.gpu.profile}
    view = kubernetes.view.child("mig_strategy")
    if kubernetes.mig_strategy == "single" and len(profiles) > 1:
        view.error(
            "kubernetes.mig-strategy",
            f"`single` needs slices all alike, and the workers ask for {', '.join(sorted(profiles))}",
            "write `mig_strategy: mixed`",
        )
    if kubernetes.mig_strategy == "none" and profiles:
        view.error(
            "kubernetes.mig-strategy",
            f"`none` offers no slices to pods, and the workers ask for {', '.join(sorted(profiles))}",
            "write `mig_strategy: mixed`",
        )


def _check_version(kubernetes: KubernetesDraft) -> None:
    version, source = kubernetes.version, kubernetes.source or "auto"
    view = kubernetes.view.child("version")
    if not version:
        return
    minor = minor_of(version)
    if minor is None:
        view.error("kubernetes.version", f"{quoted(version)} is not a version", "write for example 1.31 or 1.31.4")
        return
    minors = supported_minors(source)
    origin = "any source" if source == "auto" else quoted(source)
    if minor not in minors:
        view.error(
            "kubernetes.version",
            f"Kubernetes {version} is not supported from {origin}",
            f"supported: {', '.join(minors)}",
        )
    elif source == "debian-source" and version.removeprefix("v") not in ("1.20", DEBIAN_SOURCE_VERSION):
        view.error(
            "kubernetes.version",
            f"Debian's source package is Kubernetes {DEBIAN_SOURCE_VERSION}, not {version}",
            f"write {DEBIAN_SOURCE_VERSION}, or remove the key",
        )


def _check_pod_networks(draft: Draft, kubernetes: KubernetesDraft) -> None:
    pods, services = kubernetes.pod_subnet, kubernetes.service_subnet
    pod_view, service_view = kubernetes.view.child("pod_subnet"), kubernetes.view.child("service_subnet")
    if pods and services and pods.overlaps(services):
        blamed, other = (service_view, pods) if service_view.present else (pod_view, services)
        blamed.error(
            "kubernetes.subnet",
            f"the networks of pods and services overlap ({other})",
            "for example 10.244.0.0/16 for pods and 10.96.0.0/12 for services",
        )
    for view, subnet, what in ((pod_view, pods, "pods"), (service_view, services, "services")):
        for network in draft.networks.values():
            if subnet and network.subnet and subnet.overlaps(network.subnet):
                place = view if view.present else network.view.child("subnet")
                place.error(
                    "kubernetes.subnet",
                    f"the network of the {what} ({subnet}) overlaps {network.subnet} of {network.key}",
                    "move one of them: no address may be both a node's and a pod's or a service's",
                )
    if services and not 12 <= services.prefixlen <= 24:
        service_view.error(
            "kubernetes.subnet", f"the network of the services is between /12 and /24, not /{services.prefixlen}"
        )
    nodes = sum(group.count or 0 for group in draft.groups if group.role.cluster.value == "cloud")
    if pods and (pods.prefixlen > POD_PREFIX_PER_NODE or 2 ** (POD_PREFIX_PER_NODE - pods.prefixlen) < nodes):
        room = 2 ** (POD_PREFIX_PER_NODE - pods.prefixlen) if pods.prefixlen <= POD_PREFIX_PER_NODE else 0
        pod_view.error(
            "kubernetes.subnet",
            f"{pods} has a /{POD_PREFIX_PER_NODE} for {counted(room, 'node')}, and the cluster has {nodes}",
            "choose a larger network, for example 10.244.0.0/16",
        )
