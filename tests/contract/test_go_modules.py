"""The go command does what the product relies on: go.sum decides what is built, and what was built is not built again.

With whatever Go the host has, and a module proxy in a directory. A host without Go has none of these tests; that the
toolchain which the product fetches does the same is seen by the labs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.kubernetes.release.modules.go_build import GoBuild
from emulator.kubernetes.release.modules.module_set import linked_modules
from tests.support.go_modules import LIBRARY, SOURCE, VERSION, Proxy, program, proxy

GO = shutil.which("go")


def goroot() -> Path:
    """Of the host's Go, if it is new enough."""
    if GO is None:
        pytest.skip("this host has no Go")
    done = subprocess.run([GO, "env", "GOVERSION", "GOROOT"], capture_output=True, text=True, check=True, timeout=60)
    version, root = done.stdout.split()
    match = re.match(r"go1\.(\d+)", version)
    if match is None or int(match[1]) < 21:
        pytest.skip(f"this host's Go is {version}")
    return Path(root)


class Site:
    """A host with a module proxy, on which the program is built. `compiled` is where Go keeps its own library."""

    def __init__(self, directory: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.proxy: Proxy = proxy(directory / "proxy")
        self.said: list[tuple[str, str]] = []
        self.out = directory / "out"
        self._monkeypatch = monkeypatch
        (directory / "work").mkdir()
        (directory / "work/compiled").symlink_to(compiled)
        self.uses(self.proxy.url)

    def uses(self, url: str) -> None:
        self._monkeypatch.setenv("GOPROXY", url)

    def build(self, go_sum: str | None = None) -> None:
        modules = program(self.directory / "source", self.proxy.go_sum if go_sum is None else go_sum)
        work = self.directory / "work"
        GoBuild(goroot(), work, HostProcess(), lambda *words: self.said.append(words)).compile(modules, self.out)

    def run(self) -> str:
        done = subprocess.run([self.out / "greet"], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    def compiled(self) -> list[str]:
        """Packages that the compiler had to work on."""
        return [line for step, line in self.said if step == "compile greet" and "/" in line and " " not in line]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: the library of Go takes most of the time."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def site(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, compiled, monkeypatch)


def test_a_program_is_built_with_its_version_and_says_what_is_in_it(site: Site) -> None:
    site.build()
    assert site.run() == "hello from the library v1.2.3"
    listing = subprocess.run(
        [goroot() / "bin/go", "version", "-m", site.out / "greet"], capture_output=True, text=True, check=True
    )
    digest = site.proxy.go_sum.split()[2]
    assert linked_modules(listing.stdout) == {f"pkg:golang/{LIBRARY}@{VERSION}": digest}


def test_a_library_that_is_not_the_pinned_one_is_refused(site: Site) -> None:
    pinned = site.proxy.go_sum
    proxy(site.directory / "proxy", SOURCE.replace("hello", "evil"))
    with pytest.raises(HyperscalerError, match="not the one that was pinned") as caught:
        site.build(pinned)
    assert "checksum mismatch" in caught.value.what
    assert list(site.out.iterdir()) == []
    assert not list((site.directory / "work/modules" / LIBRARY).parent.glob("greeting@*"))


def test_what_go_sum_lacks_is_not_looked_up_elsewhere(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Settings of the user's that would let it through.
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("GONOSUMDB", "*")
    with pytest.raises(HyperscalerError, match="do not pin all that the programs need"):
        site.build("")
    assert (site.directory / "source/go.sum").read_text() == ""
    assert list(site.out.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///absent", "http://127.0.0.1:1", "off"])
def test_without_a_proxy_the_bundle_is_named(site: Site, url: str) -> None:
    site.uses(url)
    with pytest.raises(HostNotFitError, match="proxy cannot be reached") as caught:
        site.build()
    assert "GOPROXY" in caught.value.fix
    assert "source: bundle:PATH" in caught.value.fix


def test_a_build_goes_on_with_what_it_has_when_the_proxy_is_gone(site: Site) -> None:
    site.proxy = proxy(site.directory / "proxy", SOURCE.replace("hello", "greetings"))
    site.build()
    assert LIBRARY in site.compiled()
    shutil.rmtree(site.out)  # the last step is what a stop has cost
    site.said.clear()
    site.uses("off")
    site.build()
    assert site.run() == "greetings from the library v1.2.3"
    assert LIBRARY not in site.compiled()


def test_a_fault_of_the_source_is_the_compilers_own_word(site: Site) -> None:
    site.proxy = proxy(site.directory / "proxy", SOURCE.replace("string", "int"))
    with pytest.raises(HyperscalerError, match="cannot use"):
        site.build()
    assert not (site.out / "greet").exists()
