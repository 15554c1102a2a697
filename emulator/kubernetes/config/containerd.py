"""containerd's configuration on a Kubernetes node. Pure."""

from __future__ import annotations

CNI_PROGRAMS = "/usr/lib/cni"
CNI_CONFIGURATION = "/etc/cni/net.d"

_TEMPLATE = """\
# containerd of a Kubernetes node: systemd owns the cgroups, and the pause image is the one that lies here.
version = 2
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{programs}"
  conf_dir = "{configuration}"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = true
"""


def containerd_config(pause_image: str) -> str:
    """`/etc/containerd/config.toml` (version 2, containerd 1.6).

    `pause_image` must be the reference that kubeadm uses, or kubelet's image collector may remove the one in use.
    """
    return _TEMPLATE.format(pause=pause_image, programs=CNI_PROGRAMS, configuration=CNI_CONFIGURATION)
