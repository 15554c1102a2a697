"""kubeadm's configuration for every version of its API that the product installs. Pure; standard library only,
because it runs in the guests.

A configuration is a list of documents; JSON is YAML, so nothing of it needs a template.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict

CRI_SOCKET = "unix:///run/containerd/containerd.sock"
API_PORT = 6443
# The oldest minor version whose namespaces are held to a pod security standard by a label alone (KEP-2579), and which
# has all that the roles and playbooks ask for.
OLDEST_MINOR = 28
DOMAIN = "cluster.local"


class Release(TypedDict):
    """Kubernetes on a node's disk: its version and where its images come from."""

    version: str
    repository: str
    cluster_dns: str


class Cluster(TypedDict, total=False):
    name: Required[str]
    control_plane_ip: Required[str]
    pod_subnet: Required[str]
    service_subnet: Required[str]
    cni: Required[str]
    version: str | None
    running: str | None


class Taint(TypedDict):
    key: str
    value: str
    effect: str


class Node(TypedDict, total=False):
    name: Required[str]
    ip: Required[str]
    taints: list[Taint] | None


# A document of kubeadm's: any JSON.
Document = dict[str, Any]


class UnsupportedVersionError(ValueError):
    """No configuration is known for this Kubernetes version; the text is for the operator."""


def api_version(version: str) -> str:
    """The version of kubeadm's configuration API that `version` (1.31.4) reads: the newest that it prefers itself.

    v1beta3 came with kubeadm 1.22, v1beta4 with 1.31 (kubernetes.io, kubeadm configuration API).
    """
    major, minor = (int(part) for part in version.lstrip("v").split(".")[:2])
    if major != 1 or minor < OLDEST_MINOR:
        raise UnsupportedVersionError(
            f"Kubernetes {version} is older than any whose kubeadm configuration is known here"
        )
    return "kubeadm.k8s.io/v1beta3" if minor < 31 else "kubeadm.k8s.io/v1beta4"


def _minor(version: str) -> int:
    return int(version.lstrip("v").split(".")[1])


_API_SERVER = {
    "profiling": "false",
    # NodeRestriction is kubeadm's own wish, which a list of ours takes the place of. A service that claims addresses of
    # others gets what pods send there (CVE-2020-8554).
    "enable-admission-plugins": "NodeRestriction,DenyServiceExternalIPs",
    # etcd keeps every version of an object until then: at the default of five minutes, one user who writes large
    # objects again and again makes five times as much of it.
    "etcd-compaction-interval": "1m0s",
    # Requests at a time, divided among flows by priority. The defaults, 400 and 200, are for machines of many cores:
    # students' small part of them would be enough to keep two cores busy.
    "max-requests-inflight": "100",
    "max-mutating-requests-inflight": "50",
}
# One member: no one competes for leadership, so that its heartbeats only wake the CPU. Milliseconds, as etcd's
# documentation has them; an election must take at least five heartbeats.
# Of bytes, etcd's default is 2 GiB; beyond it the cluster refuses to write anything more, until an admin compacts it.
_ETCD = {
    "heartbeat-interval": "1000",
    "election-timeout": "5000",
    "quota-backend-bytes": str(4 * 1024**3),
}
# What one request of kubeadm's may take in all. On an emulated CPU that others compete for, the first answers of an API
# server take minutes, and kubeadm's own three end before its roles exist.
_API_CALL = "15m0s"


def dns_address(service_subnet: str) -> str:
    """Address of the cluster's DNS service: the tenth of the service network, as kubeadm has it."""
    return str(ipaddress.ip_network(service_subnet)[10])


# Where kubeadm looks for changes to the static pods that it writes.
PATCHES = "/etc/kubernetes/patches"
_STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


# Which of them kubeadm has asked for readiness, too, since the version below; before it only the API server is sure to
# have the check, and CoreDNS to be as kubeadm writes it.
_READINESS = ("etcd", "kube-apiserver", "kube-scheduler")
_READINESS_MINOR = 36


def patches(version: str) -> dict[str, str]:
    """Changes to kubeadm's static pods, by file name: health checks with patience.

    An API server that shares an emulated CPU misses a few checks now and then. Killing it for that makes the CPU
    busier still, so that it would never come up again; a dead one is noticed all the same.
    """
    files = {}
    for name in _STATIC_PODS:
        probe = {"failureThreshold": 40, "periodSeconds": 15, "timeoutSeconds": 15}
        container = {"name": name, "livenessProbe": probe, "startupProbe": {**probe, "failureThreshold": 120}}
        if name == "kube-apiserver" or (name in _READINESS and _minor(version) >= _READINESS_MINOR):
            # kubeadm asks each second, which wakes an idle node; nothing routes by the answer.
            container["readinessProbe"] = {**probe, "periodSeconds": 30}
        files[f"{name}+strategic.json"] = _patch({"containers": [container]})
    if _minor(version) >= _READINESS_MINOR:
        probe = {"periodSeconds": 30, "timeoutSeconds": 15}
        container = {"name": "coredns", "livenessProbe": {**probe, "failureThreshold": 10}, "readinessProbe": probe}
        # One is enough for a lab, and the second would start on the control plane's CPU while that comes up.
        spec = {"replicas": 1, "template": {"spec": {"containers": [container]}}}
        files["corednsdeployment+strategic.json"] = _patch(spec)
    return files


def _patch(spec: Document) -> str:
    return json.dumps({"spec": spec}, indent=2) + "\n"


def _is_beta4(api: str) -> bool:
    return api.endswith("/v1beta4")


def _arguments(api: str, values: Mapping[str, str]) -> list[dict[str, str]] | dict[str, str]:
    """Extra arguments: a mapping until v1beta3, a list of name and value from v1beta4 on."""
    if _is_beta4(api):
        return [{"name": name, "value": value} for name, value in sorted(values.items())]
    return dict(sorted(values.items()))


def _registration(api: str, name: str, ip: str, *, taints: Sequence[Taint] | None = None) -> Document:
    node: Document = {
        "name": name,
        "criSocket": CRI_SOCKET,
        "kubeletExtraArgs": _arguments(api, {"node-ip": ip}),
    }
    if taints is not None:
        node["taints"] = taints
    return node


def init_documents(release: Release, cluster: Cluster, node: Node, timeout: int) -> list[Document]:
    """What `kubeadm init` reads.

    release: `version` and `repository` of the images.
    cluster: `name`, `control_plane_ip`, `pod_subnet`, `service_subnet` and `cni`.
    node: `name` and `ip` of the control plane.
    timeout: seconds that the control plane may take to answer; minutes on an emulated CPU.
    """
    api = api_version(release["version"])
    init: Document = {
        "apiVersion": api,
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": node["ip"], "bindPort": API_PORT},
        "nodeRegistration": _registration(api, node["name"], node["ip"]),
    }
    init["patches"] = {"directory": PATCHES}
    # One control plane: no one competes for leadership, and a slow disk must not cost it.
    alone = {"leader-elect": "false"}
    controllers = {**alone, "node-monitor-grace-period": "90s"}
    if cluster["cni"] == "bridge":
        # The lab gives each node its pods' network, so that it is known before the node has joined.
        controllers["allocate-node-cidrs"] = "false"
    configuration: Document = {
        "apiVersion": api,
        "kind": "ClusterConfiguration",
        "clusterName": cluster["name"],
        "kubernetesVersion": f"v{release['version']}",
        "imageRepository": release["repository"],
        "controlPlaneEndpoint": f"{cluster['control_plane_ip']}:{API_PORT}",
        "networking": {
            "dnsDomain": DOMAIN,
            "podSubnet": cluster["pod_subnet"],
            "serviceSubnet": cluster["service_subnet"],
        },
        "apiServer": {"extraArgs": _arguments(api, _API_SERVER)},
        "etcd": {"local": {"extraArgs": _arguments(api, _ETCD)}},
        "controllerManager": {"extraArgs": _arguments(api, {**controllers, "profiling": "false"})},
        "scheduler": {"extraArgs": _arguments(api, {**alone, "profiling": "false"})},
    }
    if _is_beta4(api):
        # A key of two thousand bits costs an emulated CPU seconds where this one costs milliseconds, and so does each
        # handshake with it.
        configuration["encryptionAlgorithm"] = "ECDSA-P256"
        init["timeouts"] = {
            "controlPlaneComponentHealthCheck": f"{timeout}s",
            "kubernetesAPICall": _API_CALL,
            "kubeletHealthCheck": f"{timeout}s",
        }
    else:
        configuration["apiServer"]["timeoutForControlPlane"] = f"{timeout}s"
    return [init, configuration, kubelet_document(cluster), proxy_document(cluster)]


def with_token(documents: Sequence[Document], token: str, ttl: str) -> list[Document]:
    """The documents of `init_documents` with a first bootstrap token, for the workers that join right away."""
    init = {**documents[0], "bootstrapTokens": [{"token": token, "ttl": ttl, "description": "first join"}]}
    return [init, *documents[1:]]


# What pods leave to their node: no pod takes all processes, memory or disk. The figures fit a node of 1 GiB, of which
# kubelet, containerd and the system need less than 250 MiB.
_LIMITS_OF_PODS: Document = {
    "podPidsLimit": 1024,
    "systemReserved": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "512Mi", "pid": "1000"},
    "kubeReserved": {"cpu": "100m", "memory": "128Mi", "pid": "1000"},
    # The cgroup of all pods gets what is left. The node's own services need no limit for that.
    "enforceNodeAllocatable": ["pods"],
    "evictionHard": {
        "memory.available": "50Mi",
        "nodefs.available": "3%",
        "nodefs.inodesFree": "3%",
        "imagefs.available": "1%",
        "pid.available": "5%",
    },
    # Of each container: a log that grows is cut before it fills the node's disk.
    "containerLogMaxSize": "5Mi",
    "containerLogMaxFiles": 3,
    "seccompDefault": True,
}


def kubelet_document(cluster: Cluster) -> Document:
    """kubelet's configuration, the same on every node."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "clusterDNS": [dns_address(cluster["service_subnet"])],
        "clusterDomain": DOMAIN,
        "resolvConf": "/run/systemd/resolve/resolv.conf",
        # Images lie on the node from the start and cannot be fetched again: 100 never collects them.
        "imageGCHighThresholdPercent": 100,
        **_LIMITS_OF_PODS,
        "runtimeRequestTimeout": "10m0s",
        # Each of these wakes a node that has nothing to do; the controller manager waits 90 s for a sign of life.
        "nodeLeaseDurationSeconds": 80,
        "nodeStatusUpdateFrequency": "20s",
        # Limits of disk are held by what was measured last: at ten minutes a volume would fill the node unseen.
        "volumeStatsAggPeriod": "1m0s",
    }


def proxy_document(cluster: Cluster) -> Document:
    """kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": cluster["pod_subnet"],
        # The kernel's own limit is enough for a lab, and kube-proxy may not be able to raise it.
        "conntrack": {"maxPerCore": 0},
    }


def join_documents(
    release: Release, cluster: Cluster, node: Node, token: str, ca_hashes: Sequence[str], timeout: int
) -> list[Document]:
    """What `kubeadm join` reads.

    node: `name` and `ip`, and `taints` (`key`, `value`, `effect`) that it registers with: one that comes later leaves
        time for pods that it is to keep away.
    ca_hashes: pins the cluster's CA: discovery is never without it.
    """
    if not ca_hashes:
        raise ValueError("joining without the hash of the cluster's CA is refused")
    api = api_version(release["version"])
    join: Document = {
        "apiVersion": api,
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "apiServerEndpoint": f"{cluster['control_plane_ip']}:{API_PORT}",
                "token": token,
                "caCertHashes": list(ca_hashes),
            },
        },
        "nodeRegistration": _registration(api, node["name"], node["ip"], taints=node.get("taints") or None),
    }
    if _is_beta4(api):
        join["timeouts"] = {
            "discovery": f"{timeout}s",
            "kubernetesAPICall": _API_CALL,
            "kubeletHealthCheck": f"{timeout}s",
            "tlsBootstrap": f"{timeout}s",
        }
    else:
        join["discovery"]["timeout"] = f"{timeout}s"
    return [join]


def upgrade_document(version: str, timeout: int) -> Document:
    """What `kubeadm upgrade plan`, `apply` and `node` read, on the way to `version` (1.37.2).

    timeout: seconds that each component of the control plane may take to be up in its new version.

    Raises:
        UnsupportedVersionError: kubeadm has no such configuration before v1beta4.
    """
    api = api_version(version)
    if not _is_beta4(api):
        raise UnsupportedVersionError(f"kubeadm {version} takes no configuration for an upgrade; 1.31 is the first")
    # Its check by a Job counts a minute, which an emulated CPU may not keep, and the lab's pause ends at a signal only.
    ignored = ["CreateJob"]
    patched = {"patches": {"directory": PATCHES}}
    return {
        "apiVersion": api,
        "kind": "UpgradeConfiguration",
        "apply": {"kubernetesVersion": f"v{version}", "ignorePreflightErrors": ignored, **patched},
        "plan": {"kubernetesVersion": f"v{version}", "ignorePreflightErrors": ignored},
        "node": patched,
        "timeouts": {
            "controlPlaneComponentHealthCheck": f"{timeout}s",
            "etcdAPICall": f"{timeout}s",
            "kubeletHealthCheck": f"{timeout}s",
            "kubernetesAPICall": _API_CALL,
            "upgradeManifests": f"{timeout}s",
        },
    }


def to_yaml(documents: Sequence[Document]) -> str:
    """The documents as kubeadm reads them."""
    return "---\n".join(json.dumps(document, indent=2, sort_keys=True) + "\n" for document in documents)
