"""The container images of a release that is built here: static programs, and a few of Debian's."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError
from emulator.kubernetes.release.containers.docker_archive import ContainerImage

# A name that no registry can have: what is not on the node already must fail at once instead of being looked for.
REPOSITORY = "hyperscaler.invalid/kubernetes"

TOOLS_IMAGE = f"{REPOSITORY}/tools:1"

# kube-proxy calls iptables and conntrack, which are linked with the C library; busybox makes up the tools image.
IMAGE_PACKAGES = (
    "busybox-static",
    "conntrack",
    "iptables",
    "libc6",
    "libip4tc2",
    "libip6tc2",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "libxtables12",
)

_LIBC = ("lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2")
_IPTABLES = "usr/sbin/xtables-nft-multi"
_IPTABLES_NAMES = tuple(
    f"usr/sbin/{family}{tool}" for family in ("iptables", "ip6tables") for tool in ("", "-save", "-restore")
)
_IPTABLES_LIBRARIES = (
    "libip4tc.so.2",
    "libip6tc.so.2",
    "libm.so.6",
    "libmnl.so.0",
    "libnetfilter_conntrack.so.3",
    "libnfnetlink.so.0",
    "libnftnl.so.11",
    "libxtables.so.12",
)
_APPLETS = ("cat", "cut", "echo", "env", "grep", "hostname", "httpd", "ip", "ls", "nc", "nslookup", "ping", "sh",
            "mkdir", "sleep", "sort", "stat", "tail", "test", "timeout", "true", "wc", "wget")  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImageRoots:
    """Lays out image roots under `work` from compiled `programs` and Debian's unpacked packages in `debian`.

    `names` maps an image's plain name (`etcd`) to the reference that kubeadm asks for.
    """

    work: Path
    programs: Path
    debian: Path
    names: Mapping[str, str]

    def build(self, addons: Sequence[str] = ()) -> tuple[ContainerImage, ...]:
        """Every image of the release; `addons` are programs that are an image each."""
        images = [
            self._static(name, ("usr/local/bin", name))
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
        ]
        return (
            *images,
            self._proxy(),
            self._static("pause", ("", "pause")),
            self._static("coredns", ("", "coredns")),
            self.tools(),
            *self.addons(addons),
        )

    def addons(self, programs: Sequence[str]) -> tuple[ContainerImage, ...]:
        """Images of programs that are an image each."""
        return tuple(self._static(name, ("", name)) for name in programs)

    def _root(self, name: str) -> Path:
        root = self.work / name
        shutil.rmtree(root, ignore_errors=True)
        (root / "etc").mkdir(parents=True)
        (root / "tmp").mkdir()
        # Programs that look themselves up must find an account.
        (root / "etc/passwd").write_text("root:x:0:0:root:/:/sbin/nologin\n", encoding="utf-8")
        (root / "etc/group").write_text("root:x:0:\n", encoding="utf-8")
        (root / "etc/nsswitch.conf").write_text("hosts: files dns\n", encoding="utf-8")
        return root

    def _static(self, name: str, place: tuple[str, str]) -> ContainerImage:
        root = self._root(name)
        target = root.joinpath(*place)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(self.programs / name, target)
        # kubeadm's static pods give the program's bare name as the command, found on PATH.
        return ContainerImage(self.names[name], root, (f"/{target.relative_to(root)}",))

    def _proxy(self) -> ContainerImage:
        root = self._root("kube-proxy")
        _copy(self.programs / "kube-proxy", root / "usr/local/bin/kube-proxy")
        for path in ("usr/sbin/conntrack", _IPTABLES, *_LIBC):
            self._from_debian(root, path)
        for library in _IPTABLES_LIBRARIES:
            self._library(root, library)
        shutil.copytree(self._found("usr/lib/x86_64-linux-gnu/xtables"), root / "usr/lib/x86_64-linux-gnu/xtables")
        # dpkg's alternatives would make these links; the nft variant is the one that Debian's kernel and hosts use.
        for name in _IPTABLES_NAMES:
            (root / name).symlink_to("xtables-nft-multi")
        return ContainerImage(self.names["kube-proxy"], root, ("/usr/local/bin/kube-proxy",))

    def tools(self) -> ContainerImage:
        """Image of the pods that verify starts."""
        root = self._root("tools")
        _copy(self._found("bin/busybox"), root / "bin/busybox")
        for name in _APPLETS:
            (root / "bin" / name).symlink_to("busybox")
        return ContainerImage(self.names["tools"], root, (), ("/bin/sh",))

    def _from_debian(self, root: Path, path: str) -> None:
        _copy(self._found(path), root / path)

    def _library(self, root: Path, name: str) -> None:
        for directory in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"):
            if (self.debian / directory / name).exists():
                self._from_debian(root, f"{directory}/{name}")
                return
        raise HyperscalerError(f"Debian's packages no longer hold {name}", where=str(self.debian))

    def _found(self, path: str) -> Path:
        found = self.debian / path
        if not found.exists():
            raise HyperscalerError(f"Debian's packages no longer hold /{path}", where=str(self.debian))
        return found


def _copy(source: Path, target: Path) -> None:
    """Copy what a link leads to: images need the file under the name that programs ask for."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=True)
    target.chmod(0o755)
