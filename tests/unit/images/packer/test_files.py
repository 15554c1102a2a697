"""What Packer is given: one source of packages, no secret for others, and files that Debian's own tools accept."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.apply.domain_drift import SSH_CREDENTIAL
from emulator.core.data_files import share_dir
from emulator.core.errors import ConflictError, HyperscalerError
from emulator.images.build.apt_sources import AptSources
from emulator.images.build.builder import BuildPhase, finish_script
from emulator.images.packer.files import (
    Machine,
    guest_sources,
    installer_answers,
    prepare_directory,
    template_path,
    write_packer_files,
)
from emulator.images.packer.record import read_record, record_of
from emulator.images.packer.scripts import install_script, seal_script
from emulator.images.recipe import load_recipe, recipe_names
from emulator.images.store.store import ImageStore
from emulator.labfile.model import ADMIN

PACKER = share_dir() / "packer"
TEMPLATE = PACKER / "image.pkr.hcl"
IMAGES = ("hpc-base", "cloud-base")
MACHINE = Machine(accelerated=False, cpus=2, memory_mib=2048, credential=SSH_CREDENTIAL, user=ADMIN)


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "archive-keyring.gpg"
    path.write_bytes(b"keys")
    return path


@pytest.fixture
def sources(keyring: Path) -> AptSources:
    return AptSources(
        lines=(
            f"deb [signed-by={keyring}] http://mirror.example.org/debian bookworm main",
            f"deb [signed-by={keyring}] http://mirror.example.org/debian-security bookworm-security main",
        ),
        options=('Acquire::http::Proxy "http://user:secret@localhost:3142/";',),
    )


@pytest.fixture
def directory(tmp_path: Path, sources: AptSources, request: pytest.FixtureRequest) -> Path:
    """Files for the real recipe of Slurm nodes, starting from an image of the test's store."""
    directory = prepare_directory(tmp_path / "build")
    store = request.getfixturevalue("store")  # from here on the test is root, and the directory may not be
    key = directory / "ssh" / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    write_packer_files(
        directory,
        load_recipe("hpc-base"),
        inputs={},
        sources=sources,
        base=store.build("demo", progress=quiet),
        machine=MACHINE,
        public_key=key.with_suffix(".pub").read_text().strip(),
    )
    return directory


def members(directory: Path) -> dict[str, bytes]:
    with tarfile.open(directory / "http" / "image-files.tar") as archive:
        return {item.name: archive.extractfile(item).read() for item in archive if item.isfile()}  # type: ignore[union-attr]


# ------------------------------------------------------------ one source
def test_the_guest_installs_what_the_recipe_says_and_ends_like_a_fast_build(directory: Path) -> None:
    recipe = load_recipe("hpc-base")
    files = members(directory)
    install = files["install"].decode()
    assert f"$apt install {recipe.kernel} {' '.join(recipe.packages)}\n" in install
    for path in recipe.exclude_paths:
        assert f"path-exclude={path}\n" in install
    assert files["finish"].decode() == finish_script(recipe)
    # Inputs bring owners and file capabilities of their own.
    assert "tar -xp --numeric-owner --xattrs --xattrs-include='*' " in install
    with tarfile.open(fileobj=io.BytesIO(files["overlay.tar"])) as overlay:
        assert {"etc/fstab", "etc/systemd/system/ssh.service"} <= set(overlay.getnames())
    assert read_record(directory) == record_of(recipe, {})


def test_no_list_of_packages_stands_in_packers_files() -> None:
    """Whoever adds a package to a recipe has added it here too."""
    text = "\n".join(
        line.partition("#")[0]
        for path in PACKER.rglob("*.*")
        if path.suffix in (".hcl", ".cfg")
        for line in path.open()
    )
    words = set(re.split(r"[^a-z0-9.+-]+", text))
    # Words that are also names of packages, and what they are here.
    harmless = {"sudo": "command", "mount": "udev", "systemd": "credential", "packer": "the tool", "base": "name"}
    for name in recipe_names():
        recipe = load_recipe(name)
        assert not ({recipe.kernel, *recipe.packages} & words) - harmless.keys()


def test_one_template_and_one_file_of_answers_make_every_image() -> None:
    assert template_path() == TEMPLATE
    assert sorted(path.name for path in PACKER.glob("*.pkr.hcl")) == ["image.pkr.hcl"]
    assert [path.name for path in (PACKER / "http").iterdir()] == ["preseed.cfg"]
    code = "\n".join(
        line.partition("#")[0] for path in (TEMPLATE, PACKER / "http" / "preseed.cfg") for line in path.open()
    )
    assert not [name for name in recipe_names() if name in code], "what differs between images belongs to their recipes"


# ------------------------------------------------------------ accepted by the tools themselves
@pytest.mark.parametrize("image", IMAGES)
def test_packer_accepts_the_template(directory: Path, image: str) -> None:
    variables = f"-var-file={directory / 'packer.pkrvars.json'}"
    argv = ["packer", "validate", variables, f"-var=image={image}", str(TEMPLATE)]
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(directory), "CHECKPOINT_DISABLE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((PACKER / "http").glob("*.cfg")), ids=lambda path: path.name)
def test_debconf_accepts_the_installers_answers(directory: Path, path: Path) -> None:
    for file in (path, directory / "http" / "answers.cfg"):
        done = subprocess.run(
            ["debconf-set-selections", "--checkonly", file], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    served = (directory / "http" / path.name).read_text()
    assert served == path.read_text()
    assert "passwd/root-password-crypted string !\n" in served, "root must not have a password"
    assert "passwd/make-user boolean false\n" in served


def test_the_shell_accepts_the_scripts(tmp_path: Path) -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        for text in (install_script(recipe), seal_script(), finish_script(recipe)):
            done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")


def test_excluded_files_of_a_system_that_was_there_before_go(tmp_path: Path) -> None:
    """The script's lines, run on a tree: `*` spans directories, exceptions stay, links and directories too."""
    docs = tmp_path / "usr" / "share" / "doc" / "munge"
    (docs / "examples").mkdir(parents=True)
    for name in ("copyright", "changelog.gz", "examples/one"):
        (docs / name).write_text("x")
    (docs / "link").symlink_to("copyright")
    text = install_script(load_recipe("hpc-base"))
    lines = [line for line in text.splitlines() if line.startswith("[ ! -d /usr/share/doc ]")]
    assert lines
    subprocess.run(["sh", "-euc", "\n".join(lines).replace("/usr/share", f"{tmp_path}/usr/share")], check=True)
    assert sorted(path.name for path in docs.rglob("*")) == ["copyright", "examples", "link"]


# ------------------------------------------------------------ private, and the guest's view of the host
def test_only_the_owner_can_read_what_may_hold_a_password(directory: Path) -> None:
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in (
        "http/image-files.tar",
        "http/answers.cfg",
        "http/preseed.cfg",
        "packer.pkrvars.json",
        "image.json",
        "ssh/id",
    ):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600, name
    assert "secret" not in (directory / "packer.pkrvars.json").read_text(), "Packer prints its variables"


def test_the_hosts_loopback_has_another_address_in_the_guest(directory: Path, sources: AptSources) -> None:
    files = members(directory)
    assert files["apt.conf"] == b'Acquire::http::Proxy "http://user:secret@10.0.2.2:3142/";\n'
    assert files["sources.list"].decode().splitlines()[0] == (
        "deb [signed-by=@KEYRINGS@/0-archive-keyring.gpg] http://mirror.example.org/debian bookworm main"
    )
    assert files["keyrings/0-archive-keyring.gpg"] == b"keys"
    lines, _ = guest_sources(AptSources(lines=("deb http://127.0.0.1:9999/debian bookworm main",)))
    assert lines == ["deb http://10.0.2.2:9999/debian bookworm main"]


@pytest.mark.parametrize("address", ["file:///srv/debian", "cdrom:[Debian]/", "copy:/srv"])
def test_a_directory_of_this_host_is_no_source_for_a_guest(address: str) -> None:
    with pytest.raises(HyperscalerError, match="cannot be reached from a guest"):
        guest_sources(AptSources(lines=(f"deb {address} bookworm main",)))


def test_the_installer_is_told_suite_mirror_and_proxy() -> None:
    recipe = load_recipe("hpc-base")
    lines = ["deb [trusted=yes] http://mirror.example.org:8080/debian bookworm main"]
    answers = installer_answers(recipe, lines, ['Acquire::http::Proxy "http://10.0.2.2:3142/";'])
    assert answers.splitlines()[2:] == [
        "d-i mirror/suite string bookworm",
        "d-i mirror/protocol string http",
        "d-i mirror/http/hostname string mirror.example.org:8080",
        "d-i mirror/http/directory string /debian",
        "d-i mirror/http/proxy string http://10.0.2.2:3142/",
    ]
    assert "hostname" not in installer_answers(recipe, [], [])


def test_variables_name_the_base_image_with_its_checksum(directory: Path, store: ImageStore) -> None:
    base = store.current("demo")
    assert base is not None
    variables = json.loads((directory / "packer.pkrvars.json").read_text())
    assert variables["image"] == "hpc-base"
    assert variables["base_disk"] == str(base.disk)
    assert variables["base_sha256"] == base.manifest.artefacts["disk.qcow2"].sha256
    assert variables["base_credential"].startswith(f"io.systemd.credential.binary:{SSH_CREDENTIAL}=")
    assert (variables["accelerator"], variables["cpu_model"]) == ("tcg", "max")
    declared = set(re.findall(r'^variable "(\w+)"', TEMPLATE.read_text(), re.MULTILINE))
    assert variables.keys() <= declared


def test_a_directory_that_is_in_use_is_refused(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").touch()
    with pytest.raises(ConflictError, match="not an empty directory"):
        prepare_directory(used)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConflictError):
        prepare_directory(tmp_path / "link")
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    assert stat.S_IMODE(prepare_directory(empty).stat().st_mode) == 0o700


def test_files_of_others_are_never_written_to(
    tmp_path: Path, directory: Path, store: ImageStore, sources: AptSources
) -> None:
    """A link in the place of a file stops the command; what it leads to stays as it is."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    base = store.current("demo")
    assert base is not None
    for name in ("overlay.tar", "packer.pkrvars.json", "image.json"):
        for path in (directory / "http").iterdir():
            path.unlink()
        (directory / "http").rmdir()
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(mine)
        with pytest.raises(FileExistsError):
            write_packer_files(
                directory,
                load_recipe("hpc-base"),
                inputs={},
                sources=sources,
                base=base,
                machine=MACHINE,
                public_key="ssh-ed25519 AAAA",
            )
        assert mine.read_text() == "mine"
        (directory / name).unlink()


def test_the_real_host_gives_sources_that_a_guest_can_use() -> None:
    from emulator.images.build.apt_sources import host_sources

    recipe = load_recipe("hpc-base")
    lines, keyrings = guest_sources(host_sources(HostProcess(), suite=recipe.suite, components=recipe.components))
    assert all(path.is_file() for path in keyrings.values())
    assert all(line.startswith("deb ") for line in lines)
