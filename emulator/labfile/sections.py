"""From the checked tree to a `Draft`: one function for each section of the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_interface

from emulator.core.units import gib_to_mib
from emulator.labfile.addresses import AddressRange, parse_range
from emulator.labfile.draft import (
    AllowDraft,
    DeviceDraft,
    Draft,
    GpuDraft,
    GroupDraft,
    KubernetesDraft,
    NetworkDraft,
    PartitionDraft,
    SliceDraft,
    SlurmDraft,
)
from emulator.labfile.model import (
    Acceleration,
    ClusterKind,
    GpuBackend,
    GpuRequest,
    GpuStrategy,
    HypervisorSpec,
    ImageSpec,
    Protocol,
    Role,
    SecuritySpec,
    SshSpec,
    TimeoutSpec,
)
from emulator.labfile.read.typed_view import View


def read_draft(root: View) -> Draft:
    """Read every section. Values that cannot be used have been reported and are None in the draft."""
    metadata, shared, clusters = root.child("metadata"), root.child("global"), root.child("clusters")
    root.child("version")  # its only value is checked by the schema
    hpc, cloud = clusters.child("hpc"), clusters.child("cloud")
    groups = (_hpc_groups(hpc) if hpc.present else ()) + (_cloud_groups(cloud) if cloud.present else ())
    networks = shared.child("networks")
    kinds = {group.role.cluster for group in groups}
    return Draft(
        root=root,
        name=metadata.child("name").text(),
        description=metadata.child("description").text(),
        networks={
            kind: _network(networks.child(f"{kind.value}_network"), kind) for kind in ClusterKind if kind in kinds
        },
        groups=groups,
        slurm=_slurm(hpc.child("slurm_config")) if hpc.present else None,
        kubernetes=_kubernetes(cloud.child("kubernetes_config")) if cloud.present else None,
        gpu=_gpu(shared.child("gpu_allocation")),
        hypervisor=_hypervisor(root.child("hypervisor")),
        images=_images(root.child("images")),
        ssh=SshSpec(user=root.child("ssh").child("user").text() or ""),
        timeouts=_timeouts(root.child("timeouts")),
        security=_security(root.child("security")),
    )


def _network(view: View, kind: ClusterKind) -> NetworkDraft:
    return NetworkDraft(
        view=view,
        kind=kind,
        subnet=_subnet(view.child("subnet")),
        subnet_v6=_subnet_v6(view.child("subnet_v6")),
        bridge=view.child("bridge").text(),
        nat=view.child("nat").boolean(),
        allow=tuple(_allow(item) for item in view.child("allow").items()),
    )


def _allow(view: View) -> AllowDraft:
    protocol, ports = view.child("protocol").text(), view.child("ports")
    return AllowDraft(
        view=view,
        sources=tuple((item, item.text()) for item in view.child("from").items()),
        targets=tuple((item, item.text()) for item in view.child("to").items()),
        protocol=Protocol(protocol) if protocol else None,
        ports_view=ports,
        ports=tuple((item, _port(item)) for item in ports.items()),
    )


def _port(view: View) -> str | None:
    number = view.integer()
    return view.text() if number is None else str(number)


def _subnet(view: View) -> IPv4Network | None:
    text = view.text()
    if text is None:
        return None
    network = IPv4Network(text, strict=False)
    _check_host_bits(view, text, network)
    return network


def _subnet_v6(view: View) -> IPv6Network | None:
    text = view.text()
    if text is None:
        return None
    try:
        network = IPv6Network(text, strict=False)
    except ValueError:  # the schema does not count groups of digits
        view.error("network.subnet-v6", f"{text} is no IPv6 network", "for example fd12:3456:789a:100::/64")
        return None
    _check_host_bits(view, text, network)
    return network


def _check_host_bits(view: View, text: str, network: IPv4Network | IPv6Network) -> None:
    if ip_interface(text).ip != network.network_address:
        view.error("network.host-bits", f"{text} is an address in a network, not a network", f"write {network}")


def _hpc_groups(view: View) -> tuple[GroupDraft, ...]:
    compute = view.child("compute_nodes")
    return (_group(view.child("controller"), Role.HPC_CONTROLLER), _group(compute, Role.HPC_COMPUTE))


def _cloud_groups(view: View) -> tuple[GroupDraft, ...]:
    workers = view.child("worker_nodes")
    cpu, gpu = workers.child("cpu_workers"), workers.child("gpu_workers")
    found = [_group(view.child("control_plane"), Role.CLOUD_CONTROL_PLANE)]
    if cpu.present or not gpu.present:
        found.append(_group(cpu, Role.CLOUD_CPU_WORKER))
    if gpu.present:
        found.append(_group(gpu, Role.CLOUD_GPU_WORKER))
    return tuple(found)


def _group(view: View, role: Role) -> GroupDraft:
    memory = view.child("memory_gb").number()
    address_view = view.child("ip_address" if role.is_head else "ip_range")
    gpu_view = view.child("gpu") if "gpu" in _properties(view) else view
    return GroupDraft(
        view=view,
        role=role,
        count=1 if role.is_head else view.child("count").integer(),
        cpu_cores=view.child("cpu_cores").integer(),
        memory_mib=None if memory is None else gib_to_mib(memory),
        disk_gib=view.child("disk_gb").integer(),
        address_view=address_view,
        addresses=_range(address_view),
        gpu=_gpu_request(view, gpu_view) if gpu_view is not view else None,
        gpu_view=gpu_view if gpu_view.present else (view.child("gpu_enabled") if gpu_view is not view else view),
    )


def _properties(view: View) -> tuple[str, ...]:
    known = view.schema.get("properties")
    return tuple(known) if isinstance(known, Mapping) else ()


def _range(view: View) -> AddressRange | None:
    text = view.text()
    if text is None:
        return None
    try:
        return parse_range(text)
    except ValueError as error:
        view.error("address.range", str(error), "write the lower address first, each number at most 255")
        return None


def _gpu_request(group: View, view: View) -> GpuRequest | None:
    """The request of each node of a group; None when its nodes have no GPU (or what they ask was refused)."""
    enabled = group.child("gpu_enabled")
    profile, count, whole = view.child("profile"), view.child("count"), view.child("whole")
    if not view.present:
        return GpuRequest() if enabled.boolean() else None
    if enabled.present and enabled.boolean() is False:
        enabled.error("gpu.disabled", "false, but `gpu` below asks for a GPU", "remove one of the two")
    if whole.boolean() and profile.present:
        profile.error("gpu.request", "a whole GPU has no profile", "keep either `whole: true` or the profile")
        return None
    if view.broken or profile.broken or count.broken or whole.broken:
        return None
    return GpuRequest(count=count.integer() or 1, profile=profile.text(), whole=bool(whole.boolean()))


def _slurm(view: View) -> SlurmDraft:
    listed = view.child("partitions")
    partitions = tuple(_partition(item) for item in listed.items())
    if not listed.present:
        partitions = (PartitionDraft(listed, "main", ()),)
    default = view.child("default_partition")
    named = default.text()
    if not default.present and partitions:
        named = partitions[0].name
    return SlurmDraft(view, partitions, named, view.child("max_job_time").text())


def _partition(item: View) -> PartitionDraft:
    if not item.is_map():
        return PartitionDraft(item, item.text(), ())
    nodes = tuple((node, node.text()) for node in item.child("nodes").items())
    return PartitionDraft(item.child("name"), item.child("name").text(), nodes)


def _kubernetes(view: View) -> KubernetesDraft:
    return KubernetesDraft(
        view=view,
        cni=view.child("cni").text(),
        ingress=view.child("ingress").text(),
        storage_class=view.child("storage_class").text(),
        network_policy=view.child("network_policy").text(),
        source=view.child("source").text(),
        version=view.child("version").text(),
        pod_subnet=_subnet(view.child("pod_subnet")),
        service_subnet=_subnet(view.child("service_subnet")),
        mig_strategy=view.child("mig_strategy").text(),
        taint_gpu_workers=view.child("taint_gpu_workers").boolean(),
    )


def _gpu(view: View) -> GpuDraft:
    backend, strategy = view.child("backend").text(), view.child("strategy").text()
    slices, whole, devices = view.child("mig_slices"), view.child("whole_gpus"), view.child("devices")
    return GpuDraft(
        view=view,
        backend=GpuBackend(backend) if backend else None,
        strategy=GpuStrategy(strategy) if strategy else None,
        devices_view=devices,
        devices=tuple(
            _device(item, index, simulated=backend == "simulated") for index, item in enumerate(devices.items())
        ),
        mig_slices={kind: _slices(slices.child(kind.value)) for kind in ClusterKind},
        whole_gpus={kind: _gpus(whole.child(kind.value)) for kind in ClusterKind},
    )


def _gpus(view: View) -> tuple[View, int | None]:
    return view, view.integer() if view.present else None


def _slices(view: View) -> SliceDraft:
    if view.is_map():
        counts = {key: view.child(key).integer() for key in view.names()}
        known = {key: count for key, count in counts.items() if count is not None}
        return SliceDraft(view, None if len(known) < len(counts) else sum(known.values()), known)
    return SliceDraft(view, view.integer() if view.present else None, {})


def _device(view: View, index: int, *, simulated: bool) -> DeviceDraft:
    identity, address = view.child("id"), view.child("pci_address")
    text = address.text()
    if not address.present and not view.broken:
        if simulated:
            # Any address will do for a GPU that is not there; these look like a server's.
            text = f"0000:{0x41 + index:02x}:00.0"
        else:
            address.error(
                "gpu.address", "this key is missing", "`lspci -D | grep -i nvidia` shows the address of each GPU"
            )
    return DeviceDraft(
        view=view,
        id=identity.text() or (None if identity.broken else f"GPU-{index}"),
        pci_address=normal_pci_address(text) if text else None,
        model=view.child("model").text(),
        mig_capable=view.child("mig_capable").boolean(),
        allowed=tuple((item, item.text()) for item in view.child("allowed_mig_profiles").items()),
    )


def normal_pci_address(text: str) -> str:
    """`65:00.0` and NVML's `00000000:65:00.0` as the kernel writes it: `0000:65:00.0`."""
    domain, _, rest = text.lower().rpartition(":")[0].rpartition(":")
    device = text.lower().rpartition(":")[2]
    return f"{int(domain or '0', 16):04x}:{rest}:{device}"


def _hypervisor(view: View) -> HypervisorSpec:
    acceleration = view.child("acceleration").text()
    return HypervisorSpec(
        uri=view.child("uri").text() or "",
        acceleration=Acceleration(acceleration) if acceleration else Acceleration.AUTO,
        cpu_overcommit=view.child("cpu_overcommit").number() or 1.0,
    )


def _images(view: View) -> ImageSpec:
    return ImageSpec(hpc=view.child("hpc").text() or "", cloud=view.child("cloud").text() or "")


def _timeouts(view: View) -> TimeoutSpec:
    keys = [field.name for field in dataclasses.fields(TimeoutSpec)]
    return TimeoutSpec(**{key: view.child(key).integer() or 1 for key in keys})


def _security(view: View) -> SecuritySpec:
    sources = view.child("apt_sources")
    upgrades = view.child("unattended_upgrades").boolean() or False
    if upgrades and not sources.broken and not sources.items():
        view.child("unattended_upgrades").error(
            "security.apt-sources",
            "upgrades need a package source, and the images name none",
            "add security.apt_sources with lines as in apt's sources.list",
        )
    return SecuritySpec(upgrades, tuple(item.text() or "" for item in sources.items()))
