"""Checks of the security settings."""

from __future__ import annotations

import re

from emulator.labfile.draft import Draft

# `user:password@` of an URL, as apt takes it.
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")


def check_security(draft: Draft) -> None:
    security, view = draft.file.security, draft.root.child("security")
    if security.unattended_upgrades and not security.apt_sources and view.child("apt_sources").complete:
        view.child("unattended_upgrades").error(
            "security.apt-sources",
            "upgrades need a package source, and the images name none",
            "add security.apt_sources with lines as in apt's sources.list",
        )
    if any(_PASSWORD.search(line) for line in security.apt_sources):
        view.child("apt_sources").warning(
            "security.apt-password",
            "a package source has a password in its address, which every user of the nodes can read there",
            "use a mirror that asks for none",
        )
