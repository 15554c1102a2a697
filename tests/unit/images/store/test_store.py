"""The store: what a build leaves, what a failed one leaves, and what removal refuses."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from emulator.core.errors import CommandError, ConflictError, HyperscalerError, StateError, UsageError
from emulator.images.build.builder import BuildPhase
from emulator.images.store import store as store_module
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore
from tests.support.build_tools import BuildTools
from tests.support.waiting import PATIENCE


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


def build(store: ImageStore, tools: BuildTools, payload: bytes) -> GoldenImage:
    """A further image of `demo` that differs in its content."""
    tools.payload = payload
    return store.build("demo", progress=quiet, force=True)


def entries(store: ImageStore) -> list[str]:
    return sorted(path.name for path in (store.root / "demo").iterdir())


# ------------------------------------------------------------ building
def test_an_image_is_found_under_its_name_and_complete(store: ImageStore, tools: BuildTools) -> None:
    assert store.current("demo") is None
    assert store.needs_build("demo") == "not built yet"
    image = store.build("demo", progress=quiet)
    assert store.current("demo") == image
    assert store.needs_build("demo") is None
    assert store.verify(image) == []
    assert image.directory == store.root / "demo" / image.digest[:12]
    assert sorted(path.name for path in image.directory.iterdir()) == [
        "build.log",
        "disk.qcow2",
        "initrd.img",
        "manifest.json",
        "sbom.spdx.json",
        "vmlinuz",
    ]
    assert entries(store) == sorted([".lock", "current", image.digest[:12]])
    manifest = image.manifest
    assert (manifest.kernel_version, manifest.architecture) == ("6.1.0-test", "amd64")
    assert manifest.packages == {"munge": "0.5.15-2"}
    assert manifest.tools == {"mmdebstrap": "1.3.5", "qemu-img": "7.2.22", "mke2fs": "1.47.0"}
    assert manifest.cmdline == ("root=/dev/vda", "rw")


def test_artefacts_are_read_only_and_the_log_is_private(store: ImageStore) -> None:
    image = store.build("demo", progress=quiet)
    assert stat.S_IMODE(image.disk.stat().st_mode) == 0o444
    assert stat.S_IMODE((image.directory / "build.log").stat().st_mode) == 0o600
    assert "mmdebstrap says hello" in (image.directory / "build.log").read_text()


def test_a_second_build_of_the_same_recipe_does_nothing(store: ImageStore, tools: BuildTools) -> None:
    image = store.build("demo", progress=quiet)
    tools.calls.clear()
    assert store.build("demo", progress=quiet) == image
    assert tools.calls == []


def test_reasons_to_build_again(
    store: ImageStore, tools: BuildTools, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = store.build("demo", progress=quiet)
    fstab = recipes / "files" / "common" / "etc" / "fstab"
    before = fstab.read_text()
    fstab.write_text("other\n")
    assert store.needs_build("demo") == "its recipe has changed"
    fstab.write_text(before)
    monkeypatch.setattr(store_module, "BUILDER_VERSION", "next")
    assert store.needs_build("demo") == "built by another version of the builder"
    monkeypatch.undo()
    image.kernel.unlink()
    assert store.needs_build("demo") == "vmlinuz is missing or cut short"


def test_an_equal_result_is_kept_once(store: ImageStore, tools: BuildTools) -> None:
    image = build(store, tools, b"same")
    again = build(store, tools, b"same")
    assert again == image
    assert len(store.list()) == 1


def test_a_damaged_image_is_replaced_by_an_equal_build(store: ImageStore, tools: BuildTools) -> None:
    image = build(store, tools, b"same")
    image.disk.chmod(0o644)
    image.disk.write_bytes(b"broken")
    assert store.verify(build(store, tools, b"same")) == []


def test_current_follows_the_newest_build_and_the_old_one_stays(store: ImageStore, tools: BuildTools) -> None:
    first = build(store, tools, b"1")
    second = build(store, tools, b"2")
    assert store.current("demo") == second
    assert {image.digest for image in store.list()} == {first.digest, second.digest}
    assert store.verify(first) == []


# ------------------------------------------------------------ failures
@pytest.mark.parametrize("tool", ["mmdebstrap", "mke2fs", "qemu-img", "dpkg-query"])
def test_a_failed_build_leaves_the_store_as_it_was(store: ImageStore, tools: BuildTools, tool: str) -> None:
    image = build(store, tools, b"good")
    tools.fail = tool
    with pytest.raises(CommandError):
        build(store, tools, b"never")
    assert store.current("demo") == image
    assert store.verify(image) == []
    assert entries(store) == sorted([".lock", "current", "failed.log", image.digest[:12]])


@pytest.mark.parametrize("tool", ["mmdebstrap", "mke2fs", "qemu-img"])
def test_an_interrupted_first_build_leaves_only_its_log(store: ImageStore, tools: BuildTools, tool: str) -> None:
    tools.interrupt = tool
    with pytest.raises(KeyboardInterrupt):
        store.build("demo", progress=quiet)
    assert store.current("demo") is None
    assert set(entries(store)) <= {".lock", "failed.log"}


def test_leftovers_of_a_killed_build_go_with_the_next(store: ImageStore) -> None:
    stale = store.root / "demo" / ".work-killed" / "scratch" / "root"
    stale.mkdir(parents=True)
    (stale / "file").write_text("x")
    (store.root / "demo" / ".trash-0123456789ab").mkdir()
    image = store.build("demo", progress=quiet)
    assert entries(store) == sorted([".lock", "current", image.digest[:12]])


def test_a_leftover_that_holds_a_mount_is_not_removed(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = store.root / "demo" / ".work-killed" / "dev"
    stale.mkdir(parents=True)
    real = Path.read_text

    def mountinfo(self: Path, *args: Any, **options: Any) -> str:
        if self == Path("/proc/self/mountinfo"):
            return f"36 35 0:5 / {stale} rw - devtmpfs udev rw\n"
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", mountinfo)
    with pytest.raises(ConflictError, match="something is mounted") as caught:
        store.build("demo", progress=quiet)
    assert caught.value.fix == f"umount {stale}"
    assert stale.is_dir()


def test_an_image_over_its_budget_is_not_kept(store: ImageStore, tools: BuildTools, recipes: Path) -> None:
    (recipes / "demo.yaml").write_text("version: 1\nextends: common\nmax_image_mib: 1\n")
    with pytest.raises(HyperscalerError, match="has 2 MiB; its budget is 1 MiB"):
        build(store, tools, b"x" * (2 << 20))
    assert store.current("demo") is None
    build(store, tools, b"x" * 1000)


def test_the_budget_of_an_image_is_for_the_disk_without_its_inputs(
    store: ImageStore, tools: BuildTools, recipes: Path, tmp_path: Path
) -> None:
    (recipes / "demo.yaml").write_text("version: 1\nextends: common\nmax_image_mib: 1\ninputs: [binaries]\n")
    (tmp_path / "binaries").mkdir()
    (tmp_path / "binaries" / "kubelet").write_bytes(b"x" * (2 << 20))
    inputs = {"binaries": tmp_path / "binaries"}
    tools.payload = b"x" * (5 << 19)
    image = store.build("demo", progress=quiet, inputs=inputs)
    assert image.disk.stat().st_size > 2 << 20
    tools.payload = b"x" * (7 << 19)
    with pytest.raises(HyperscalerError, match=r"has 1 MiB without its inputs \(2 MiB\); its budget is 1 MiB"):
        store.build("demo", progress=quiet, inputs=inputs, force=True)


def test_a_build_waits_for_another_and_finds_its_image(store: ImageStore, tools: BuildTools, recipes: Path) -> None:
    # Another process holds the lock until this one says that it waits; then it lets go.
    (store.root / "demo").mkdir(parents=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl,sys\nf=open(sys.argv[1],'a')\nfcntl.flock(f,fcntl.LOCK_EX)\n"
            "print('held',flush=True)\nsys.stdin.read()\n",
            str(store.root / "demo" / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConflictError, match="being built or removed by another process"):
            store.gc(list, keep=0)
        phases: list[BuildPhase] = []

        def progress(phase: BuildPhase, line: str) -> None:
            phases.append(phase)
            if phase == BuildPhase.WAIT:
                assert not tools.calls
                assert holder.stdin is not None
                holder.stdin.close()

        store.build("demo", progress=progress)
        assert phases[0] == BuildPhase.WAIT
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


# ------------------------------------------------------------ finding
def test_show_takes_a_name_or_the_beginning_of_a_digest(store: ImageStore, tools: BuildTools) -> None:
    first = build(store, tools, b"1")
    second = build(store, tools, b"2")
    assert store.show("demo") == second
    assert store.show(first.digest[:8]) == first
    assert store.show(first.digest) == first
    for ref in ("absent", first.digest[:3], "../demo", ""):
        with pytest.raises(UsageError, match="there is no image"):
            store.show(ref)


def test_a_pointer_to_nothing_or_out_of_the_store_is_no_image(store: ImageStore, tmp_path: Path) -> None:
    home = store.root / "demo"
    home.mkdir(parents=True)
    for target in ("0123456789ab", "../../etc", str(tmp_path)):
        (home / "current").unlink(missing_ok=True)
        (home / "current").symlink_to(target)
        assert store.current("demo") is None


def test_changed_and_missing_files_are_detected(store: ImageStore) -> None:
    image = store.build("demo", progress=quiet)
    image.disk.chmod(0o644)
    with image.disk.open("r+b") as stream:
        stream.write(b"Q")
    image.initrd.unlink()
    faults = store.verify(image)
    assert [fault.partition(":")[0] for fault in faults] == ["disk.qcow2", "initrd.img"]
    assert "the manifest says" in faults[0]


def test_a_manifest_that_was_made_to_fit_changed_files_is_detected(store: ImageStore) -> None:
    image = store.build("demo", progress=quiet)
    path = image.directory / "manifest.json"
    raw = json.loads(path.read_text())
    raw["artefacts"]["disk.qcow2"]["sha256"] = "0" * 64
    path.chmod(0o644)
    path.write_text(json.dumps(raw))
    faults = store.verify(store.show("demo"))
    assert "manifest.json: its digest does not follow from its checksums" in faults


def test_a_damaged_manifest_is_left_out_of_the_list_and_built_again(store: ImageStore, tools: BuildTools) -> None:
    image = build(store, tools, b"1")
    path = image.directory / "manifest.json"
    path.chmod(0o644)
    path.write_text("{")
    assert store.list() == ()
    with pytest.raises(StateError):
        store.current("demo")
    reason = store.needs_build("demo")
    assert reason is not None and "manifest cannot be read" in reason
    assert store.verify(build(store, tools, b"1")) == []


# ------------------------------------------------------------ removing
def test_an_image_in_use_is_not_removed_and_the_disk_is_named(store: ImageStore) -> None:
    image = store.build("demo", progress=quiet)
    overlay = Path("/labs/a/disks/hpc-controller.qcow2")
    with pytest.raises(ConflictError, match=r"in use by /labs/a/disks/hpc-controller\.qcow2"):
        store.remove("demo", lambda: {image.disk: overlay})
    with pytest.raises(ConflictError, match=f"in use by an overlay of {image.disk}"):
        store.remove("demo", lambda: [image.disk])
    assert store.verify(image) == []


def test_a_removed_image_is_gone_with_its_pointer(store: ImageStore, tools: BuildTools) -> None:
    first = build(store, tools, b"1")
    second = build(store, tools, b"2")
    assert store.remove("demo", list) == second
    assert store.current("demo") is None
    assert [image.digest for image in store.list()] == [first.digest]
    store.remove(first.digest, list)
    assert entries(store) == [".lock", ".use.lock"]


@pytest.mark.parametrize("verb", ["remove", "gc"])
def test_an_image_that_a_disk_is_being_made_on_is_not_removed(store: ImageStore, tools: BuildTools, verb: str) -> None:
    """The look at who uses it comes when no disk can be put on it any more."""
    image = build(store, tools, b"1")
    build(store, tools, b"2")
    disks: list[Path] = []
    outcome: list[object] = []

    def remove() -> None:
        try:
            outcome.append(
                store.remove(image.digest, lambda: disks) if verb == "remove" else store.gc(lambda: disks, 0)
            )
        except ConflictError as error:
            outcome.append(error.what)

    thread = threading.Thread(target=remove)
    with store.kept("demo"):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), "it waits"
        disks.append(image.disk)
    thread.join(PATIENCE)
    told = f"image demo {image.digest[:12]} is in use by an overlay of {image.disk}"
    assert outcome == [told if verb == "remove" else ()]
    assert store.verify(image) == []


def test_disks_are_made_side_by_side_and_while_an_image_is_built(store: ImageStore) -> None:
    store.build("demo", progress=quiet)
    with store.locked("demo"), store.kept("demo"), store.kept("demo:v1"):
        pass


def test_of_a_name_without_images_nothing_is_kept_and_nothing_made(store: ImageStore) -> None:
    with store.kept("demo"), store.kept("no such name"):
        pass
    assert not os.path.lexists(store.root)


def test_gc_keeps_current_and_used_and_newest(store: ImageStore, tools: BuildTools) -> None:
    images = [build(store, tools, str(index).encode()) for index in range(4)]
    for age, image in enumerate(reversed(images)):
        path = image.directory / "manifest.json"
        raw = json.loads(path.read_text()) | {"built_at": f"2026-01-0{9 - age}T00:00:00+00:00"}
        path.chmod(0o644)
        path.write_text(json.dumps(raw))
    oldest, older, newer, current = images
    assert [image.digest for image in store.gc(lambda: [oldest.disk], keep=2)] == [older.digest]
    assert {image.digest for image in store.list()} == {oldest.digest, newer.digest, current.digest}
    store.gc(list, keep=0, chosen=True)
    assert [image.digest for image in store.list()] == [current.digest]


def test_gc_of_an_empty_store_is_fine(store: ImageStore) -> None:
    assert store.gc(list, keep=1) == ()
    assert not os.path.lexists(store.root)
