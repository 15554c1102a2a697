"""A whole host whose files say odd things: every check has its say, and preparing it can be planned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from emulator.adapters.system.host_readings import HostReader
from emulator.host.checks import check_host_readings
from emulator.host.checks.result import Level, Wanted
from emulator.host.framebuffers import framebuffer_on, parse_framebuffers
from emulator.host.parsers import parse_dpkg_status
from emulator.host.platform import foreign_architecture, parse_architecture
from emulator.host.prepare.steps import plan_preparation
from emulator.host.readings import DeviceAnswer
from emulator.host.wanted_packages import wanted_packages
from tests.fuzz.test_kernel_files import Tree
from tests.support import host_trees
from tests.support.hostile_text import changed, words
from tests.support.random_examples import examples

WHOLE = Wanted(lab="l", devices=(("GPU-0", "0000:41:00.0"),), whole=True, slices=True)
FILES: Mapping[str, str] = {
    **host_trees.texts("intel"),
    "/proc/iomem": "c0000000-cfffffff : PCI Bus 0000:41\n  c0000000-c0bfffff : BOOTFB\n",
    "/proc/fb": "0 EFI VGA\n",
    "/proc/sys/kernel/arch": "x86_64\n",
    "/proc/net/ipv6_route": f"{'fd00' + '0' * 28} 40 {'0' * 32} 00 {'0' * 32} 100 1 0 1 eth0\n",
    "/run/systemd/container": "lxc\n",
}
# Written in the file that is not there, and in the one that is.
ODD = st.sampled_from(["", "²", "9" * 5000, "-1", "\x00", "a:b:c\n" * 3, "\n\n\n", ":", "Uid:\n", "Uid:\t²\t²\n", "0-"])


class Probe:
    def __init__(self, said: str) -> None:
        self._said = said

    def device(self, path: str) -> DeviceAnswer:
        return DeviceAnswer.USABLE if len(path) % 2 else DeviceAnswer.BROKEN

    def says(self, program: str) -> str | None:
        return None if program == "packer" else self._said

    def disk_free_gib(self, directory: Path) -> float:
        return float(len(str(directory)))

    def clock_synchronised(self) -> bool | None:
        return None


@st.composite
def hosts(draw: st.DrawFn) -> Tree:
    files = dict(FILES)
    for _ in range(draw(st.integers(1, 5))):
        path = draw(st.sampled_from(sorted(FILES)))
        if draw(st.booleans()):
            files[path] = draw(ODD | words | changed([FILES[path]]))
        else:
            files.pop(path, None)
    return Tree(files)


@examples(120)
@given(hosts(), ODD | words)
def test_every_host_is_judged(tree: Tree, said: str) -> None:
    reader = HostReader(tree, Probe(said), home=Path("/home"), wanted_packages=wanted_packages())
    readings = reader.read()
    for wanted in (Wanted(), WHOLE):
        for result in check_host_readings(readings, wanted).results:
            assert result.found and result.why
            assert bool(result.fix) is (result.level is not Level.PASS)
    made = plan_preparation(readings, user="ada", gpus=True)
    assert all("--no-remove" in step.argv for step in made.steps if "install" in step.argv)


@examples(60)
@given(changed([FILES["/proc/iomem"], FILES["/proc/iomem"].replace("PCI Bus 0000:41", "0000:41:00.0")]), words)
def test_framebuffers(iomem: str, fb: str) -> None:
    found = parse_framebuffers(iomem, fb)
    for boot_vga in (True, False, None):
        assert framebuffer_on("0000:41:00.0", boot_vga, found) in ("", *(item.name for item in found))


@examples(60)
@given(ODD | words, changed([FILES["/proc/cpuinfo"]]) | words, words)
def test_architectures(arch: str, cpuinfo: str, release: str) -> None:
    assert isinstance(foreign_architecture(parse_architecture(arch, cpuinfo, release)), str)


@examples(60)
@given(changed(["Package: a\nStatus: install ok installed\nProvides: b (= 1), c:any,\n d\n\nPackage: e\n"]))
def test_installed_packages(status: str) -> None:
    assert all(name and "," not in name for name in parse_dpkg_status(status))


def test_long_fields_of_dpkg_take_no_long_time() -> None:
    for value in ("x, " * 50_000, "\n x" * 50_000, " " * 100_000, "(" * 50_000):
        parse_dpkg_status(f"Package: a\nStatus: install ok installed\nProvides: {value}\n")
