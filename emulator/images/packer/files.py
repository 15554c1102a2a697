"""Writes the input of Packer's template from a recipe: archive of the guest, installer's answers, variables."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from emulator.core.data_files import share_dir
from emulator.core.errors import HyperscalerError
from emulator.core.fs import private_opener, write_new
from emulator.core.trust.owners import make_own_empty_directory
from emulator.images.build.apt_sources import AptSources
from emulator.images.build.builder import finish_script
from emulator.images.build.overlay import write_overlay
from emulator.images.packer.record import RECORD_NAME, record_of
from emulator.images.packer.scripts import install_script, seal_script
from emulator.images.recipe import Recipe
from emulator.images.store.golden_image import GoldenImage

VARIABLES_NAME = "packer.pkrvars.json"
ARCHIVE_NAME = "image-files.tar"
PRESEED_NAME = "preseed.cfg"

# How a guest on QEMU's user network reaches the loopback of its host (QEMU's documentation, -netdev user).
HOST_FROM_GUEST = "10.0.2.2"
_LOOPBACK = re.compile(r"(?<=//)((?:[^/@\s\"]*@)?)(?:localhost|127\.0\.0\.1|\[::1\])(?=[:/])")
_SIGNED_BY = re.compile(r"signed-by=(/[^\s\]]+)")
_PROXY = re.compile(r"Acquire::http::Proxy \"(?P<value>[^\"]+)\";")


@dataclass(frozen=True, slots=True)
class Machine:
    """How Packer runs and reaches its virtual machine.

    `credential` is the systemd credential in which a guest takes an authorized key, `user` whose key it is.
    """

    accelerated: bool
    cpus: int
    memory_mib: int
    credential: str
    user: str


def write_packer_files(
    directory: Path,
    recipe: Recipe,
    *,
    inputs: Mapping[str, Path],
    sources: AptSources,
    base: GoldenImage,
    machine: Machine,
    public_key: str,
) -> None:
    """Fill `directory`, which exists and is private to the caller.

    Args:
        directory: holds the key pair `ssh/id` already, whose public half is `public_key`.
        recipe: of the image to make.
        inputs: trees for what the recipe names under `inputs`.
        sources: where the guest gets its packages from; may hold a password, so the archive is mode 0600.
        base: the image that the template's source `base` starts from.
        machine: how Packer runs it.
        public_key: `TYPE BASE64`.
    """
    served = directory / "http"
    served.mkdir(mode=0o700)
    overlay = directory / "overlay.tar"
    write_overlay(overlay, recipe.files, [inputs[name] for name in recipe.inputs])
    lines, keyrings = guest_sources(sources)
    options = [_LOOPBACK.sub(rf"\g<1>{HOST_FROM_GUEST}", option) for option in sources.options]
    texts = {
        "install": install_script(recipe),
        "finish": finish_script(recipe),
        "seal": seal_script(),
        "sources.list": "".join(f"{line}\n" for line in lines),
        "apt.conf": "".join(f"{option}\n" for option in options),
    }
    with (
        open(served / ARCHIVE_NAME, "xb", opener=private_opener) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for name, text in texts.items():
            _add(archive, name, text.encode(), 0o700 if name in ("install", "finish", "seal") else 0o600)
        for name, source in keyrings.items():
            _add(archive, f"keyrings/{name}", source.read_bytes(), 0o644)
        archive.add(overlay, "overlay.tar", filter=_root_owned)
    overlay.unlink()
    preseed = share_dir() / "packer" / "http" / PRESEED_NAME
    write_new(served / PRESEED_NAME, preseed.read_text(encoding="utf-8"))
    write_new(served / "answers.cfg", installer_answers(recipe, lines, options))
    variables = _variables(directory, recipe.name, base, machine, public_key)
    write_new(directory / VARIABLES_NAME, json.dumps(variables, indent=1) + "\n")
    write_new(directory / RECORD_NAME, record_of(recipe, inputs).to_json() + "\n")


def template_path() -> Path:
    """The one Packer template, which makes any image from the variables of `write_packer_files`."""
    return share_dir() / "packer" / "image.pkr.hcl"


def guest_sources(sources: AptSources) -> tuple[list[str], dict[str, Path]]:
    """The host's sources as a guest can use them, and the keyrings that they name, by file name.

    Keyrings get a place of their own (`@KEYRINGS@` until the guest knows where), and the host's loopback the
    address that it has for a guest: that is where a package cache on the host is.

    Raises:
        HyperscalerError: packages come from a directory of this host.
    """
    lines, keyrings = [], {}
    for index, line in enumerate(sources.lines):
        address = next(word for word in re.sub(r"\[[^\]]*\]", "", line).split()[1:])
        if urlsplit(address).scheme not in ("http", "https"):
            raise HyperscalerError(
                "a package source of this host cannot be reached from a guest",
                where=line,
                fix="use an http or https source for the build",
            )
        moved = _LOOPBACK.sub(rf"\g<1>{HOST_FROM_GUEST}", line)
        named = _SIGNED_BY.search(line)
        if named:
            name = f"{index}-{Path(named.group(1)).name}"
            keyrings[name] = Path(named.group(1))
            moved = moved.replace(named.group(), f"signed-by=@KEYRINGS@/{name}")
        lines.append(moved)
    return lines, keyrings


def installer_answers(recipe: Recipe, lines: list[str], options: list[str]) -> str:
    """debconf answers that the preseed file includes: the recipe's suite, and this host's mirror and proxy."""
    answers = {"mirror/suite": recipe.suite}
    for line in lines:
        words = re.sub(r"\[[^\]]*\]", "", line).split()
        if words[2] == recipe.suite:
            address = urlsplit(words[1])
            answers["mirror/protocol"] = address.scheme
            answers[f"mirror/{address.scheme}/hostname"] = address.netloc
            answers[f"mirror/{address.scheme}/directory"] = address.path.rstrip("/") or "/"
            proxy = next((found["value"] for option in options if (found := _PROXY.fullmatch(option))), "")
            answers[f"mirror/{address.scheme}/proxy"] = "" if proxy == "DIRECT" else proxy
            break
    head = "#_preseed_V1\n# Written by `hyperscaler image packer-files` from the recipe and this host's apt sources.\n"
    return head + "".join(f"d-i {key} string {value}".rstrip() + "\n" for key, value in answers.items())


def _variables(
    directory: Path, image: str, base: GoldenImage, machine: Machine, public_key: str
) -> dict[str, str | int]:
    encoded = base64.b64encode(public_key.encode()).decode()
    return {
        "image": image,
        "files": str(directory),
        "accelerator": "kvm" if machine.accelerated else "tcg",
        "cpu_model": "host" if machine.accelerated else "max",
        "cpus": machine.cpus,
        "memory_mib": machine.memory_mib,
        "base_disk": str(base.disk),
        "base_sha256": base.manifest.artefacts[base.disk.name].sha256,
        "base_kernel": str(base.kernel),
        "base_initrd": str(base.initrd),
        # A neutral identity for the guest while it becomes an image.
        "base_cmdline": " ".join((*base.cmdline, "systemd.hostname=packer")),
        "base_credential": f"io.systemd.credential.binary:{machine.credential}={encoded}",
        "ssh_username": machine.user,
    }


def prepare_directory(directory: Path) -> Path:
    """Make the directory of a build, 0700; an empty one of this user is taken. Returns its full path.

    Raises:
        ConflictError: it is something else, or another account could change what will be in it.
    """
    directory = directory.absolute()
    make_own_empty_directory(directory)
    (directory / "ssh").mkdir(mode=0o700)
    return directory


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.size = mode, len(data)
    archive.addfile(member, io.BytesIO(data))


def _root_owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode, member.mtime = 0o600, 0
    return member
