"""Libraries that only a host of labs has, and the error where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from emulator.core.errors import HostNotFitError

#: Module -> the distribution that brings it: the extra `host` of pyproject.toml.
HOST_LIBRARIES: Mapping[str, str] = {
    "ansible": "ansible-core",
    "ansible_runner": "ansible-runner",
    "libvirt": "libvirt-python",
}
INSTALL_FOR_HOST = "pip install 'hyperscaler[host]' (in a checkout: make setup)"


def require_host_libraries() -> None:
    """Check that this installation can run labs. Looks for the libraries without importing them.

    Raises:
        HostNotFitError: one or more are not installed.
    """
    missing = [distribution for module, distribution in HOST_LIBRARIES.items() if find_spec(module) is None]
    if missing:
        raise missing_libraries(missing)


def missing_library(error: ImportError) -> HostNotFitError | None:
    """The error of a failed import of a host's library; None for other modules, whose absence is a fault of ours."""
    distribution = HOST_LIBRARIES.get((error.name or "").partition(".")[0])
    return missing_libraries([distribution]) if distribution else None


def missing_libraries(distributions: list[str]) -> HostNotFitError:
    """The error that names what is missing and how to get it."""
    verb = "is" if len(distributions) == 1 else "are"
    return HostNotFitError(
        f"this command needs {', '.join(distributions)}, which {verb} not installed: a laptop's installation can check"
        " lab files and lay out GPUs, but not run labs",
        fix=INSTALL_FOR_HOST,
    )
