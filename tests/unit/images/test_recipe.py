"""Recipes: layering, faults, and what their digest depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.debian.releases import RELEASED_IMAGES, Release, image_of
from emulator.core.errors import ConfigError, UsageError
from emulator.images.recipe import load_recipe, recipe_names


def test_lists_of_a_recipe_come_after_those_it_extends(recipes: Path) -> None:
    recipe = load_recipe("demo", recipes)
    assert recipe.packages == ("systemd", "udev", "munge")
    assert recipe.mask == ("apt-daily.timer",)
    assert recipe.disable == ("munge.service",)
    assert recipe.modules == ("virtio_blk", "ext4")
    assert recipe.cmdline == ("root=/dev/vda", "rw")
    assert recipe.suite == "bookworm"


def test_a_package_named_twice_is_installed_once(recipes: Path) -> None:
    (recipes / "demo.yaml").write_text("version: 1\nextends: common\npackages: [udev, munge]\n")
    assert load_recipe("demo", recipes).packages == ("systemd", "udev", "munge")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("version: 2\nextends: common\n", "demo.yaml: version: must be 1"),
        ("version: 1\nextends: common\npakages: [a]\n", "demo.yaml: pakages: unknown key"),
        ("version: 1\nextends: common\npackages: munge\n", "demo.yaml: packages: must be a list"),
        ("version: 1\nextends: common\npackages: ['munge; reboot']\n", "packages[0]: 'munge; reboot' cannot be used"),
        ("version: 1\nextends: common\npackages: ['-oAPT::x']\n", "packages[0]: '-oAPT::x' cannot be used"),
        ("version: 1\nextends: common\nremove: ['/etc/$(id)']\n", "remove[0]: '/etc/$(id)' cannot be used"),
        ("version: 1\nextends: common\nremove: ['/etc/../usr']\n", "'/etc/../usr': must name something below"),
        ("version: 1\nextends: common\nremove: ['/usr']\n", "'/usr': must name something below"),
        ("version: 1\nextends: common\nmask: ['a b.service']\n", "mask[0]: 'a b.service' cannot be used"),
        ("version: 1\nextends: common\nfiles: [../secrets]\n", "files: '../secrets' is no directory next to"),
        ("version: 1\nextends: common\nfree_mib: -1\n", "free_mib: must be a whole number of MiB"),
        ("version: 1\nextends: common\nfree_mib: true\n", "free_mib: must be a whole number of MiB"),
        ("version: 1\nextends: common\nsuite: ''\n", "suite: is missing"),
        ("version: 1\nextends: common\nname: other\n", "name: must be 'demo', the name of the file"),
        ("version: 1\nextends: common\ninitrd: {hooks: []}\n", "initrd: must be a mapping with init and modules"),
        ("version: 1\nextends: common\nsymlinks: {/etc/x: 3}\n", "symlinks: '/etc/x' -> 3 cannot be used here"),
        ("version: 1\nextends: common\ncmdline: ['a b']\n", "cmdline[0]: 'a b' cannot be used"),
    ],
)
def test_a_fault_is_named_with_its_place(recipes: Path, text: str, fault: str) -> None:
    (recipes / "demo.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe("demo", recipes)
    assert fault in caught.value.what
    assert caught.value.where == str(recipes / "demo.yaml")


def test_all_faults_are_reported_at_once(recipes: Path) -> None:
    (recipes / "demo.yaml").write_text("version: 1\nextends: common\nfoo: 1\npackages: [A]\nfree_mib: x\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe("demo", recipes)
    assert caught.value.what.count("\n    ") == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: [\n", "not readable as YAML"),
        ("- a\n", "must be a mapping"),
        ("version: 1\nextends: ../../etc/passwd\n", "there is no recipe '../../etc/passwd'"),
        ("version: 1\nextends: demo\n", "extend each other in a circle"),
        ("x: " + "y" * 300_000, "larger than 262144 bytes"),
    ],
)
def test_an_unreadable_recipe_is_refused(recipes: Path, text: str, message: str) -> None:
    (recipes / "demo.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe("demo", recipes)


@pytest.mark.parametrize("name", ["nothing", "../demo", "", "Demo", "/etc/passwd"])
def test_an_unknown_name_lists_the_known_ones(recipes: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(name, recipes)
    assert caught.value.fix == "known recipes: demo"


def test_the_digest_follows_lists_files_and_modes_but_not_places(recipes: Path, tmp_path: Path) -> None:
    def digest() -> str:
        return load_recipe("demo", recipes).digest(builder_version="1")

    first = digest()
    assert digest() == first
    moved = tmp_path / "elsewhere"
    recipes.rename(moved)
    assert load_recipe("demo", moved).digest(builder_version="1") == first
    moved.rename(recipes)
    assert load_recipe("demo", recipes).digest(builder_version="2") != first
    fstab = recipes / "files" / "common" / "etc" / "fstab"
    fstab.chmod(0o755)
    assert digest() != first
    fstab.chmod(0o600)  # the image gets 0644 whatever the checkout's umask was
    assert digest() == first
    fstab.write_text("changed\n")
    second = digest()
    assert second != first
    (recipes / "files" / "init").write_text("changed\n")
    assert digest() not in (first, second)


RELEASED = """\
version: 1
extends: common
packages: [munge]
remove: [/etc/munge/munge.key]
releases:
  trixie: {packages: [sackd], kernel: linux-image-amd64}
"""


def test_a_release_adds_to_lists_and_takes_the_place_of_single_values(recipes: Path) -> None:
    (recipes / "demo.yaml").write_text(RELEASED)
    common = recipes / "common.yaml"
    common.write_text(common.read_text() + "releases: {trixie: {suite: trixie, mask: [x.socket]}}\n")
    recipe = load_recipe("demo-trixie", recipes)
    assert (recipe.name, recipe.suite, recipe.kernel) == ("demo-trixie", "trixie", "linux-image-amd64")
    assert recipe.packages == ("systemd", "udev", "munge", "sackd")
    assert recipe.mask == ("apt-daily.timer", "x.socket")
    plain = load_recipe("demo", recipes)
    assert (plain.name, plain.suite, plain.kernel) == ("demo", "bookworm", "linux-image-cloud-amd64")
    assert plain.packages == ("systemd", "udev", "munge")
    assert recipe_names(recipes) == ("demo", "demo-trixie")
    with pytest.raises(UsageError) as caught:
        load_recipe("demo-forky", recipes)
    assert caught.value.fix == "known recipes: demo, demo-trixie"


def test_what_a_release_changes_leaves_the_image_without_a_release_as_it_is(recipes: Path) -> None:
    before = load_recipe("demo", recipes).digest(builder_version="1")
    common = recipes / "common.yaml"
    common.write_text(common.read_text() + "releases: {trixie: {suite: trixie, mask: [x.socket]}}\n")
    assert load_recipe("demo", recipes).digest(builder_version="1") == before
    assert load_recipe("demo-trixie", recipes).digest(builder_version="1") != before


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("releases: [trixie]\n", "demo.yaml: releases: must be a mapping of bookworm, trixie, forky"),
        ("releases: {sid: {}}\n", "demo.yaml: releases: must be a mapping of bookworm, trixie, forky"),
        ("releases: {trixie: []}\n", "demo.yaml: releases: trixie: must be a mapping of keys to values"),
        ("releases: {trixie: {pakages: []}}\n", "demo.yaml: releases: trixie: pakages: unknown key"),
        ("releases: {trixie: {name: other}}\n", "demo.yaml: releases: trixie: name: unknown key"),
        ("releases: {trixie: {releases: {}}}\n", "demo.yaml: releases: trixie: releases: unknown key"),
        ("releases: {trixie: {extends: common}}\n", "demo.yaml: releases: trixie: extends: unknown key"),
    ],
)
def test_a_fault_in_a_release_is_one_of_the_recipe(recipes: Path, text: str, fault: str) -> None:
    (recipes / "demo.yaml").write_text(f"version: 1\nextends: common\n{text}")
    with pytest.raises(ConfigError) as caught:
        load_recipe("demo", recipes)
    assert fault in caught.value.what


def test_the_recipes_of_the_product_are_sound() -> None:
    assert "hpc-base" in recipe_names()
    for name in RELEASED_IMAGES:
        suites = [load_recipe(image_of(name, release)).suite for release in Release]
        assert suites == list(Release), "a name without a release is Debian 12's: labs stand on such images"
    for name in recipe_names():
        recipe = load_recipe(name)
        assert "openssh-server" in recipe.packages
        assert "/etc/ssh/ssh_host_*" in recipe.remove, "host keys must not be shared by all guests"
        assert "/etc/machine-id" in recipe.empty_files
        assert not set(recipe.enable) & set(recipe.mask)
        links = (*recipe.mask_files, *recipe.symlinks, *recipe.empty_files)
        assert len(set(links)) == len(links)
    assert "/etc/munge/munge.key" in load_recipe("hpc-base").remove
