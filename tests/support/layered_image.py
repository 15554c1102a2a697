"""A container image of two layers with what the project's own one-layer images do not have, as a docker-archive."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

# struct vfs_cap_data, revision 2: CAP_NET_RAW permitted and effective.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
OWNER, GROUP = 33, 999


def write_layered_image(path: Path, reference: str) -> None:
    """The lower layer has a directory for everybody, a program with hard links, one of them setuid, and files of
    somebody else; the upper one deletes a file and a directory's contents."""
    layers = [_lower(), _upper()]
    names = [f"{hashlib.sha256(layer).hexdigest()}.tar" for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/busybox"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{name.removesuffix('.tar')}" for name in names]},
        }
    ).encode()
    listing = json.dumps([{"Config": "config.json", "RepoTags": [reference], "Layers": names}]).encode()
    with tarfile.open(path, "w") as archive:
        for name, data in (*zip(names, layers, strict=True), ("config.json", config), ("manifest.json", listing)):
            _add(archive, name, data)


def _lower() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for name, mode in (("bin", 0o755), ("srv", 0o755), ("srv/emptied", 0o755), ("tmp", 0o1777)):
            _add(layer, name, mode=mode, kind=tarfile.DIRTYPE)
        _add(layer, "srv/own", mode=0o2750, kind=tarfile.DIRTYPE, owner=(OWNER, GROUP))
        _add(layer, "srv/own/file", b"of somebody else", mode=0o640, owner=(OWNER, GROUP))
        _add(layer, "srv/emptied/old", b"old")
        _add(layer, "srv/deleted", b"deleted")
        _add(layer, "bin/busybox", b"program " * 1000, mode=0o4755)
        for applet in ("ls", "su"):
            _add(layer, f"bin/{applet}", kind=tarfile.LNKTYPE, target="bin/busybox", mode=0o4755)
        attribute = {"SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape")}
        _add(layer, "bin/ping", b"ping", mode=0o755, headers=attribute)
    return out.getvalue()


def _upper() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for name in ("srv", "srv/emptied"):
            _add(layer, name, mode=0o755, kind=tarfile.DIRTYPE)
        # How a layer says so (image-spec, layer.md): deleted, and nothing of the directory below is to be seen.
        for name in ("srv/.wh.deleted", "srv/emptied/.wh..wh..opq"):
            _add(layer, name)
        _add(layer, "srv/emptied/new", b"new")
    return out.getvalue()


def _add(
    archive: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    mode: int = 0o644,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
    owner: tuple[int, int] = (0, 0),
    headers: dict[str, str] | None = None,
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, target, len(data)
    member.uid, member.gid = owner
    member.pax_headers = headers or {}
    archive.addfile(member, io.BytesIO(data))
