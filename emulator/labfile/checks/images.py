"""Checks of the nodes' Debian release."""

from __future__ import annotations

from emulator.core.debian.releases import RELEASES, Release, release_of
from emulator.labfile.draft import Draft
from emulator.labfile.model import ClusterKind


def check_images(draft: Draft) -> None:
    view, release = draft.root.child("images").child("release"), draft.file.images.release
    if release is None:
        return
    if RELEASES[release].testing:
        finished = [name for name, each in RELEASES.items() if not each.testing]
        view.warning(
            "images.testing",
            f"{RELEASES[release].title} changes from day to day, so that labs on it may fail",
            f"write {finished[-1]} for a release that is finished",
        )
    _check_package_sources(draft)


def _check_package_sources(draft: Draft) -> None:
    """Nodes of one release take no upgrades from the sources of another."""
    wanted = {release_of(draft.file.images.of(cluster)) for cluster in ClusterKind}
    if None in wanted:
        return
    sources = draft.root.child("security").child("apt_sources")
    for line in draft.file.security.apt_sources:
        named = _release_in(line)
        if named is not None and named not in wanted:
            sources.warning(
                "images.apt-suite",
                f"{line!r} is of {RELEASES[named].title}, and the nodes will have"
                f" {' and '.join(sorted(RELEASES[each].title for each in wanted if each))}",
                "name the suite of the nodes' release",
            )


def _release_in(line: str) -> Release | None:
    """The release in a line of sources.list by the beginning of its suite; None for any other suite."""
    words = line.split("]")[-1].split() if "[" in line.split("://")[0] else line.split()[1:]
    suite = words[1].partition("-")[0].partition("/")[0] if len(words) > 1 else ""
    return Release(suite) if suite in frozenset(Release) else None
