"""Builds one image from the command line: ``python -m emulator.images.build NAME``. Made for image pipelines."""

from __future__ import annotations

import sys

from emulator.adapters.process import HostProcess
from emulator.errors import ExitCode, HyperscalerError
from emulator.images.builder import BuildPhase
from emulator.images.store import ImageStore
from emulator.paths import Home


def _show(phase: BuildPhase, line: str) -> None:
    print(f"{phase}: {line}" if line else f"== {phase}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Build the images named in `arguments` and print the directory of each."""
    if not arguments:
        print("usage: python -m emulator.images.build NAME...", file=sys.stderr)
        return ExitCode.USAGE
    store = ImageStore(Home.default().images, HostProcess())
    try:
        for name in arguments:
            print(store.build(name, progress=_show).directory)
    except HyperscalerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
