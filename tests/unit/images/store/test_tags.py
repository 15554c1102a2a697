"""Which build is used: rollback, tags, and what of it survives a crash or a garbage collection."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from emulator.core.errors import ConflictError, StateError, UsageError
from emulator.core.fs import replace_link
from emulator.images import lab_images
from emulator.images.build.builder import BuildPhase
from emulator.images.lab_images import LabImages
from emulator.images.recipe import load_recipe
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.refs import Reference, parse_reference
from emulator.images.store.store import ImageStore
from emulator.images.store.tags import rollback, tag_image, untag_image
from tests.support.build_tools import BuildTools


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


def build(store: ImageStore, tools: BuildTools, payload: bytes) -> GoldenImage:
    tools.payload = payload
    return store.build("demo", progress=quiet, force=True)


def now(store: ImageStore) -> str:
    image = store.current("demo")
    assert image is not None
    return image.digest


# ------------------------------------------------------------ rollback
def test_a_rollback_goes_back_and_a_second_one_returns(store: ImageStore, tools: BuildTools) -> None:
    first, second = build(store, tools, b"1"), build(store, tools, b"2")
    assert rollback(store, "demo") == first
    assert now(store) == first.digest
    assert rollback(store, "demo") == second
    assert now(store) == second.digest
    assert rollback(store, "demo") == first


def test_after_three_builds_the_way_back_is_to_the_second(store: ImageStore, tools: BuildTools) -> None:
    _, second, third = (build(store, tools, text) for text in (b"1", b"2", b"3"))
    assert rollback(store, "demo") == second
    assert rollback(store, "demo") == third


def test_an_image_that_somebody_went_back_to_is_not_built_over(
    store: ImageStore, tools: BuildTools, recipes: Path
) -> None:
    first = build(store, tools, b"1")
    (recipes / "files" / "common" / "etc" / "fstab").write_text("the new recipe\n")
    assert store.needs_build("demo") == "its recipe has changed"
    second = build(store, tools, b"2")
    rollback(store, "demo")
    assert store.needs_build("demo") is None, "a lab takes the image that was chosen"
    assert store.needs_build("demo", held=False) == "its recipe has changed"
    tools.payload = b"3"
    third = store.build("demo", progress=quiet)
    assert third.digest not in (first.digest, second.digest), "a build asked for is made"
    (recipes / "files" / "common" / "etc" / "fstab").write_text("newer still\n")
    assert store.needs_build("demo") == "its recipe has changed", "nothing is held after a build"


def test_a_rollback_taken_back_holds_nothing(store: ImageStore, tools: BuildTools, recipes: Path) -> None:
    build(store, tools, b"1")
    build(store, tools, b"2")
    rollback(store, "demo")
    rollback(store, "demo")
    (recipes / "files" / "common" / "etc" / "fstab").write_text("the new recipe\n")
    assert store.needs_build("demo") == "its recipe has changed"


def test_there_is_nothing_to_go_back_to(store: ImageStore, tools: BuildTools) -> None:
    with pytest.raises(UsageError, match="there is no image 'demo'"):
        rollback(store, "demo")
    build(store, tools, b"1")
    with pytest.raises(UsageError, match="only one build of demo"):
        rollback(store, "demo")
    with pytest.raises(UsageError, match="cannot be the name"):
        rollback(store, "../demo")


def test_a_rollback_to_a_damaged_image_changes_nothing(store: ImageStore, tools: BuildTools) -> None:
    first, second = build(store, tools, b"1"), build(store, tools, b"2")
    path = first.directory / "manifest.json"
    path.chmod(0o644)
    path.write_text("{")
    with pytest.raises(StateError):
        rollback(store, "demo")
    assert now(store) == second.digest


def test_wherever_a_rollback_is_cut_short_the_next_one_arrives(
    store: ImageStore, tools: BuildTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = build(store, tools, b"1"), build(store, tools, b"2")
    real = replace_link
    for steps in range(3):
        left = steps

        def replace(path: Path, target: str) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            real(path, target)

        monkeypatch.setattr("emulator.images.store.pointers.replace_link", replace)
        with pytest.raises(KeyboardInterrupt):
            rollback(store, "demo")
        monkeypatch.undo()
        assert now(store) == second.digest, f"after {steps} steps nothing has changed for a lab"
        assert rollback(store, "demo") == first
        assert rollback(store, "demo") == second


def test_a_rollback_beside_a_build_is_refused(store: ImageStore, tools: BuildTools) -> None:
    build(store, tools, b"1")
    build(store, tools, b"2")
    with store.locked("demo"), pytest.raises(ConflictError, match="by another process"):
        rollback(store, "demo")


# ------------------------------------------------------------ tags
def test_a_tag_names_a_build_and_moves(store: ImageStore, tools: BuildTools) -> None:
    first, second = build(store, tools, b"1"), build(store, tools, b"2")
    assert tag_image(store, first.digest[:8], "v1") == first
    tag_image(store, "demo", "2026.1")
    assert store.show("demo:v1") == first
    assert store.show("demo:2026.1") == second == store.show(f"demo@{second.digest[:8]}")
    assert store.pointers("demo").tags() == {"v1": first.digest[:12], "2026.1": second.digest[:12]}
    tag_image(store, "demo", "v1")
    assert store.show("demo:v1") == second
    untag_image(store, "demo:v1")
    assert store.current("demo:v1") is None
    with pytest.raises(UsageError, match="has no tag 'v1'"):
        untag_image(store, "demo:v1")


@pytest.mark.parametrize("tag", ["", "..", "a/b", "V1", "a" * 64, ".work-pointer", "-x"])
def test_what_cannot_be_a_tag(store: ImageStore, tools: BuildTools, tag: str) -> None:
    build(store, tools, b"1")
    with pytest.raises(UsageError, match="cannot be a tag"):
        tag_image(store, "demo", tag)


@pytest.mark.parametrize("target", ["/etc", "../../etc", "0123456789ab/..", "../0123456789ab/x"])
def test_a_pointer_that_leads_elsewhere_is_none(store: ImageStore, tools: BuildTools, target: str) -> None:
    image = build(store, tools, b"1")
    tag_image(store, "demo", "v1")
    for path in (image.directory.parent / "tags" / "v1", image.directory.parent / "current"):
        path.unlink()
        path.symlink_to(target)
    assert store.current("demo:v1") is None
    assert store.current("demo") is None


def test_a_lab_with_a_tag_gets_that_build_whatever_the_recipe_says(
    store: ImageStore, tools: BuildTools, recipes: Path
) -> None:
    first = build(store, tools, b"1")
    build(store, tools, b"2")
    tag_image(store, first.digest, "v1")
    labs = LabImages(store)
    (recipes / "files" / "common" / "etc" / "fstab").write_text("the new recipe\n")
    assert labs.needs_build("demo:v1") is None
    assert labs.current("demo:v1") == first
    assert labs.needs_build(f"demo@{first.digest}") is None
    assert labs.needs_build("demo:v2") == "there is no such build in the store"
    with pytest.raises(UsageError, match="there is no image 'demo:v2' in the store"):
        labs.build("demo:v2", progress=lambda line: None)


@pytest.fixture
def labs(store: ImageStore, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> LabImages:
    monkeypatch.setattr(lab_images, "load_recipe", lambda name: load_recipe(name, recipes))
    return LabImages(store)


def test_a_labs_disks_are_made_from_what_its_plan_looked_at(
    store: ImageStore, tools: BuildTools, labs: LabImages
) -> None:
    """Another lab, with another Kubernetes, has an image of the same name built in the meantime."""
    first = build(store, tools, b"1")
    assert labs.needs_build("demo") is None
    second = build(store, tools, b"2")
    assert labs.current("demo") == first
    assert LabImages(store).current("demo") == second
    # Looking again is another plan.
    assert labs.needs_build("demo") is None
    assert labs.current("demo") == second


def test_an_image_is_known_by_every_path_to_the_store(store: ImageStore, labs: LabImages, tmp_path: Path) -> None:
    image = labs.build("demo", progress=lambda _line: None)
    (tmp_path / "link").symlink_to(store.root)
    inside = image.disk.relative_to(store.root)
    assert labs.owning(image.disk) == labs.owning(tmp_path / "link" / inside) == image
    shutil.copytree(store.root, tmp_path / "copy")
    assert labs.owning(tmp_path / "copy" / inside) is None
    assert labs.owning(image.kernel) is None


def test_a_labs_disks_are_made_from_what_was_built_for_it(
    store: ImageStore, tools: BuildTools, labs: LabImages
) -> None:
    assert labs.needs_build("demo") == "not built yet"
    first = labs.build("demo", progress=lambda line: None)
    build(store, tools, b"2")
    assert labs.current("demo") == first
    store.remove(first.digest, lambda: [])
    assert labs.current("demo") is None, "another's is not taken instead"


def test_an_image_that_comes_while_a_plan_looks_is_looked_at_too(
    store: ImageStore, tools: BuildTools, labs: LabImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(store, tools, b"1")
    look, looked = store.needs_build, list[GoldenImage]()

    def needs_build(*arguments: Any, **options: Any) -> str | None:
        answer = look(*arguments, **options)
        if not looked:
            looked.append(build(store, tools, b"2"))
        return answer

    monkeypatch.setattr(store, "needs_build", needs_build)
    assert labs.needs_build("demo") is None
    assert labs.current("demo") == looked[0] != first


def test_a_digest_that_only_begins_like_the_directory_is_another_image(store: ImageStore, tools: BuildTools) -> None:
    image = build(store, tools, b"1")
    other = image.digest[:12] + "".join("0" if digit != "0" else "1" for digit in image.digest[12:])
    assert store.current(f"demo@{other}") is None


def test_references() -> None:
    assert parse_reference("hpc-base") == Reference("hpc-base")
    assert parse_reference("hpc-base:v1.2") == Reference("hpc-base", tag="v1.2")
    assert parse_reference("hpc-base@0123abcd") == Reference("hpc-base", digest="0123abcd")
    for text in ("", "a b", "hpc-base:", "hpc-base@", "hpc-base@xyz", "hpc-base:a@0123abcd", "../x", "a:b/c", "a\n"):
        assert parse_reference(text) is None


# ------------------------------------------------------------ what stays
def test_gc_leaves_what_was_chosen_and_removes_it_when_asked(store: ImageStore, tools: BuildTools) -> None:
    tagged, plain, previous, current = (build(store, tools, str(index).encode()) for index in range(4))
    tag_image(store, tagged.digest, "v1")
    assert [image.digest for image in store.gc(list, keep=0)] == [plain.digest]
    rollback(store, "demo")
    assert store.gc(list, keep=0) == (), "the image that a second rollback returns to stays"
    assert {image.digest for image in store.gc(list, keep=0, chosen=True)} == {tagged.digest, current.digest}
    assert now(store) == previous.digest
    assert store.pointers("demo").tags() == {}


def test_a_removed_image_takes_its_tags_along(store: ImageStore, tools: BuildTools) -> None:
    first = build(store, tools, b"1")
    build(store, tools, b"2")
    tag_image(store, first.digest, "v1")
    store.remove("demo:v1", list)
    assert store.current("demo:v1") is None
    assert not list((store.root / "demo" / "tags").iterdir())
    with pytest.raises(UsageError, match="only one build"):
        rollback(store, "demo")
