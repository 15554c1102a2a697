"""Software bill of materials of an image, as SPDX 2.3 JSON, from the database of its package manager."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

SBOM_NAME = "sbom.spdx.json"

# One package per line of dpkg-query; the fields in the order of `Package`.
DPKG_FORMAT = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${Maintainer}\n"


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


def spdx(image: str, packages: Iterable[Package], *, digest: str, suite: str, created: str) -> str:
    """The document's text.

    Args:
        image: name of the image.
        digest: of its artefacts, which names this document uniquely.
        suite: Debian's code name, for the package URLs.
        created: UTC, ISO 8601 ending in Z.

    Licences are not asserted: Debian's copyright files stay in the image under /usr/share/doc.
    """
    root = {
        "SPDXID": "SPDXRef-image",
        "name": image,
        "versionInfo": digest[:12],
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    }
    members = [_package(package, suite) for package in packages]
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
        "supplier": f"Organization: {package.maintainer}",
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
