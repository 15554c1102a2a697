"""Container images that are written without a container tool."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.kubernetes.release.containers.docker_archive import ContainerImage, copy_images, references, write_archive


def image(root: Path) -> ContainerImage:
    (root / "usr/bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    program = root / "usr/bin/etcd"
    program.write_bytes(b"program")
    program.chmod(0o755)
    (root / "usr/bin/link").symlink_to("etcd")
    return ContainerImage("hyperscaler.invalid/kubernetes/etcd:3", root, ("/usr/bin/etcd",))


def test_config_names_the_layer_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    write_archive(path, [image(tmp_path / "root")], architecture="amd64")
    with tarfile.open(path) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (entry,) = json.loads(content["manifest.json"])
    config = json.loads(content[entry["Config"]])
    (layer,) = entry["Layers"]
    assert entry["RepoTags"] == ["hyperscaler.invalid/kubernetes/etcd:3"]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(content[layer]).hexdigest()]
    assert entry["Config"] == hashlib.sha256(content[entry["Config"]]).hexdigest() + ".json"
    assert config["config"]["Entrypoint"] == ["/usr/bin/etcd"]
    (tmp_path / "layer.tar").write_bytes(content[layer])
    with tarfile.open(tmp_path / "layer.tar") as inner:
        modes = {member.name: (member.mode, member.uid, member.linkname) for member in inner}
    assert modes["usr/bin/etcd"] == (0o755, 0, "")
    assert modes["usr/bin/link"] == (0o777, 0, "etcd")
    assert modes["tmp"] == (0o1777, 0, "")


def test_the_same_content_gives_the_same_bytes_whatever_the_times(tmp_path: Path) -> None:
    first = image(tmp_path / "a")
    write_archive(tmp_path / "a.tar", [first], architecture="amd64")
    second = image(tmp_path / "b")
    os.utime(second.root / "usr/bin/etcd", (1, 1))
    write_archive(tmp_path / "b.tar", [second], architecture="amd64")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.tar", "b", "b.tar"]


def test_only_the_images_that_are_wanted_are_copied(tmp_path: Path) -> None:
    one = image(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").write_text("another layer")
    other = ContainerImage("hyperscaler.invalid/kubernetes/pause:3", tmp_path / "b")
    same = replace(one, reference="hyperscaler.invalid/kubernetes/same:1")
    write_archive(tmp_path / "first.tar", [one, other], architecture="amd64")
    write_archive(tmp_path / "second.tar", [same], architecture="amd64")
    archives = [tmp_path / "first.tar", tmp_path / "second.tar"]
    copy_images(archives, tmp_path / "some.tar", lambda name: "pause" not in name)
    with (tmp_path / "some.tar").open("rb") as stream:
        assert references(stream) == {one.reference, same.reference}
    with tarfile.open(tmp_path / "some.tar") as archive:
        names = archive.getnames()
    assert len(names) == len(set(names)) == 3, "one layer and one configuration, which both have, and the listing"
    copy_images(archives, tmp_path / "all.tar", lambda _name: True)
    assert (tmp_path / "all.tar").stat().st_size > (tmp_path / "some.tar").stat().st_size


@pytest.mark.parametrize("listing", ["{}", "[1]", "x"])
def test_an_archive_that_is_none_is_not_copied_from(tmp_path: Path, listing: str) -> None:
    (tmp_path / "manifest.json").write_text(listing)
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        archive.add(tmp_path / "manifest.json", "manifest.json")
    with pytest.raises(ValueError, match=r"no list of images|Expecting value"):
        copy_images([tmp_path / "odd.tar"], tmp_path / "copy.tar", lambda _name: True)
