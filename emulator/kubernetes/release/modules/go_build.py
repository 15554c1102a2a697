"""Compiles programs from Go modules: what go.sum does not pin is refused, and an interrupted build goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import CommandError
from emulator.core.ports import Completed, ProcessRunner
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.modules.failures import compile_failure, fetch_failure
from emulator.kubernetes.release.modules.module_set import GoModule, ModuleSet, Program

_FETCH_TIMEOUT = 2 * 3600.0
_BUILD_TIMEOUT = 4 * 3600.0
# The rest of the command has a lab to start meanwhile, and its guests may be emulated.
_NICE = ("nice", "-n", "10")
# go's own words when it fetches; everything else that `go build -v` prints is a package.
_FETCHING = "go: downloading "
# What is the same for every build, and decides what comes of it.
SETTINGS: Mapping[str, str] = {
    "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false -modcacherw",
    "GOTOOLCHAIN": "local",
    "GOSUMDB": "off",
    "GOWORK": "off",
    "GO111MODULE": "on",
    "GOEXPERIMENT": "",
    "GOOS": "linux",
    "GOARCH": "amd64",
    "GOAMD64": "v1",
    "CGO_ENABLED": "0",
    "GOTELEMETRY": "off",
}


@dataclass(frozen=True, slots=True)
class GoBuild:
    """`goroot` is the toolchain, `work` holds modules and compiled packages, and so what an interrupted build did."""

    goroot: Path
    work: Path
    runner: ProcessRunner
    progress: Progress

    def compile(self, modules: ModuleSet, out: Path) -> None:
        """Compile every program into `out`, static and stripped.

        Raises:
            HostNotFitError: the module proxy cannot be reached, the disk is full, or the memory too small.
            HyperscalerError: a module is not the one that was pinned.
            CommandError: the compiler refused something; its last lines are quoted.
        """
        out.mkdir(parents=True, exist_ok=True)
        programs = list(modules.programs())
        for module in modules.modules:
            self._fetch(module)
        clock = Estimate(sum(program.cpu_seconds for _, program in programs), os.cpu_count() or 1)
        for number, (module, program) in enumerate(programs, 1):
            self.progress(f"compile {program.name}", f"{number} of {len(programs)}, {clock.left()}")
            self._compile(module, program, out)
            clock.done(program.cpu_seconds)

    def _fetch(self, module: GoModule) -> None:
        """All that the programs need, at first: so a missing proxy is not mistaken for a fault of the compiler."""
        packages = [program.package for program in module.programs]
        self.progress("fetch Go modules", f"{module.name} {module.version}".strip())
        try:
            self._go(module, ["list", "-deps", "-f", "{{.ImportPath}}", *packages], _FETCH_TIMEOUT, "fetch Go modules")
        except CommandError as error:
            raise fetch_failure(error, module.name, self.work) from error

    def _compile(self, module: GoModule, program: Program, out: Path) -> None:
        words = ["build", "-v", "-p", str(parallel(module.peak_mib)), "-ldflags", module.linker_flags]
        words += ["-o", str(out / program.name), program.package]
        try:
            self._go(module, words, _BUILD_TIMEOUT, f"compile {program.name}")
        except CommandError as error:
            raise compile_failure(error, program.name, self.work) from error

    def _go(self, module: GoModule, words: Sequence[str], timeout: float, step: str) -> Completed:
        def show(line: str) -> None:
            if words[0] == "build" or line.startswith(_FETCHING):
                self.progress(step, line.removeprefix(_FETCHING))

        argv = [*_NICE, str(self.goroot / "bin/go"), *words]
        return self.runner.run(argv, timeout=timeout, env=self._environment(), cwd=module.directory, on_line=show)

    def _environment(self) -> Mapping[str, str]:
        """On top of the user's own, so that GOPROXY and the like decide where modules come from; never what they are:
        go.sum alone decides that, and neither asks a checksum database nor takes a module that it lacks."""
        return {
            "GOROOT": str(self.goroot),
            "GOPATH": str(self.work / "gopath"),
            "GOMODCACHE": str(self.work / "modules"),
            "GOCACHE": str(self.work / "compiled"),
            **SETTINGS,
        }


class Estimate:
    """How long a build still takes: at first by what was measured elsewhere, then by its own speed."""

    def __init__(self, cpu_seconds: int, cores: int) -> None:
        self._total = cpu_seconds
        self._cores = cores
        self._done = 0
        self._started = time.monotonic()

    def done(self, cpu_seconds: int) -> None:
        self._done += cpu_seconds

    def left(self, now: float | None = None) -> str:
        """In words."""
        spent = (time.monotonic() if now is None else now) - self._started
        rest = self._total - self._done
        # What an earlier run compiled takes no time at all; an estimate from it would promise too much.
        measured = self._done and spent > self._done / (4 * self._cores)
        seconds = rest * spent / self._done if measured else rest / self._cores
        minutes = max(1, round(seconds / 60))
        return f"about {minutes} minute{'s' if minutes != 1 else ''} left"


def parallel(peak_mib: int, available_mib: int | None = None, cores: int | None = None) -> int:
    """Processes of the compiler that may run side by side: one for each core, as long as the memory takes it.

    The largest process, the linker of the largest program, comes alone; the packages before it take a third of it.
    """
    available = _available_mib() if available_mib is None else available_mib
    fitting = 1 + max(0, available - peak_mib) // max(1, peak_mib // 3)
    return max(1, min(cores or os.cpu_count() or 1, fitting))


def _available_mib() -> int:
    """MemAvailable of this host."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) // 1024 if match else 0
