"""One command at work on one lab."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emulator.apply.lock import exclusive_lock
from emulator.core.errors import UsageError, VerifyError
from emulator.core.paths import Home
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.names import namespace_name
from emulator.lab.run import provisioned_run
from emulator.operations.verify import verify
from tests.support.simulated_world import LAB, SimulatedHost, lab_text
from tests.support.waiting import PATIENCE


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    made = SimulatedHost(tmp_path / "host")
    yield made
    made.close()


def test_the_lab_file_is_read_under_the_lock(host: SimulatedHost) -> None:
    """The command that held the lock may have provisioned another file."""
    host.provision(host.lab_file(lab_text(compute=1)))
    with ThreadPoolExecutor(max_workers=1) as pool:
        with exclusive_lock(host.home.locks / f"{LAB}.lock", purpose="provision"):
            waiting = pool.submit(verify, host.environment(), LAB, SilentReporter(), wait_seconds=PATIENCE)
            host.home.lab(LAB).spec.write_text(lab_text(compute=2))
        with pytest.raises(VerifyError, match="1 of 3 checks failed:\n    hpc-compute-2"):
            waiting.result(timeout=PATIENCE)


def test_a_lab_that_is_not_there_is_refused_before_anything_is_locked(host: SimulatedHost) -> None:
    with (
        pytest.raises(UsageError, match="there is no lab demo"),
        provisioned_run(host.environment(), LAB, "verify", SilentReporter(), StopFlag()),
    ):
        pytest.fail("opened")
    assert not host.home.locks.exists()


def test_a_run_shares_the_home_that_the_lab_was_made_under(host: SimulatedHost) -> None:
    """Through a link to the home, the environment has the link's name and the run the name in the lab's records."""
    host.provision(host.lab_file(lab_text()))
    made = host.home
    link = made.root.with_name("link")
    link.symlink_to(made.root)
    host.home = Home(link)
    env = host.environment()
    with provisioned_run(env, LAB, "verify", SilentReporter(), StopFlag()) as run:
        assert (env.home.root, run.record.home, run.lab.namespace) == (link, made, namespace_name(made, LAB))
        assert run.paths == run.lab.paths == made.lab(LAB)
