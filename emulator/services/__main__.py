"""Our own programs that stay running, by name: `python -I emulator/services/__main__.py NAME ARGUMENT...`.

It runs isolated (`-I`): neither the environment nor the current directory decides what root imports, only the place of
this file, which the command that started it was imported from.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from emulator.core.errors import HyperscalerError

    # Each loads only what it needs: these processes stay in memory as long as the lab is there.
    match argv[:1]:
        case ["supervise"]:
            from emulator.services.supervise import main as program
        case ["console-limits"]:
            from emulator.services.console_limits import main as program
        case ["disk-reserve"]:
            from emulator.services.disk_reserve import main as program
        case ["gateway"]:
            from emulator.services.gateway.lab import main as program
        case ["gateway-front"]:
            from emulator.services.gateway.front import main as program
        case _:
            sys.exit(f"there is no service {' '.join(argv[:1])}")
    try:
        return program(argv[1:])
    except HyperscalerError as error:
        sys.exit(f"{argv[0]}: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
