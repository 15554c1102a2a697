from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.services.spawn import Start, environment, nice_value, spawn
from emulator.core.errors import ServiceError
from emulator.core.ports.services import ServiceRequest

SHOW = r"""
import os, resource, sys
print(sorted(os.environ))
print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_AS)[0] >> 20)
print(resource.getrlimit(resource.RLIMIT_CORE), os.nice(0), os.getcwd(), oct(os.umask(0)))
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
print(sorted(int(name) for name in os.listdir("/proc/self/fd"))[:4], os.getsid(0) == os.getpid())
print(os.getuid())
"""


def started(request: ServiceRequest, argv: list[str], tmp_path: Path) -> list[str]:
    """What the service prints, after its end."""
    reads, writes = os.pipe()
    pid = spawn(Start(request, argv, environment(tmp_path / "note", "1"), writes))
    os.close(writes)
    with os.fdopen(reads) as stream:
        said = stream.read().splitlines()
    os.waitpid(pid, 0)
    return said


def test_a_service_starts_clean_and_bounded(tmp_path: Path) -> None:
    request = ServiceRequest("a", "d", "/usr/bin/python3", memory_mib=512, files=50, cpu_weight=50)
    said = started(request, ["/usr/bin/python3", "-I", "-c", SHOW], tmp_path)
    assert said[0] == "['HYPERSCALER_NOTE', 'HYPERSCALER_START', 'LANG', 'PATH']"
    assert said[1] == "(50, 50) 512"
    assert said[2] == "(0, 0) 3 / 0o77"
    assert said[3] == "['1']"
    assert said[4] == "[0, 1, 2, 3] True", "the fourth is the listing's own"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes other accounts")
def test_a_service_takes_its_account(tmp_path: Path) -> None:
    said = started(ServiceRequest("a", "d", "/usr/bin/id", account="nobody"), ["/usr/bin/id"], tmp_path)
    assert said[0].startswith("uid=65534(nobody)") and "root" not in said[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes process namespaces")
@pytest.mark.parametrize("host", [False, True])
def test_a_service_is_apart_from_the_host_s_processes_unless_they_are_its_task(host: bool, tmp_path: Path) -> None:
    request = ServiceRequest("a", "d", "/usr/bin/readlink", host_processes=host)
    said = started(request, ["/usr/bin/readlink", "/proc/self/ns/pid"], tmp_path)
    assert (said[0] == str(Path("/proc/self/ns/pid").readlink())) is host


def test_what_cannot_be_started_is_said(tmp_path: Path) -> None:
    request = ServiceRequest("a", "d", "/absent")
    with pytest.raises(ServiceError, match=r"/absent: its program cannot be run: No such file"):
        started(request, ["/absent"], tmp_path)
    with pytest.raises(ServiceError, match="this host has no account none-such"):
        started(ServiceRequest("a", "d", "/bin/true", account="none-such"), ["/bin/true"], tmp_path)


@pytest.mark.parametrize(("weight", "nice"), [(10000, 0), (100, 0), (80, 1), (50, 3), (10, 10), (1, 19), (0, 19)])
def test_a_share_of_the_processor_without_control_groups(weight: int, nice: int) -> None:
    assert nice_value(weight) == nice
