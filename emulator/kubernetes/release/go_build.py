"""Compiles Kubernetes from Debian's source tree, and the small programs of ours that stand in for missing images."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError
from emulator.core.ports import ProcessRunner

GO = "usr/lib/go-1.19"
TOOLCHAIN_PACKAGES = (
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-json-iterator-go-dev",
    "golang-github-modern-go-reflect2-dev",
)
# The vendored copies panic when they are compiled with Go 1.18 or later; Debian's packages are of a later release.
_REPLACED = ("modern-go/reflect2", "json-iterator/go")

PROGRAMS = (
    "kubeadm",
    "kubelet",
    "kubectl",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
)
OUR_PROGRAMS = ("cluster-dns", "pause")

_IMPORT_PATH = "k8s.io/kubernetes"
_MARKER = "+k8s:openapi-gen=true"
_BUILD_TIMEOUT = 7200.0
_GENERATE_TIMEOUT = 900.0

# Step and line of output; a step begins with an empty line.
Progress = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class GoTree:
    """A source tree to compile.

    `toolchain` is where Debian's Go packages were unpacked; `cache` is Go's own build cache, which lets a build
    that was interrupted go on where it stopped.
    """

    source: Path
    toolchain: Path
    gopath: Path
    cache: Path
    programs: Path
    runner: ProcessRunner
    progress: Progress

    def compile(self, version: str, out: Path) -> None:
        """Compile all programs into `out`, static and stripped. `version` is stamped into them, as in 1.20.2.

        Raises:
            CommandError: the compiler refused something; its last lines are quoted.
        """
        out.mkdir(parents=True, exist_ok=True)
        self._prepare()
        self._generate_openapi(out.parent)
        flags = f"-s -w {version_flags(version)}"
        self.progress("compile", "")
        # One command for all: they share most packages, and the compiler keeps every core busy.
        targets = [f"./cmd/{name}" for name in PROGRAMS] + [f"./cmd/hyperscaler/{name}" for name in OUR_PROGRAMS]
        self._go(["build", "-v", "-ldflags", flags, "-o", f"{out}/", *targets], timeout=_BUILD_TIMEOUT)

    def _prepare(self) -> None:
        """Lay the tree into a GOPATH, with newer copies of two libraries and our programs next to Kubernetes' own."""
        self.progress("prepare source", "")
        place = self.gopath / "src" / _IMPORT_PATH
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(self.source)
        for name in _REPLACED:
            vendored = self.source / "vendor/github.com" / name
            shutil.rmtree(vendored, ignore_errors=True)
            shutil.copytree(self.toolchain / "usr/share/gocode/src/github.com" / name, vendored)
        ours = self.source / "cmd/hyperscaler"
        shutil.rmtree(ours, ignore_errors=True)
        shutil.copytree(self.programs, ours)

    def _generate_openapi(self, work: Path) -> None:
        """Write `pkg/generated/openapi`, which is in no source package: without it the API server does not compile."""
        self.progress("generate OpenAPI definitions", "")
        generator = work / "openapi-gen"
        self._go(
            ["build", "-o", str(generator), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"], timeout=_BUILD_TIMEOUT
        )
        header = work / "header.txt"
        header.write_text("", encoding="utf-8")
        argv: list[str | Path] = [
            generator,
            *("-O", "zz_generated.openapi", "-p", f"{_IMPORT_PATH}/pkg/generated/openapi"),
            *("-i", ",".join(openapi_packages(self.source)), "-h", header),
            *("-r", work / "violations", "-o", self.gopath / "src", "--logtostderr"),
        ]
        self.runner.run(
            argv, timeout=_GENERATE_TIMEOUT, env=self._environment(), cwd=self.gopath / "src" / _IMPORT_PATH
        )

    def _go(self, words: Sequence[str], *, timeout: float) -> None:
        self.runner.run(
            [str(self.toolchain / GO / "bin/go"), *words],
            timeout=timeout,
            env=self._environment(),
            cwd=self.gopath / "src" / _IMPORT_PATH,
            on_line=lambda line: self.progress("compile", line.removeprefix(f"{_IMPORT_PATH}/")),
        )

    def _environment(self) -> Mapping[str, str]:
        root = self.toolchain / GO
        return {
            # Go believes this rather than the kernel, and so sees the tree at its place below GOPATH.
            "PWD": str(self.gopath / "src" / _IMPORT_PATH),
            "GOROOT": str(root),
            "GOPATH": str(self.gopath),
            "GOCACHE": str(self.cache),
            "GO111MODULE": "off",
            "GOFLAGS": "-trimpath",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            "HOME": str(self.gopath),
            "PATH": f"{root}/bin:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        }


def version_flags(version: str) -> str:
    """Linker flags that stamp the version. Both spellings of the package's path hold a copy of the variables."""
    major, minor, _ = version.split(".")
    values = {
        "gitVersion": f"v{version}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "archive",
        "gitCommit": "debian",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    package = "k8s.io/component-base/version"
    places = (package, f"{_IMPORT_PATH}/vendor/{package}")
    return " ".join(f"-X {place}.{name}={value}" for place in places for name, value in values.items())


def openapi_packages(source: Path) -> list[str]:
    """Import paths of the packages whose types the API server describes."""
    found = set()
    for top in ("staging/src/k8s.io", "pkg", "cmd"):
        for path in (source / top).rglob("*.go"):
            if path.name.endswith("_test.go") or not path.is_file():
                continue
            if _MARKER in path.read_text(encoding="utf-8", errors="replace"):
                found.add(str(path.parent.relative_to(source)))
    if not found:
        raise HyperscalerError("no package of the source tree is marked for OpenAPI", where=str(source))
    return sorted(f"{_IMPORT_PATH}/" + re.sub(r"^staging/src/", "vendor/", package) for package in found)
