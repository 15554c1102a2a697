"""Checks of the security settings."""

from __future__ import annotations

from emulator.labfile.draft import Draft


def check_security(draft: Draft) -> None:
    security, view = draft.file.security, draft.root.child("security")
    if security.unattended_upgrades and not security.apt_sources and view.child("apt_sources").complete:
        view.child("unattended_upgrades").error(
            "security.apt-sources",
            "upgrades need a package source, and the images name none",
            "add security.apt_sources with lines as in apt's sources.list",
        )
