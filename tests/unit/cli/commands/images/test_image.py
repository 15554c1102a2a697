"""The image verbs as a person calls them, on a store with two builds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import emulator.wiring
from emulator.cli.commands.images.image import command
from emulator.core.errors import ConflictError, HyperscalerError, UsageError
from emulator.images.build.builder import BuildPhase
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore
from tests.support.build_tools import BuildTools


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


@pytest.fixture
def builds(
    tmp_path: Path, recipes: Path, tools: BuildTools, monkeypatch: pytest.MonkeyPatch
) -> tuple[GoldenImage, GoldenImage]:
    """An older and the current build of `demo` in the home's store."""
    home = tmp_path / "home"
    monkeypatch.setenv("HYPERSCALER_HOME", str(home))
    store = ImageStore(home / "images", tools, recipes=recipes)
    made = []
    for payload in (b"1", b"2"):
        tools.payload = payload
        made.append(store.build("demo", progress=quiet, force=True))
    manifest = made[0].directory / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"built_at": "2026-01-01T00:00:00+00:00"}))
    return made[0], made[1]


def call(*words: object) -> Result:
    result = CliRunner().invoke(command, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def listed() -> dict[str, dict[str, object]]:
    return {row["digest"]: row for row in json.loads(call("list", "--json").stdout)}


def test_tags_and_the_way_back_are_seen_in_the_list(builds: tuple[GoldenImage, GoldenImage]) -> None:
    old, new = builds
    assert call("tag", f"demo@{old.digest}", "v1").output.startswith(f"demo {old.digest[:12]} ")
    rows = listed()
    assert (rows[new.digest]["current"], rows[new.digest]["tags"]) == (True, [])
    assert (rows[old.digest]["previous"], rows[old.digest]["tags"]) == (True, ["v1"])
    assert "v1 (previous)\n" in call("list").stdout
    assert json.loads(call("rollback", "demo", "--json").stdout)["digest"] == old.digest
    assert listed()[old.digest]["current"] is True
    assert call("rollback", "demo").output.startswith(f"demo {new.digest[:12]} ")
    call("untag", "demo:v1")
    assert listed()[old.digest]["tags"] == []
    with pytest.raises(UsageError, match="has no tag 'v1'"):
        call("untag", "demo:v1")
    with pytest.raises(UsageError, match="there is no image 'demo:v1'"):
        call("show", "demo:v1")


def test_signing_and_verifying(builds: tuple[GoldenImage, GoldenImage], tmp_path: Path) -> None:
    _, new = builds
    assert call("verify", "demo").stdout == f"demo {new.digest[:12]} is as it was built; no signature asked for\n"
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signers = tmp_path / "home" / "trusted-signers"
    signers.write_text(f'me namespaces="hyperscaler-image" {key.with_suffix(".pub").read_text()}')
    signers.chmod(0o644)
    with pytest.raises(HyperscalerError, match="has no signature"):
        call("verify", "demo")
    call("sign", "demo", "--key", key)
    assert json.loads(call("verify", "demo", "--json").stdout)["signed_by"] == "me"
    new.disk.chmod(0o644)
    new.disk.write_bytes(b"other")
    with pytest.raises(HyperscalerError, match=r"not what its manifest says: disk\.qcow2"):
        call("verify", "demo")


def test_a_damaged_image_fails_the_check_without_signatures_too(builds: tuple[GoldenImage, GoldenImage]) -> None:
    _, new = builds
    new.kernel.unlink()
    with pytest.raises(HyperscalerError, match="vmlinuz: No such file"):
        call("verify", "demo")


def test_the_listing_of_vulnerabilities(builds: tuple[GoldenImage, GoldenImage], tmp_path: Path) -> None:
    _, new = builds
    data = tmp_path / "tracker"
    data.write_bytes(zlib.compress(b"VERSION 1\nCVE-2026-1,,bad\n\nmunge,0, HRF,9,\n\n\n"))
    assert call("vulnerabilities", "demo", "--data", data).stdout.split() == [
        *("ID", "PACKAGE", "VERSION", "NOTES"),
        *("CVE-2026-1", "munge", "0.5.15-2", "high,", "remote,", "fixed"),
    ]
    document = json.loads(call("vulnerabilities", "demo", "--data", data, "--json").stdout)
    assert (document["digest"], len(document["vulnerabilities"])) == (new.digest, 1)
    assert document["vulnerabilities"][0]["fixed"] is True


def test_show_prints_what_the_files_can_be_compared_with(builds: tuple[GoldenImage, GoldenImage]) -> None:
    _, new = builds
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (new.disk, new.kernel, new.initrd)}
    text = call("show", new.digest[:8]).stdout
    for name, checksum in sums.items():
        assert f"  {name} {checksum}\n" in text
    assert "munge" not in text
    assert "  munge 0.5.15-2\n" in call("show", "demo", "--packages").stdout
    document = json.loads(call("show", "demo", "--json").stdout)
    assert document["sha256"].items() >= sums.items()
    assert "sbom.spdx.json" in document["sha256"]
    assert document["packages"] == {"munge": "0.5.15-2"}


def test_gc_says_what_it_took(
    builds: tuple[GoldenImage, GoldenImage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Nothing:
        """An environment without labs."""

        class home:  # noqa: N801
            labs = tmp_path / "home" / "labs"

        class disks:  # noqa: N801
            @staticmethod
            def overlay_base(path: Path) -> None:
                return None

    monkeypatch.setattr(emulator.wiring, "real_environment", Nothing)
    assert call("gc").stdout == "nothing to remove\n"
    assert call("gc", "--all").stdout == f"removed demo {builds[0].digest[:12]}\n"


def test_an_import_without_a_disk_or_from_elsewhere(builds: tuple[GoldenImage, GoldenImage], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no directory of a Packer build"):
        call("import", tmp_path)
    (tmp_path / "image.json").write_text(
        json.dumps({"version": 1, "name": "hpc-base", "recipe_digest": "x", "builder_version": "1", "inputs": {}})
    )
    with pytest.raises(UsageError, match="there is no disk in the directory"):
        call("import", tmp_path)
    with pytest.raises(UsageError, match="there is no such disk"):
        call("import", tmp_path, "--disk", tmp_path / "absent.qcow2")
    disk = tmp_path / "output-base" / "disk.qcow2"
    disk.parent.mkdir()
    disk.touch()
    with pytest.raises(HyperscalerError, match="the recipe of hpc-base has changed"):
        call("import", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
@pytest.mark.parametrize("name", ["image.json", "output-base/disk.qcow2", "output-base", "."])
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_an_import_of_what_others_can_change_is_refused(
    builds: tuple[GoldenImage, GoldenImage], tmp_path: Path, name: str, how: str
) -> None:
    build = tmp_path / "build"
    (build / "output-base").mkdir(parents=True)
    (build / "output-base" / "disk.qcow2").touch()
    (build / "image.json").write_text(
        json.dumps({"version": 1, "name": "hpc-base", "recipe_digest": "x", "builder_version": "1", "inputs": {}})
    )
    if how == "owner":
        os.chown(build / name, 12345, -1)
    else:
        (build / name).chmod(0o777)
    with pytest.raises(
        ConflictError, match="belongs to another user" if how == "owner" else "others can write"
    ) as told:
        call("import", build)
    assert told.value.where == str(build / name)
    assert "as root too" in told.value.fix


@pytest.mark.parametrize("words", [("build", "demo", "--force"), ("import", "/nonexistent")])
def test_a_tag_that_cannot_be_is_refused_before_anything_is_made(
    builds: tuple[GoldenImage, GoldenImage], tools: BuildTools, words: tuple[str, ...]
) -> None:
    tools.calls.clear()
    with pytest.raises(UsageError, match="'V1' cannot be a tag"):
        call(*words, "--tag", "V1")
    assert tools.calls == []
    assert listed()[builds[1].digest]["current"] is True


def test_packer_files_for_a_recipe_that_is_not_there(builds: tuple[GoldenImage, GoldenImage], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no image recipe 'nothing'"):
        call("packer-files", "nothing", tmp_path / "build")
    assert not (tmp_path / "build").exists()
