"""Devices that share an IOMMU group with a GPU, and whether they keep the GPU from guests. Pure.

The IOMMU isolates a group as a whole: the kernel gives one of its endpoints to a guest only while no driver of the host
has another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from emulator.gpu.ports import PciDevice

# A driver that leaves a device to guests; the others are those of vfio (vfio-pci, mlx5_vfio_pci ...).
_PCI_STUB = "pci-stub"
_HOST_BRIDGE = "0600"


def foreign_members(
    gpu: PciDevice, group: Iterable[PciDevice], *, taken: Collection[str] = ()
) -> tuple[PciDevice, ...]:
    """Endpoints of the GPU's group that do not go to the guest with it.

    Args:
        group: all members of its group.
        taken: PCI addresses of GPUs that go to the same guest, with the other functions of their slots.
    """
    slots = {gpu.slot, *(address.rpartition(".")[0] for address in taken)}
    return tuple(item for item in group if not item.is_bridge and item.slot not in slots and item.physfn != gpu.address)


def group_mates(groups: Mapping[str, int | None], nodes: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """By PCI address the other GPUs of its IOMMU group that go to the same node.

    Args:
        groups: IOMMU group by PCI address.
        nodes: addresses of the whole GPUs that each node gets.
    """
    return {
        address: tuple(sorted(other for other in together if other != address and groups.get(other) == number))
        for together in nodes.values()
        for address in together
        if (number := groups.get(address)) is not None
    }


def is_held(member: PciDevice) -> bool:
    """Whether a driver of the host has the member, so that the kernel gives no other member of its group to a guest."""
    driver = member.driver
    return driver is not None and driver != _PCI_STUB and not driver.replace("_", "-").endswith("vfio-pci")


def is_idle_host_bridge(member: PciDevice) -> bool:
    """Whether it is a host bridge without a driver, like the dummies in many groups on AMD hosts, which do no harm."""
    return member.driver is None and member.class_code.startswith(_HOST_BRIDGE)


def described(member: PciDevice) -> str:
    """`0000:05:00.0 (NVSwitch, driver nvidia-nvswitch)`."""
    kind = _kind(member)
    driver = f"driver {member.driver}" if member.driver else "no driver"
    return f"{member.address} ({kind}, {driver})"


_KINDS = {
    "01": "disk controller",
    "02": "network interface",
    "03": "display controller",
    "04": "audio device",
    "0600": "host bridge",
    "0601": "ISA bridge",
    "0680": "bridge",
    "0c03": "USB controller",
    "12": "accelerator",
}


def _kind(member: PciDevice) -> str:
    if member.class_code.startswith("0680") and member.vendor == "10de":
        return "NVSwitch"
    code = member.class_code
    return _KINDS.get(code[:4]) or _KINDS.get(code[:2]) or f"class {code[:4]}"
