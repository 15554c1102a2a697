"""Checks of the Kubernetes settings and of the sizes of Kubernetes nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from ipaddress import IPv4Address

from emulator.labfile.checks.network import reserved
from emulator.labfile.draft import Draft, GroupDraft, KubernetesDraft
from emulator.labfile.findings import counted, quoted
from emulator.labfile.kubernetes_versions import UPSTREAM_MINORS, minor_of, version_fault
from emulator.labfile.model import FOOTPRINT_GIB, ClusterKind, GpuBackend, Role

# kubeadm's preflight asks a control plane for 2 CPUs and 1700 MB.
KUBEADM_MIN_CORES = 2
KUBEADM_MIN_MEMORY_MIB = 1792
# Kubernetes' documentation ("Installing kubeadm") asks for 2 GB on every machine, "any less will leave little room for
# your apps". With half of it a worker of a small lab still runs its pods.
WORKER_MIN_MEMORY_MIB = 1024
# Below this nothing is left for a single pod after the system, containerd, kubelet and the 100 MiB that kubelet keeps
# free by evicting pods (Kubernetes' documentation, "Node-pressure Eviction": memory.available<100Mi).
WORKER_LEAST_MEMORY_MIB = 512
# kubelet also evicts pods, and starts no more, when less than 15% of the disk is free (imagefs.available<15%).
NODE_LEAST_DISK_GIB = math.ceil(FOOTPRINT_GIB / 0.85)
# The kubelet of every node takes a /24 of the pod network.
POD_PREFIX_PER_NODE = 24
# The built-in choice for each kind of add-on; any other value is an add-on with manifest and images from upstream.
_BUILT_IN = {"cni": "bridge", "ingress": "none", "storage_class": "none"}


def check_kubernetes(draft: Draft, addresses: Mapping[Role, tuple[IPv4Address, ...]]) -> None:
    """Check the Kubernetes cluster; `addresses` holds the nodes' addresses, as far as they can be known."""
    kubernetes = draft.kubernetes
    if kubernetes is None:
        return
    if _check_version(kubernetes):
        _check_addons(draft, kubernetes)
    _check_pod_networks(draft, kubernetes, addresses)
    workers = [g for g in draft.groups if g.role in (Role.CLOUD_CPU_WORKER, Role.CLOUD_GPU_WORKER)]
    _check_sizes(draft, workers)
    if all(group.count == 0 for group in workers):
        workers[0].view.warning(
            "kubernetes.no-workers", "there is no worker, so that pods have nowhere to run", "set `count: 1`"
        )

    cpu_workers = sum(group.count or 0 for group in workers if group.role is Role.CLOUD_CPU_WORKER)
    if kubernetes.spec.taint_gpu_workers and cpu_workers == 0 and any(group.count for group in workers):
        kubernetes.view.child("taint_gpu_workers").warning(
            "kubernetes.taint",
            "all workers are GPU workers, so that pods without a GPU have nowhere to run, add-ons included",
            "add a worker under `cpu_workers`, or remove the taint",
        )
    _check_mig_strategy(draft, kubernetes)
    cni = kubernetes.view.usable("cni", kubernetes.spec.cni)
    if kubernetes.spec.network_policy == "default-deny" and cni not in ("calico", None):
        kubernetes.view.child("network_policy").error(
            "kubernetes.network-policy",
            f"cni: {cni} stores network policies and enforces none of them",
            "write cni: calico, or network_policy: none",
        )


def _check_sizes(draft: Draft, workers: list[GroupDraft]) -> None:
    for group in draft.groups:
        if group.role is not Role.CLOUD_CONTROL_PLANE:
            continue
        if group.spec.cpu_cores < KUBEADM_MIN_CORES:
            group.view.child("cpu_cores").error(
                "kubernetes.minimum",
                f"kubeadm refuses a control plane with {group.spec.cpu_cores} core",
                f"give it {KUBEADM_MIN_CORES} or more",
            )
        if group.spec.memory_mib < KUBEADM_MIN_MEMORY_MIB:
            group.view.child("memory_gb").error(
                "kubernetes.minimum",
                f"kubeadm refuses a control plane with {group.spec.memory_mib} MiB of memory",
                f"give it {KUBEADM_MIN_MEMORY_MIB / 1024:g} GB or more",
            )
    for group in draft.groups_of(ClusterKind.CLOUD):
        if group.count and group.spec.disk_gib < NODE_LEAST_DISK_GIB:
            group.view.child("disk_gb").error(
                "kubernetes.minimum",
                f"a node takes about {FOOTPRINT_GIB} GiB with its image and all that is set up, which leaves kubelet"
                f" too little of {group.spec.disk_gib} GiB to run pods",
                f"give it {NODE_LEAST_DISK_GIB} GB or more",
            )
    for group in workers:
        if not group.count:
            continue
        if group.spec.memory_mib < WORKER_LEAST_MEMORY_MIB:
            group.view.child("memory_gb").error(
                "kubernetes.minimum",
                f"{group.spec.memory_mib} MiB of memory do not hold the system, containerd and kubelet",
                f"give it {WORKER_LEAST_MEMORY_MIB / 1024:g} GB at least, and {WORKER_MIN_MEMORY_MIB / 1024:g} GB or"
                " more for pods to have room",
            )
        elif group.spec.memory_mib < WORKER_MIN_MEMORY_MIB:
            group.view.child("memory_gb").warning(
                "kubernetes.minimum",
                f"{group.spec.memory_mib} MiB of memory leave almost nothing for pods besides the system and kubelet",
                f"give it {WORKER_MIN_MEMORY_MIB / 1024:g} GB or more",
            )


def _check_mig_strategy(draft: Draft, kubernetes: KubernetesDraft) -> None:
    """How the device plugin names slices, against the slices that its nodes ask for."""
    profiles = {group.gpu.profile for group in draft.groups_of(ClusterKind.CLOUD) if group.gpu and group.gpu.profile}
    view = kubernetes.view.child("mig_strategy")
    if kubernetes.spec.mig_strategy == "single" and len(profiles) > 1:
        view.error(
            "kubernetes.mig-strategy",
            f"`single` needs slices all alike, and the workers ask for {', '.join(sorted(profiles))}",
            "write `mig_strategy: mixed`",
        )
    if kubernetes.spec.mig_strategy == "none" and profiles:
        view.error(
            "kubernetes.mig-strategy",
            f"`none` offers no slices to pods, and the workers ask for {', '.join(sorted(profiles))}",
            "write `mig_strategy: mixed`",
        )


def _check_version(kubernetes: KubernetesDraft) -> bool:
    """Whether there is a source with that version."""
    fault = version_fault(kubernetes.spec.version, kubernetes.spec.source)
    if fault is not None:
        kubernetes.view.child("version").error("kubernetes.version", *fault)
    return fault is None


def _check_addons(draft: Draft, kubernetes: KubernetesDraft) -> None:
    """Add-ons that no source of the file's can have."""
    version, source = kubernetes.spec.version, kubernetes.spec.source
    if source == "debian-source":
        why, instead = "debian-source has no add-ons", "source: upstream, or a bundle made there"
    elif source == "auto" and version and minor_of(version) not in UPSTREAM_MINORS:
        why = f"only debian-source has Kubernetes {version}, and it has no add-ons"
        instead = f"a version of upstream's ({UPSTREAM_MINORS[0]} to {UPSTREAM_MINORS[-1]})"
    else:
        return
    for key, value in (
        ("cni", kubernetes.spec.cni),
        ("ingress", kubernetes.spec.ingress),
        ("storage_class", kubernetes.spec.storage_class),
    ):
        if value != _BUILT_IN[key]:
            kubernetes.view.child(key).error(
                "kubernetes.addon",
                f"{quoted(value)} needs a manifest and images from upstream: {why}",
                f"write {_BUILT_IN[key]}, or take {instead}",
            )
    real = draft.gpu.backend not in (None, GpuBackend.SIMULATED)
    if real and any(group.gpu is not None and group.names for group in draft.groups_of(ClusterKind.CLOUD)):
        kubernetes.view.child("source" if source == "debian-source" else "version").error(
            "kubernetes.addon",
            f"real GPUs of Kubernetes nodes need NVIDIA's device plugin from upstream: {why}",
            f"take {instead}, or backend: simulated",
        )


def _check_pod_networks(
    draft: Draft, kubernetes: KubernetesDraft, addresses: Mapping[Role, tuple[IPv4Address, ...]]
) -> None:
    pods, services = kubernetes.pod_subnet, kubernetes.service_subnet
    pod_view, service_view = kubernetes.view.child("pod_subnet"), kubernetes.view.child("service_subnet")
    if pods and services and pods.overlaps(services):
        blamed, other = (service_view, pods) if service_view.present else (pod_view, services)
        blamed.error(
            "kubernetes.subnet",
            f"the networks of pods and services overlap ({other})",
            "for example 10.244.0.0/16 for pods and 10.96.0.0/12 for services",
        )
    for view, subnet, what, example in (
        (pod_view, pods, "pods", "10.244.0.0/16"),
        (service_view, services, "services", "10.96.0.0/12"),
    ):
        if subnet and (why := reserved(subnet)):
            view.error("kubernetes.subnet", f"{subnet} cannot be used for {what}: {why}", f"for example {example}")
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
    elif pods and kubernetes.view.usable("cni", kubernetes.spec.cni) == "bridge":
        _check_numbers(draft, kubernetes, addresses)


def _check_numbers(
    draft: Draft, kubernetes: KubernetesDraft, addresses: Mapping[Role, tuple[IPv4Address, ...]]
) -> None:
    """With the built-in network a node's network of pods has the number of the node's address, so that it stays while
    others come and go. Without room for that number the node would get one that another takes later."""
    pods, nodes = kubernetes.pod_subnet, draft.networks.get(ClusterKind.CLOUD)
    given = [address for role, each in addresses.items() if role.cluster is ClusterKind.CLOUD for address in each]
    if pods is None or nodes is None or nodes.subnet is None or not given:
        return
    last = max(given)
    number = int(last) - int(nodes.subnet.network_address)
    room = 2 ** (POD_PREFIX_PER_NODE - pods.prefixlen)
    if number < room:
        return
    needed = POD_PREFIX_PER_NODE - number.bit_length()
    example = "10.244.0.0/16" if needed >= 16 else f"10.0.0.0/{needed}"
    kubernetes.view.child("pod_subnet").error(
        "kubernetes.subnet",
        f"{pods} has {counted(room, 'network')} of pods, numbered from 0, and the node {last} has number {number}: it"
        " follows from its address, so that it stays while other nodes come and go",
        f"choose a /{needed} or larger, for example {example}, or give the nodes addresses up to"
        f" {nodes.subnet.network_address + room - 1}",
    )
