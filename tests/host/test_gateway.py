"""The host's gateway with real ssh and sshd, from another network namespace: who gets where, and nowhere else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway_bench import Bench, Lab, gateway_bench, unpack_sshd

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.exit("the tests on real services run as root", returncode=2)
    # Not below pytest's directory, which is closed to the accounts of the gateway and of the nodes.
    with tempfile.TemporaryDirectory(prefix="hsgw-", dir="/var/tmp") as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "sshd").mkdir()
        with gateway_bench(unpack_sshd(root / "sshd"), root) as bench:
            yield bench


@pytest.fixture(scope="module")
def demo(bench: Bench) -> Lab:
    return bench.add_lab("demo")


def test_a_student_logs_in_to_a_node_from_elsewhere(demo: Lab) -> None:
    ada = demo.grant("ada", nodes=("hpc-controller", "cloud-control-plane"))
    done = ada.ssh("hpc-controller", "id -un")
    assert (done.returncode, done.stdout) == (0, "ada\n"), (done.stderr, demo.bench.log("front"), demo.bench.log(demo.service))
    assert "opened user=ada lab=demo target=hpc-controller:22" in demo.bench.log(demo.service)
