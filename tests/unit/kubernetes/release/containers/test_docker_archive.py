"""Container images that are written without a container tool."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

from emulator.kubernetes.release.containers.docker_archive import ContainerImage, write_archive


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
