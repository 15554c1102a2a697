"""The GPU that the firmware's console is on, found in the kernel's map of memory. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Names under which the kernel reserves the memory of such consoles: sysfb, and its fbdev and DRM drivers.
_NAMES = frozenset({"bootfb", "efifb", "vesafb", "simplefb", "simple-framebuffer", "simpledrm", "efidrm", "vesadrm"})
# Their names in /proc/fb.
_FB_NAMES = frozenset({"efi vga", "vesa vga", "simple", "simpledrmdrmfb", "simpledrmfb", "efidrmdrmfb", "vesadrmdrmfb"})
_LINE = re.compile(r"( *)[0-9a-fA-F]{1,16}-[0-9a-fA-F]{1,16} : (.+)")
_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_BUS = re.compile(r"PCI Bus ([0-9a-f]{4,8}:[0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Framebuffer:
    """A framebuffer and its place, as far as it is known.

    Attributes:
        name: the kernel's name for it.
        function: PCI address of the function in whose memory it lies; empty if unknown.
        bus: the innermost bus that it lies behind, such as `0000:01`; empty if unknown.
    """

    name: str
    function: str = ""
    bus: str = ""


def parse_framebuffers(iomem: str, fb: str) -> tuple[Framebuffer, ...]:
    """From the texts of `/proc/iomem` and, where that has none, `/proc/fb`."""
    return tuple(_in_memory(iomem)) or tuple(
        Framebuffer(name) for line in fb.splitlines() if (name := line.partition(" ")[2].strip()).lower() in _FB_NAMES
    )


def _in_memory(iomem: str) -> Iterator[Framebuffer]:
    """Lines are nested by indentation. Ordinary users see the names, but zeros for addresses."""
    around: list[tuple[int, str]] = []
    for line in iomem.splitlines():
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            continue
        depth, name = len(match[1]), match[2].strip()
        around = [item for item in around if item[0] < depth]
        if name.partition(".")[0].lower() in _NAMES:
            yield _placed(name, [outer for _, outer in around])
        around.append((depth, name))


def _placed(name: str, around: Sequence[str]) -> Framebuffer:
    functions = [outer for outer in around if _FUNCTION.fullmatch(outer)]
    buses = [match[1] for outer in around if (match := _BUS.fullmatch(outer))]
    return Framebuffer(name, functions[-1] if functions else "", buses[-1] if buses else "")


def framebuffer_on(address: str, boot_vga: bool | None, found: Sequence[Framebuffer]) -> str:
    """The name of the framebuffer that lies on a GPU; empty when there is none.

    Args:
        address: the GPU's PCI address.
        boot_vga: whether the firmware says that its console is there; None where it does not say.
    """
    return next((item.name for item in found if _lies_on(address, boot_vga, item)), "")


def _lies_on(address: str, boot_vga: bool | None, item: Framebuffer) -> bool:
    if item.function:
        return item.function.rpartition(".")[0] == address.rpartition(".")[0]
    if item.bus and address.startswith(f"{item.bus}:"):
        return boot_vga is not False
    return boot_vga is True
