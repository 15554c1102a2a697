"""Software bill of materials of an image, as SPDX 2.3 JSON, from the database of its package manager."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

SBOM_NAME = "sbom.spdx.json"

# One package per line of dpkg-query; the fields in the order of `Package`.
DPKG_FORMAT = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${Maintainer}\n"

# Debian's own rules for names and versions (Debian Policy, 5.6.1 and 5.6.12): nothing in them ends a line.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+:~-]*")
_SOURCE = re.compile(rf"built from source package (?P<name>{_NAME.pattern}) (?P<version>{_VERSION.pattern})")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package as dpkg knows it."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    maintainer: str


def parse_packages(listing: str) -> tuple[Package, ...]:
    """Packages from the output of dpkg-query with `DPKG_FORMAT`, sorted by name.

    Raises:
        ValueError: a line has another number of fields.
    """
    packages = []
    for line in listing.splitlines():
        name, version, architecture, source, source_version, maintainer = line.split("\t")
        packages.append(Package(name, version, architecture, source, source_version, maintainer))
    return tuple(sorted(packages, key=lambda package: (package.name, package.architecture)))


def spdx(
    image: str,
    packages: Iterable[Package],
    *,
    digest: str,
    suite: str,
    created: str,
    inputs: Mapping[str, str] | None = None,
) -> str:
    """The document's text.

    Args:
        image: name of the image.
        digest: of its artefacts, which names this document uniquely.
        suite: Debian's code name, for the package URLs.
        created: UTC, ISO 8601 ending in Z.
        inputs: trees in the image in addition to the packages, name to digest.

    Licences are not asserted: Debian's copyright files stay in the image under /usr/share/doc.
    """
    root = {
        "SPDXID": "SPDXRef-image",
        "name": image,
        "versionInfo": digest[:12],
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "OPERATING_SYSTEM",
    }
    members = [_package(package, suite) for package in packages]
    members += [_input(name, tree) for name, tree in sorted((inputs or {}).items())]
    contained = [
        {"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS", "relatedSpdxElement": item["SPDXID"]}
        for item in members
    ]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{image}-{digest[:12]}",
        "documentNamespace": f"https://hyperscaler.invalid/sbom/{image}/{digest}",
        "creationInfo": {"created": created, "creators": ["Tool: hyperscaler"]},
        "documentDescribes": ["SPDXRef-image"],
        "packages": [root, *members],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": "SPDXRef-image",
            },
            *contained,
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _package(package: Package, suite: str) -> dict[str, object]:
    # SPDX identifiers admit letters, digits, '.' and '-' only.
    identifier = re.sub(r"[^A-Za-z0-9.-]", lambda found: f"-{ord(found.group()):x}-", package.name)
    locator = (
        f"pkg:deb/debian/{quote(package.name, safe='')}@{quote(package.version, safe='')}"
        f"?arch={package.architecture}&distro={suite}"
    )
    return {
        "SPDXID": f"SPDXRef-deb-{identifier}-{package.architecture}",
        "name": package.name,
        "versionInfo": package.version,
        "supplier": f"Organization: {_supplier(package.maintainer)}",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "sourceInfo": f"built from source package {package.source} {package.source_version}",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": locator,
            }
        ],
    }


def _supplier(maintainer: str) -> str:
    """`Name (address)`, as SPDX writes what Debian writes as `Name <address>`."""
    return re.sub(r"\s*<([^<>]*)>\s*$", r" (\1)", maintainer)


def _input(name: str, digest: str) -> dict[str, object]:
    return {
        "SPDXID": f"SPDXRef-input-{name}",
        "name": name,
        "versionInfo": digest[:12],
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "comment": f"built or fetched on the host that built the image; SHA-256 of its tree: {digest}",
    }


def packages_of(document: str) -> tuple[Package, ...]:
    """The Debian packages of a document that `spdx` wrote; what it says of other things is left out.

    Raises:
        ValueError: it is no such document, or holds what cannot be a Debian package.
    """
    raw = json.loads(document)
    if not isinstance(raw, dict) or not isinstance(raw.get("packages"), list):
        raise ValueError("it has no list of packages")
    found = []
    for item in raw["packages"]:
        if not isinstance(item, dict) or not str(item.get("SPDXID")).startswith("SPDXRef-deb-"):
            continue
        source = _SOURCE.fullmatch(str(item.get("sourceInfo")))
        name, version = str(item.get("name")), str(item.get("versionInfo"))
        if source is None or not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
            raise ValueError(f"{name!r} is described in a way that no Debian package is")
        architecture = str(item["SPDXID"]).rpartition("-")[2]
        found.append(Package(name, version, architecture, source["name"], source["version"], ""))
    return tuple(found)
