"""What a failed fetch means, by the words of the programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.errors import CommandError, HostNotFitError, HyperscalerError
from emulator.kubernetes.release.modules.failures import fetch_failure
from emulator.kubernetes.release.modules.go_build import Estimate, parallel

# As go 1.26 prints them.
MISMATCH = "verifying k8s.io/api@v0.37.2: checksum mismatch\n\tdownloaded: h1:a\n\tgo.sum: h1:b\n\nSECURITY ERROR"
REFUSED = 'k8s.io/api@v0.37.2: Get "https://proxy.invalid/x": dial tcp 127.0.0.1:1: connect: connection refused'
UNKNOWN = 'Get "https://proxy.invalid/x": dial tcp: lookup proxy.invalid: no such host'
FORBIDDEN = "k8s.io/api@v0.37.2: reading https://proxy.invalid/x.zip: 403 Forbidden"
LACKING = "missing go.sum entry for module providing package k8s.io/api/core/v1"


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (MISMATCH, HyperscalerError, "not the one that was pinned"),
        (REFUSED, HostNotFitError, "cannot be reached"),
        (UNKNOWN, HostNotFitError, "cannot be reached"),
        (FORBIDDEN, HostNotFitError, "cannot be reached or lacks"),
        ("x509: certificate signed by unknown authority", HostNotFitError, "cannot be reached"),
        (LACKING, HyperscalerError, "do not pin all"),
        ("mkdir /x: no space left on device", HostNotFitError, "the disk is full"),
        ("something else", CommandError, "something else"),
    ],
)
def test_a_fetch_that_failed(said: str, kind: type[HyperscalerError], words: str) -> None:
    error = fetch_failure(CommandError(said), "kubernetes", Path("/x"))
    assert type(error) is kind
    assert words in error.what
    if "cannot be reached" in error.what:
        assert "hyperscaler bundle create" in error.fix and "source: bundle:PATH" in error.fix


def test_a_wrong_hash_is_never_taken_for_a_broken_line() -> None:
    error = fetch_failure(CommandError(f"{REFUSED}\n{MISMATCH}"), "kubernetes", Path("/x"))
    assert "not the one that was pinned" in error.what


@pytest.mark.parametrize(
    ("available", "cores", "processes"), [(16_000, 8, 8), (4_700, 8, 3), (2_800, 8, 1), (500, 8, 1), (64_000, 2, 2)]
)
def test_as_many_compilers_run_as_the_memory_takes(available: int, cores: int, processes: int) -> None:
    assert parallel(2800, available, cores) == processes


def test_an_estimate_follows_the_hosts_own_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    clock = Estimate(1200, 2)
    assert clock.left(0.0) == "about 10 minutes left"
    clock.done(600)
    assert clock.left(1200.0) == "about 20 minutes left"
    # What was there already took no time, and promises nothing.
    assert clock.left(1.0) == "about 5 minutes left"
    clock.done(590)
    assert clock.left(2000.0) == "about 1 minute left"
