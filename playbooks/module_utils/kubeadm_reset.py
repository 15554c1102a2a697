"""Removing a node's membership of a Kubernetes cluster. Standard library only, because it runs in the guests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence

from ansible.module_utils.pace import seconds

RECORD = "/var/lib/hyperscaler/kubeadm.json"
MOUNTS = "/proc/self/mounts"
# What kubeadm and kubelet leave behind. The device plugins' directory goes too: kubelet makes it again.
REMAINS = (
    "/etc/kubernetes",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/cni/networks",
    "/var/lib/cni/cache",
    RECORD,
)
# What calico and flannel lay on a node themselves; the bridge's configuration is the playbook's, and stays.
NETWORK_REMAINS = (
    "/etc/cni/net.d/10-calico.conflist",
    "/etc/cni/net.d/calico-kubeconfig",
    "/etc/cni/net.d/10-flannel.conflist",
    "/run/flannel",
    "/var/lib/calico",
)
NETWORK_LINKS = ("cni0", "flannel.1", "vxlan.calico")
KEPT = "/etc/kubernetes/manifests"


class NodeError(Exception):
    """kubeadm or the node said no; the text is for the operator."""


def run(
    argv: Sequence[str], timeout: float, *, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds(timeout), check=False, input=stdin)
    if check and done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise NodeError(f"{' '.join(argv[:3])} ended with status {done.returncode}: {said}")
    return done


def has_remains() -> bool:
    """Whether an earlier run left anything of a cluster; an empty manifests directory is kubelet's own."""
    if os.path.exists(RECORD):
        return True
    for path in (
        "/etc/kubernetes/kubelet.conf",
        "/etc/kubernetes/bootstrap-kubelet.conf",
        "/etc/kubernetes/pki",
        "/var/lib/etcd/member",
        "/var/lib/kubelet/config.yaml",
    ):
        if os.path.exists(path):
            return True
    return False


def reset() -> None:
    """Remove every trace of a cluster: kubelet stopped, all of kubelet's containers ended, files, mounts, rules."""
    run(["systemctl", "disable", "--now", "kubelet"], 180, check=False)
    remove_containers()
    release_mounts("/var/lib/kubelet")
    for path in REMAINS + NETWORK_REMAINS:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            os.unlink(path)
    for link in network_links():
        run(["ip", "link", "delete", link], 60, check=False)
    # kube-proxy's chains of the old cluster would answer for addresses that the new one hands out otherwise.
    for table in ("nat", "filter", "mangle"):
        saved = run(["iptables-save", "-t", table], 60, check=False).stdout
        if "KUBE-" in saved:
            kept = "\n".join(line for line in saved.splitlines() if "KUBE-" not in line) + "\n"
            run(["iptables-restore", "--table", table], 60, check=False, stdin=kept)
    os.makedirs(KEPT, mode=0o700, exist_ok=True)


def ctr(*words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return run(["ctr", "--namespace", "k8s.io", *words], 120, check=check)


def remove_containers() -> None:
    """End and delete every container of kubelet's. Without the real crictl, `kubeadm reset` ends none of them, and an
    old API server with an old CA would go on answering."""
    names = ctr("containers", "ls", "--quiet").stdout.split()
    if not names:
        return
    for name in ctr("tasks", "ls", "--quiet").stdout.split():
        ctr("tasks", "kill", "--signal", "KILL", name)
    for name in names:
        for _ in range(20):
            ctr("tasks", "delete", "--force", name)
            if (
                ctr("containers", "delete", name).returncode == 0
                or name not in ctr("containers", "ls", "--quiet").stdout.split()
            ):
                break
            time.sleep(0.3)
    # containerd's CRI service keeps its own list of pods, read at its start.
    run(["systemctl", "restart", "containerd"], 180)


def mounts_below(top: str) -> list[str]:
    """Mount points below `top`, innermost first. The kernel writes blanks and backslashes in them as octal numbers."""
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
        paths = [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[1]) for line in stream]
    return sorted((path for path in paths if path.startswith(top + "/")), reverse=True)


def release_mounts(top: str) -> None:
    """Unmount all below `top`. What follows deletes it, and must never reach into a volume that is still mounted."""
    for path in mounts_below(top):
        if run(["umount", path], 60, check=False).returncode:
            run(["umount", "--lazy", path], 60, check=False)
    left = mounts_below(top)
    if left:
        raise NodeError(f"still mounted, so that nothing was removed: {', '.join(left)}; unmount them and run again")


def network_links() -> list[str]:
    """Links that a CNI made: the bridge, tunnels, and the ends of pods' cables in the node."""
    names = sorted(os.listdir("/sys/class/net"))
    return [name for name in names if name in NETWORK_LINKS or name.startswith("cali")]
