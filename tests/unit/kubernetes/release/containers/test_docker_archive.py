"""Container images that are written without a container tool."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

from emulator.kubernetes.release.containers.docker_archive import ContainerImage, write_archive
from emulator.kubernetes.release.go_build import openapi_packages, version_flags


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


def test_the_version_is_stamped_under_both_names_of_the_package() -> None:
    flags = version_flags("1.20.2").split()
    stamped = [flag for flag in flags if flag.endswith("gitVersion=v1.20.2")]
    assert [flag.partition(".gitVersion")[0] for flag in stamped] == [
        "k8s.io/component-base/version",
        "k8s.io/kubernetes/vendor/k8s.io/component-base/version",
    ]
    assert sum(flag.endswith("gitMinor=20") for flag in flags) == 2


def test_marked_packages_are_found_where_the_compiler_sees_them(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("staging/src/k8s.io/api/core/v1/doc.go", "// +k8s:openapi-gen=true\npackage v1\n")
    write("pkg/apis/abac/doc.go", "// +k8s:openapi-gen=true\npackage abac\n")
    write("pkg/other/doc.go", "package other\n")
    write("cmd/x/x_test.go", "// +k8s:openapi-gen=true\n")
    assert openapi_packages(tmp_path) == [
        "k8s.io/kubernetes/pkg/apis/abac",
        "k8s.io/kubernetes/vendor/k8s.io/api/core/v1",
    ]
