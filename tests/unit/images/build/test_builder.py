"""What the builder asks of the tools, and the files that it hands to them."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from emulator.core.errors import CommandError, HostNotFitError, HyperscalerError
from emulator.images.build.builder import OWN_MOUNTS, BuildPhase, finish_script
from emulator.images.build.input_version import input_version, record_path
from emulator.images.build.overlay import write_overlay
from emulator.images.recipe import load_recipe
from emulator.images.store.manifest import read_manifest
from emulator.images.store.store import ImageStore
from tests.support.build_tools import BuildTools
from tests.support.waiting import PATIENCE


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


def test_phases_come_in_order_and_lines_belong_to_them(store: ImageStore) -> None:
    seen: list[tuple[BuildPhase, str]] = []
    store.build("demo", progress=lambda phase, line: seen.append((phase, line)))
    assert [phase for phase, line in seen if not line] == [phase for phase in BuildPhase if phase != BuildPhase.WAIT]
    assert (BuildPhase.PACKAGES, "mmdebstrap says hello") in seen
    assert (BuildPhase.FILESYSTEM, "mke2fs says hello") in seen


def test_packages_and_kernel_are_asked_for_in_one_transaction(store: ImageStore, tools: BuildTools) -> None:
    store.build("demo", progress=quiet)
    call = next(call for call in tools.calls if call[0] == "mmdebstrap" and "--mode=root" in call)
    assert "--include=linux-image-cloud-amd64,systemd,udev,munge" in call
    assert "bookworm" in call


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_mounts_go_with_a_tool_that_is_killed(tmp_path: Path) -> None:
    script = f"mount -t tmpfs none {tmp_path} && grep -c {tmp_path} /proc/self/mounts && kill -KILL $$"
    done = subprocess.run(
        [*OWN_MOUNTS, "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (-9, "1\n"), done.stderr
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_proxy_and_mirror_reach_mmdebstrap_by_file_never_by_argument(store: ImageStore, tools: BuildTools) -> None:
    tools.targets = "http://user:secret@mirror.invalid/debian/|bookworm|main||Debian|no\n"
    tools.apt_config = 'Acquire::http::Proxy "http://me:hidden@proxy.invalid:1";\n'
    store.build("demo", progress=quiet)
    assert "mirror.invalid" in tools.seen_files["sources.list"]
    assert "proxy.invalid" in tools.seen_files["apt.conf"]
    for call in tools.calls:
        assert not any("secret" in word or "hidden" in word for word in call)


def test_secrets_of_package_sources_are_closed_to_others_from_the_first_byte(
    store: ImageStore, tools: BuildTools
) -> None:
    tools.targets = "http://user:secret@mirror.invalid/debian/|bookworm|main||Debian|no\n"
    tools.apt_config = 'Acquire::http::Proxy "http://me:hidden@proxy.invalid:1";\n'
    tools.fail = "mke2fs"
    before = os.umask(0)
    try:
        with pytest.raises(CommandError):
            store.build("demo", progress=quiet)
    finally:
        os.umask(before)
    assert {name: oct(mode) for name, mode in tools.seen_modes.items() if mode & 0o007} == {}
    assert {name: tools.seen_modes[name] for name in ("apt.conf", "sources.list", "build.log")} == {
        "apt.conf": 0o600,
        "sources.list": 0o600,
        "build.log": 0o600,
    }
    assert stat.S_IMODE((store.root / "demo" / "failed.log").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand a directory to a group")
def test_apts_own_user_gets_into_the_tree_and_nobody_else(store: ImageStore, tools: BuildTools) -> None:
    try:
        account = pwd.getpwnam("_apt")
    except KeyError:
        pytest.skip("no apt here")
    store.build("demo", progress=quiet)
    assert (tools.seen_modes["work"], tools.seen_group) == (0o710, account.pw_gid)


def test_without_root_nothing_is_started(store: ImageStore, tools: BuildTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HostNotFitError, match="needs root"):
        store.build("demo", progress=quiet)
    assert tools.calls == []


def test_inputs_must_be_given(store: ImageStore, tools: BuildTools, recipes: Path, tmp_path: Path) -> None:
    (recipes / "demo.yaml").write_text("version: 1\nextends: common\ninputs: [binaries]\n")
    with pytest.raises(HyperscalerError, match="inputs that were not given: binaries"):
        store.build("demo", progress=quiet)
    tree = tmp_path / "binaries"
    tree.mkdir()
    image = store.build("demo", progress=quiet, inputs={"binaries": tree})
    assert image.disk.is_file()
    assert store.needs_build("demo", inputs={"binaries": tree}) is None
    (tree / "kubelet").write_text("other")
    assert store.needs_build("demo", inputs={"binaries": tree}) == "its input binaries has changed"
    assert store.needs_build("demo") is None, "a host without the inputs can use the image"


def test_the_version_that_an_input_says_is_kept_with_the_image(
    store: ImageStore, recipes: Path, tmp_path: Path
) -> None:
    (recipes / "demo.yaml").write_text("version: 1\nextends: common\ninputs: [binaries, silent]\n")
    trees = {name: tmp_path / name for name in ("binaries", "silent")}
    for tree in trees.values():
        (tree / "usr" / "lib" / "hyperscaler").mkdir(parents=True)
    (trees["binaries"] / record_path("binaries")).write_text('{"version": "1.31.4"}')
    (trees["silent"] / record_path("silent")).write_text("{")
    assert store.build("demo", progress=quiet, inputs=trees).versions == {"binaries": "1.31.4"}
    image = store.current("demo")
    assert image is not None
    assert image.versions == {"binaries": "1.31.4"}
    raw = json.loads(image.manifest.to_json())
    del raw["versions"]
    old = tmp_path / "manifest.json"
    old.write_text(json.dumps(raw))
    assert read_manifest(old).versions == {}, "an earlier version of this program wrote none"


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"version": 1}', '{"version": "1\\n2"}', '{"version": ""}', "[" * 100000]
)
def test_a_record_that_is_none_says_no_version(tmp_path: Path, text: str) -> None:
    record = tmp_path / record_path("binaries")
    record.parent.mkdir(parents=True)
    record.write_text(text)
    assert input_version("binaries", tmp_path) == ""


def test_laid_in_files_belong_to_root_and_have_plain_modes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for tree in (first, second):
        (tree / "etc").mkdir(parents=True)
    (first / "etc" / "a").write_text("first")
    (first / "etc" / "run").write_text("#!/bin/sh\n")
    (first / "etc" / "run").chmod(0o777)
    (first / "etc" / "a").chmod(0o600)
    (first / "etc" / "link").symlink_to("/run/x")
    (second / "etc" / "a").write_text("second")
    archive = tmp_path / "overlay.tar"
    write_overlay(archive, [first, second], [])
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar.getmembers()}
        content = tar.extractfile(members["etc/a"])
        assert content is not None
        assert content.read() == b"second"
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}
    assert members["etc/a"].mode == 0o644
    assert members["etc/run"].mode == 0o755
    assert members["etc/link"].linkname == "/run/x"


def test_the_finishing_script_is_valid_shell_and_works_inside_the_tree_only(recipes: Path, tmp_path: Path) -> None:
    script = tmp_path / "finish"
    script.write_text(finish_script(load_recipe("demo", recipes)))
    subprocess.run(["sh", "-n", str(script)], check=True)
    outside, _, inside = script.read_text().partition("<<'END_OF_RECIPE'\n")
    assert "rm " not in outside
    assert 'chroot "$1"' in outside
    assert "rm -rf -- /etc/ssh/ssh_host_*" in inside
    assert "ln -sfn /dev/null /etc/systemd/system/apt-daily.timer" in inside


def test_own_links_come_after_disabling_which_would_remove_them(recipes: Path) -> None:
    (recipes / "demo.yaml").write_text(
        "version: 1\nextends: common\ndisable: [x.service]\n"
        "symlinks: {/etc/systemd/system/multi-user.target.wants/x.service: /lib/systemd/system/x.service}\n"
    )
    script = finish_script(load_recipe("demo", recipes))
    assert script.index("disable x.service") < script.index("ln -sfn /lib/systemd/system/x.service")
