"""Checks of the Kubernetes settings and of the sizes of Kubernetes nodes."""

from __future__ import annotations

import math
from ipaddress import IPv4Network

from emulator.labfile.checks.examples import (
    POD_PREFIX_PER_NODE,
    SERVICE_PREFIXES,
    Addresses,
    for_example,
    free_pod_network,
    free_service_network,
    has_host_bits,
    last_number,
    pod_prefix,
    reserved,
)
from emulator.labfile.checks.network import report_host_bits
from emulator.labfile.draft import Draft, GroupDraft, KubernetesDraft
from emulator.labfile.findings import counted, quoted
from emulator.labfile.kubernetes_versions import (
    MODULE_ADDONS,
    MODULE_EXTRA_ADDONS,
    MODULE_MINORS,
    minor_of,
    version_fault,
)
from emulator.labfile.model import FOOTPRINT_GIB, ClusterKind, GpuBackend, KubernetesSpec, Role

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
# The built-in choice for each kind of add-on; any other value is an add-on with manifest and images from upstream.
_BUILT_IN = {"cni": "bridge", "ingress": "none", "storage_class": "none"}


def check_kubernetes(draft: Draft, addresses: Addresses, *, recorded: bool = False) -> None:
    """Check the Kubernetes cluster; `addresses` holds the nodes' addresses, as far as they can be known.

    recorded: a lab stands with this file, see `emulator.labfile.load.load_spec`.
    """
    kubernetes = draft.kubernetes
    if kubernetes is None:
        return
    if _check_version(kubernetes, recorded=recorded):
        _check_addons(draft, kubernetes)
        _check_extras(kubernetes)
    _check_ingress(kubernetes, recorded=recorded)
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
    if kubernetes.spec.network_policy == "default-deny" and cni not in (*_enforcing(kubernetes.spec), None):
        other = "".join(f"cni: {name}, or " for name in _enforcing(kubernetes.spec)[:1])
        kubernetes.view.child("network_policy").error(
            "kubernetes.network-policy",
            f"cni: {cni} stores network policies and enforces none of them"
            + (", with Kubernetes of upstream's" if cni == "bridge" else ""),
            f"write {other}network_policy: none",
        )


def _enforcing(spec: KubernetesSpec) -> tuple[str, ...]:
    """Pod networks with which network policies are held, of those that a source of the file can have."""
    other = spec.version and minor_of(spec.version) not in MODULE_MINORS
    bridge = () if spec.source == "upstream" or (other and not spec.source.startswith("bundle:")) else ("bridge",)
    calico = () if _no_upstream(spec) else ("calico",)
    return (*bridge, *calico)


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


def _check_version(kubernetes: KubernetesDraft, *, recorded: bool) -> bool:
    """Whether there is a source with that version."""
    if kubernetes.spec.source == "debian-source":
        source = kubernetes.view.child("source")
        (source.warning if recorded else source.error)(
            "kubernetes.source",
            "debian-source is no source any more: Debian 12 has Kubernetes 1.20, which has known holes and gets no"
            " updates",
            "write `source: modules`",
        )
        return False
    fault = version_fault(kubernetes.spec.version, kubernetes.spec.source)
    if fault is not None:
        version = kubernetes.view.child("version")
        (version.warning if recorded else version.error)("kubernetes.version", *fault)
    return fault is None


def _check_ingress(kubernetes: KubernetesDraft, *, recorded: bool) -> None:
    """An ingress controller that labs of earlier versions have."""
    if kubernetes.spec.ingress != "nginx":
        return
    ingress = kubernetes.view.child("ingress")
    none = _no_upstream(kubernetes.spec)
    (ingress.warning if recorded else ingress.error)(
        "kubernetes.ingress",
        "nginx is no ingress controller any more: its project ended in March 2026, and it gets no updates",
        f"write `ingress: none`, or `ingress: traefik` and {none[1]}" if none else "write `ingress: traefik`",
    )


def _check_addons(draft: Draft, kubernetes: KubernetesDraft) -> None:
    """Add-ons that no source of the file's can have."""
    reason = _no_upstream(kubernetes.spec)
    if reason is None:
        return
    why, instead = reason
    for key, value in (
        ("cni", kubernetes.spec.cni),
        ("ingress", kubernetes.spec.ingress),
        ("storage_class", kubernetes.spec.storage_class),
    ):
        if value not in (_BUILT_IN[key], "auto", "nginx", *MODULE_ADDONS, *MODULE_EXTRA_ADDONS):
            kubernetes.view.child(key).error(
                "kubernetes.addon",
                f"{quoted(value)} needs a manifest and images from upstream: {why}",
                f"write {_BUILT_IN[key]}, or take {instead}",
            )
    real = draft.gpu.backend not in (None, GpuBackend.SIMULATED)
    if real and any(group.gpu is not None and group.names for group in draft.groups_of(ClusterKind.CLOUD)):
        kubernetes.view.child("source").error(
            "kubernetes.addon",
            f"real GPUs of Kubernetes nodes need NVIDIA's device plugin from upstream: {why}",
            f"take {instead}, or backend: simulated",
        )


def _check_extras(kubernetes: KubernetesDraft) -> None:
    """What only modules have."""
    if kubernetes.spec.source != "upstream":
        return
    fix = "source: modules, or a bundle made with it"
    if kubernetes.spec.ingress in MODULE_EXTRA_ADDONS:
        value = kubernetes.spec.ingress
        kubernetes.view.child("ingress").error(
            "kubernetes.addon", f"upstream does not have {quoted(value)}", f"write traefik, or take {fix}"
        )
    if kubernetes.spec.helm:
        kubernetes.view.child("helm").error("kubernetes.addon", "upstream does not have Helm", f"take {fix}")


def _no_upstream(spec: KubernetesSpec) -> tuple[str, str] | None:
    """Why the source of the file can have no add-ons of upstream's, and which one could; None when it can."""
    if spec.source == "modules":
        return "modules does not have it", "source: upstream, or a bundle made there"
    return None


def _check_pod_networks(draft: Draft, kubernetes: KubernetesDraft, addresses: Addresses) -> None:
    pods, services = kubernetes.pod_subnet, kubernetes.service_subnet
    pod_view, service_view = kubernetes.view.child("pod_subnet"), kubernetes.view.child("service_subnet")
    pod_example = for_example(free_pod_network(draft, addresses))
    service_example = for_example(free_service_network(draft))
    if pods and services and pods.overlaps(services):
        blamed, other, fix = (
            (service_view, pods, service_example) if service_view.present else (pod_view, services, pod_example)
        )
        blamed.error("kubernetes.subnet", f"the networks of pods and services overlap ({other})", fix)
    for view, subnet, what, fix in (
        (pod_view, pods, "pods", pod_example),
        (service_view, services, "services", service_example),
    ):
        if subnet and (why := reserved(subnet)):
            view.error("kubernetes.subnet", f"{subnet} cannot be used for {what}: {why}", fix)
        for network in draft.networks.values():
            if subnet and network.subnet and subnet.overlaps(network.subnet):
                place = view if view.present else network.view.child("subnet")
                place.error(
                    "kubernetes.subnet",
                    f"the network of the {what} ({subnet}) overlaps {network.subnet} of {network.key}",
                    "move one of them: no address may be both a node's and a pod's or a service's",
                )
    if services and not SERVICE_PREFIXES[0] <= services.prefixlen <= SERVICE_PREFIXES[1]:
        service_view.error(
            "kubernetes.subnet",
            f"the network of the services is between /12 and /24, not /{services.prefixlen}",
            service_example,
        )
    if services and has_host_bits(service_view, services):
        report_host_bits(service_view, free_service_network(draft, services))
    if pods:
        _check_room(draft, kubernetes, pods, addresses)
    if pods and has_host_bits(pod_view, pods):
        report_host_bits(pod_view, free_pod_network(draft, addresses, pods))


def _check_room(draft: Draft, kubernetes: KubernetesDraft, pods: IPv4Network, addresses: Addresses) -> None:
    """Whether each node gets its own network of pods; without room for a node's number it would get one that another
    node takes later."""
    nodes = sum(group.count or 0 for group in draft.groups_of(ClusterKind.CLOUD))
    room = 2 ** (POD_PREFIX_PER_NODE - pods.prefixlen) if pods.prefixlen <= POD_PREFIX_PER_NODE else 0
    number, subnet = last_number(draft, addresses), draft.networks[ClusterKind.CLOUD].subnet
    free = free_pod_network(draft, addresses)
    example = f", for example {free}" if free else ""
    view = kubernetes.view.child("pod_subnet")
    if room < nodes:
        what = f"{pods} has a /{POD_PREFIX_PER_NODE} for {counted(room, 'node')}, and the cluster has {nodes}"
        view.error("kubernetes.subnet", what, f"choose a larger network{example}")
    elif number >= room and subnet:
        larger = f"choose a /{pod_prefix(draft, addresses)} or larger{example}, or " if free else ""
        view.error(
            "kubernetes.subnet",
            f"{pods} has {counted(room, 'network')} of pods, numbered from 0, and the node"
            f" {subnet.network_address + number} has number {number}: it follows from its address, so that it stays"
            " while other nodes come and go",
            f"{larger}give the nodes addresses up to {subnet.network_address + room - 1}",
        )
