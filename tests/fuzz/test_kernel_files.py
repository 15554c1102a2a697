"""sysfs and procfs: PCI functions, vGPU types of both frameworks, mounts, routes, memory."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import PurePosixPath
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from emulator.adapters.nvidia.passthrough import VfioPassthrough
from emulator.adapters.nvidia.pci_sysfs import SysfsPci, normal_address
from emulator.adapters.nvidia.sriov import SRIOV_MANAGE, SriovManage
from emulator.adapters.nvidia.vgpu_mdev import MdevHost
from emulator.adapters.nvidia.vgpu_vfio import VendorVfioHost, parse_creatable
from emulator.gpu.ports import VgpuFramework, VgpuRequest
from emulator.host.facts import parse_meminfo
from emulator.host.routes import parse_ipv6_routes, parse_routes
from tests.support.fake_runner import FakeRunner
from tests.support.hostile_text import answered, changed, words
from tests.support.random_examples import examples

PF, VF, AUDIO, NVME = "0000:41:00.0", "0000:41:00.4", "0000:41:00.1", "0000:42:00.0"
PCI = "/sys/bus/pci/devices"
TYPES = f"/sys/class/mdev_bus/{VF}/mdev_supported_types"
MDEV = "6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c11"
# A GPU with a function of each framework, one vGPU, and a disk controller in its group. A value that begins with
# `->` is a link.
FILES: dict[str, str] = {
    **{
        f"{PCI}/{address}/{name}": text
        for address, kind in ((PF, "0x030200"), (VF, "0x030200"), (AUDIO, "0x040300"), (NVME, "0x010802"))
        for name, text in {
            "vendor": "0x10de",
            "device": "0x20b2",
            "class": kind,
            "driver": "->../../../../bus/pci/drivers/nvidia",
            "driver_override": "(null)",
            "iommu_group": "->../../../kernel/iommu_groups/11",
        }.items()
    },
    f"{PCI}/{PF}/sriov_numvfs": "0",
    f"{PCI}/{PF}/sriov_totalvfs": "16",
    f"{PCI}/{PF}/virtfn0": f"->../{VF}",
    f"{PCI}/{VF}/physfn": f"->../{PF}",
    f"{PCI}/{VF}/nvidia/current_vgpu_type": "558",
    f"{PCI}/{VF}/nvidia/creatable_vgpu_types": "ID    : vGPU Name\n558   : NVIDIA A40-1Q\n699 : GRID A100D-1-10C",
    f"{PCI}/{NVME}/nvme/nvme0/nvme0n1/size": "9",
    f"{TYPES}/nvidia-699/name": "GRID A100D-1-10C",
    f"{TYPES}/nvidia-699/available_instances": "1",
    f"{TYPES}/nvidia-699/description": "num_heads=1, frl_config=60, framebuffer=10240M, max_instance=7",
    f"/sys/bus/mdev/devices/{MDEV}": f"->../../../devices/pci0000:40/{VF}/{MDEV}",
    f"/sys/bus/mdev/devices/{MDEV}/mdev_type": f"->../../{VF}/mdev_supported_types/nvidia-699",
    f"/sys/bus/mdev/devices/{MDEV}/mdev_type/name": "GRID A100D-1-10C",
    **{f"/sys/kernel/iommu_groups/11/devices/{address}": "" for address in (PF, AUDIO, NVME)},
    "/sys/bus/pci/drivers/vfio-pci/bind": "",
    "/sys/bus/pci/drivers/nvidia/bind": "",
    "/sys/class/block/nvme0n1": f"->../../devices/pci0000:40/{NVME}/nvme/nvme0/nvme0n1",
    "/proc/mounts": "/dev/nvme0n1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n",
    "/proc/swaps": "Filename Type Size Used Priority\n/dev/nvme0n1 partition 1 0 -2\n",
    f"/proc/driver/nvidia/gpus/{PF}/information": "Model: \t NVIDIA A100\nDevice Minor: \t 0\n",
    "/proc/17/fd/3": "->/dev/nvidia0",
    "/proc/17/comm": "python3\n",
    SRIOV_MANAGE: "",
}


class Tree:
    """`FileAccess` over a mapping. Nothing that is written has an effect."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def _at(self, path: str) -> str:
        text = self._files.get(path)
        if text is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return text

    def read(self, path: str) -> str:
        return self._at(path)

    def write(self, path: str, text: str, *, timeout: float = 10.0) -> None:
        self._at(path)

    def listdir(self, path: str) -> tuple[str, ...]:
        below = {name.removeprefix(f"{path}/").partition("/")[0] for name in self._files if name.startswith(f"{path}/")}
        if not below:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        return tuple(sorted(below))

    def readlink(self, path: str) -> str:
        text = self._at(path)
        if not text.startswith("->"):
            raise OSError(errno.EINVAL, "no link", path)
        return text.removeprefix("->")

    def exists(self, path: str) -> bool:
        return any(name == path or name.startswith(f"{path}/") for name in self._files)

    def probe_open(self, path: str) -> None:
        self._at(path)


# One name of a directory, as a kernel of tomorrow might have it.
names = st.text(max_size=12).map(lambda name: name.replace("/", "") or "x") | st.sampled_from(
    ["²", "nvidia-²", "nvidia-" + "9" * 5000, "0000:41:00.8", "..", "virtfn²", "virtfn" + "1" * 30, "\ud800"]
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    files = dict(FILES)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(sorted(FILES)))
        how = draw(st.sampled_from(["gone", "text", "text", "link", "renamed"]))
        if how == "gone":
            files.pop(path, None)
        elif how == "renamed":
            parts = list(PurePosixPath(path).parts)
            parts[draw(st.integers(2, len(parts) - 1))] = draw(names)
            files["/" + "/".join(parts[1:])] = files.get(path, "")
        else:
            files[path] = ("->" if how == "link" else "") + draw(words | changed([FILES[path]]))
    return Tree(files)


@examples(60)
@given(trees())
def test_pci_functions(tree: Tree) -> None:
    pci = SysfsPci(tree)
    for device in answered(pci.devices) or ():
        assert normal_address(device.address) == device.address
    answered(pci.device, PF)
    answered(pci.iommu_group, 11)
    answered(pci.holders, "/dev/nvidia0")
    assert answered(pci.framework, PF) in (*VgpuFramework, None)


@examples(60)
@given(trees(), words)
def test_vgpus_of_both_frameworks(tree: Tree, kind: str) -> None:
    for host in (MdevHost(tree), VendorVfioHost(tree)):
        for parent in answered(host.parents, PF) or ():
            assert all(isinstance(number, int) for number in parent.creatable.values())
        for device in answered(host.devices) or ():
            answered(host.remove, device)
        for name in ("A100D-1-10C", kind):
            answered(host.create, VgpuRequest(VF, name, UUID(int=1)))


@examples(40)
@given(trees(), words)
def test_whole_gpus_and_virtual_functions(tree: Tree, said: str) -> None:
    answered(VfioPassthrough(tree).endpoints, PF)
    answered(VfioPassthrough(tree).bind, PF)
    answered(VfioPassthrough(tree).release, PF)
    sriov = SriovManage(tree, FakeRunner({"": said}), sleep=lambda _seconds: None)
    answered(sriov.enable, PF)
    answered(sriov.disable, PF)


@examples(50)
@given(words | changed([FILES[f"{PCI}/{VF}/nvidia/creatable_vgpu_types"], "NVIDIA A40-1Q      558\n"]))
def test_creatable_types(text: str) -> None:
    found = answered(parse_creatable, text)
    assert found is not None
    assert all(name and number >= 0 for name, number in found.items())


def test_long_lines_of_creatable_types_take_no_long_time() -> None:
    for line in ("a " * 20_000, "1" * 40_000, "a" + " " * 40_000 + "x", "a:" * 20_000, "9 " * 20_000):
        answered(parse_creatable, line)


@examples(40)
@given(words | st.text(alphabet="0123456789abcdef:. ", max_size=16))
def test_addresses(text: str) -> None:
    answered(normal_address, text)


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


@examples(30)
@given(changed([ROUTES]))
def test_routes(text: str) -> None:
    assert answered(parse_routes, text) is not None


IPV6_ROUTES = f"""{"fd00" + "0" * 28} 40 {"0" * 32} 00 {"0" * 32} 00000100 00000001 00000000 00000001     eth0
{"fe80" + "0" * 28} 40 {"0" * 32} 00 {"0" * 32} 00000100 00000001 00000000 80200001       lo
"""


@examples(30)
@given(changed([IPV6_ROUTES]))
def test_ipv6_routes(text: str) -> None:
    assert answered(parse_ipv6_routes, text) is not None


@examples(30)
@given(changed(["MemTotal:       24641116 kB\nMemAvailable:   21000000 kB\nHugePages_Total:       0\n"]))
def test_meminfo(text: str) -> None:
    assert answered(parse_meminfo, text) is not None
