"""A wheel in an environment that has nothing but it and what it asks for: no checkout, no libvirt, no Ansible.

Needs no network: the wheel is built with the tools of this environment, and its dependencies are linked from here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: What a wheel carries from the checkout, as a pattern of paths.
DATA = re.compile(r"(config|packer|playbooks|schemas)/.+|scripts/system-packages\.txt")

pytestmark = pytest.mark.skipif(
    find_spec("hatch_vcs") is None and "CI" not in os.environ,
    reason="needs hatchling and hatch-vcs, which `make setup-dev` installs",
)


def tracked() -> list[str]:
    """Files of the checkout that git has or would take."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted({name for name in done.stdout.splitlines() if (ROOT / name).is_file()})


def pip(*words: str | Path) -> None:
    """pip without an index, and without the user's settings."""
    argv = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy without git, as from a tarball."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source)
    (path,) = built.glob("hyperscaler-*.whl")
    return path


def closure(names: Iterator[str] | list[str]) -> dict[str, metadata.Distribution]:
    """The distributions of this environment that these requirements bring in, without extras."""
    found: dict[str, metadata.Distribution] = {}
    pending = [Requirement(name) for name in names]
    while pending:
        requirement = pending.pop()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name.lower() not in found:
            distribution = metadata.distribution(requirement.name)
            found[requirement.name.lower()] = distribution
            pending += [Requirement(text) for text in distribution.requires or ()]
    return found


def link(distribution: metadata.Distribution, site: Path) -> None:
    """Make a distribution of this environment importable from another's site-packages."""
    for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (site / name).exists():
            (site / name).symlink_to(distribution.locate_file(name))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def laptop(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel as `pip install hyperscaler` leaves it."""
    root = tmp_path_factory.mktemp("laptop")
    venv.create(root, with_pip=False, symlinks=True)
    (site,) = root.glob("lib/python*/site-packages")
    for distribution in closure(PROJECT["dependencies"]).values():
        link(distribution, site)
    pip("--python", root / "bin" / "python", "install", "--quiet", "--no-index", "--no-deps", wheel)
    return root


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory that is no checkout, with a user's own copies of lab files."""
    demo = (ROOT / "config" / "demo.yaml").read_text()
    assert "uri: auto" in demo
    (tmp_path / "lab.yaml").write_text(demo)
    (tmp_path / "on-the-hosts-libvirt.yaml").write_text(demo.replace("uri: auto", "uri: qemu:///system"))
    return tmp_path


def call(laptop: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, with no way back to the checkout or to another environment."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "HYPERSCALER_HOME": str(cwd / "home"), "LANG": "C.UTF-8"}
    argv = [str(laptop / "bin" / "hyperscaler"), *words]
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_the_environment_is_bare(laptop: Path, elsewhere: Path) -> None:
    """Or the other tests here would prove nothing."""
    program = (
        "import importlib.util as u; print([n for n in ('libvirt', 'ansible', 'ansible_runner') if u.find_spec(n)])"
    )
    where = "import emulator; print(emulator.__file__)"
    python = laptop / "bin" / "python"
    shown = [
        subprocess.run([python, "-c", text], cwd=elsewhere, env={}, capture_output=True, text=True, check=True).stdout
        for text in (program, where)
    ]
    assert shown[0] == "[]\n"
    assert shown[1].startswith(f"{laptop}/lib/")


def test_a_wheel_carries_all_data_and_nothing_else_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        executable = {item.filename for item in archive.infolist() if item.external_attr >> 16 & 0o100}
    expected = {f"emulator/data/{name}" for name in tracked() if DATA.fullmatch(name)}
    assert {name for name in names if name.startswith("emulator/data/")} == expected
    code = {name for name in tracked() if name.startswith("emulator/")} | {"emulator/core/_version.py"}
    assert {name for name in names - expected if ".dist-info/" not in name} == code
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    run_by_hosts = {
        f"emulator/data/{name}" for name in tracked() if DATA.fullmatch(name) and os.access(ROOT / name, os.X_OK)
    }
    assert executable & expected == run_by_hosts


def test_a_tree_without_git_has_a_version(laptop: Path, elsewhere: Path) -> None:
    done = call(laptop, elsewhere, "--version")
    assert done.stdout == "hyperscaler, version 0.2.0.dev0\n"


def test_validate(laptop: Path, elsewhere: Path) -> None:
    done = call(laptop, elsewhere, "validate", "lab.yaml")
    assert done.returncode == 0, done.stderr
    text = (elsewhere / "lab.yaml").read_text()
    (elsewhere / "lab.yaml").write_text(text.replace("memory_gb", "memory_bg", 1))
    done = call(laptop, elsewhere, "validate", "lab.yaml")
    assert done.returncode == 3
    assert "memory_bg" in done.stderr


def test_gpu_plan(laptop: Path, elsewhere: Path) -> None:
    done = call(laptop, elsewhere, "gpu", "plan", "lab.yaml")
    assert done.returncode == 0, done.stderr
    assert "1g.10gb" in done.stdout
    asked = ("--gpu", "A100-SXM4-80GB", "--demand", "1g.10gb=4,3g.40gb=1", "--json")
    done = call(laptop, elsewhere, "gpu", "plan", *asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 1


def test_plan_and_status(laptop: Path, elsewhere: Path) -> None:
    done = call(laptop, elsewhere, "plan", "lab.yaml", "--json")
    assert done.returncode in (0, 5), done.stderr  # 5: this machine is too small for the demo
    assert {change["action"] for change in json.loads(done.stdout)["changes"]} == {"create"}
    done = call(laptop, elsewhere, "status")
    assert (done.returncode, done.stderr) == (0, "")


def test_data_are_files_that_other_programs_can_read(laptop: Path, elsewhere: Path) -> None:
    program = "from emulator.core.data_files import share_dir; print(share_dir())"
    argv = [str(laptop / "bin" / "python"), "-c", program]
    share = Path(subprocess.run(argv, cwd=elsewhere, env={}, capture_output=True, text=True, check=True).stdout.strip())
    assert share.is_relative_to(laptop)
    for name in ("playbooks/playbook-hpc.yml", "playbooks/ansible.cfg", "packer/image.pkr.hcl", "config/demo.yaml"):
        assert (share / name).read_text() == (ROOT / name).read_text()


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("provision", "lab.yaml", "--yes"), "ansible-core, ansible-runner, libvirt-python, which are not installed"),
        (("configure", "lab.yaml"), "ansible-core, ansible-runner, libvirt-python, which are not installed"),
        (("verify", "lab"), "ansible-core, ansible-runner, libvirt-python, which are not installed"),
        (("plan", "on-the-hosts-libvirt.yaml"), "libvirt-python, which is not installed"),
    ],
)
def test_a_verb_that_needs_a_host_says_so_in_one_error(
    laptop: Path, elsewhere: Path, words: tuple[str, ...], missing: str
) -> None:
    done = call(laptop, elsewhere, *words)
    assert done.returncode == 4
    assert missing in done.stderr
    assert done.stderr.count("error:") == 1
    assert "fix: pip install 'hyperscaler[host]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (elsewhere / "home").exists(), "nothing was begun"
    done = call(laptop, elsewhere, *words, "--json")
    assert json.loads(done.stdout)["error"]["exit_code"] == 4


def test_help_needs_nothing(laptop: Path, elsewhere: Path) -> None:
    done = call(laptop, elsewhere, "provision", "--help")
    assert done.returncode == 0
    assert "Usage: hyperscaler provision" in done.stdout
