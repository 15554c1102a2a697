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


# The same for containerd 2, which keeps images and containers apart. It would take version 2, too, and translate it at
# each start. What is off looks at nothing that a node has, or wakes it: restarts are kubelet's, and it asks for the
# sizes of images every few minutes only.
_TEMPLATE_3 = """\
# containerd of a Kubernetes node: systemd owns the cgroups, and the pause image is the one that lies here.
version = 3
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.monitor.container.v1.restart", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  stats_collect_period = 60

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{programs}"]
  conf_dir = "{configuration}"

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = true

[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""


def containerd_config(pause_image: str, *, major: int) -> str:
    """`/etc/containerd/config.toml`, of version 2 for containerd 1.6 and of version 3 for containerd 2 (`major`).

    `pause_image` must be the reference that kubeadm uses, or kubelet's image collector may remove the one in use.
    """
    template = _TEMPLATE if major < 2 else _TEMPLATE_3
    return template.format(pause=pause_image, programs=CNI_PROGRAMS, configuration=CNI_CONFIGURATION)
