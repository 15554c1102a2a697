"""Our `<metadata>` element in libvirt's XML, the mark by which a lab recognises its own domains and networks.

Also contains the XML helpers that all libvirt documents need. Pure.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from uuid import UUID

from emulator.core.errors import HypervisorError
from emulator.core.ids import METADATA_URI
from emulator.core.ports import Ownership

# libvirt keeps one top-level element per XML namespace under <metadata>; its local name is free.
OWNER_TAG = f"{{{METADATA_URI}}}owner"
OWNER_PREFIX = "hyperscaler"

ET.register_namespace(OWNER_PREFIX, METADATA_URI)


def add_owner(parent: ET.Element, owner: Ownership) -> None:
    """Append `<metadata>` with our element to a `<domain>` or `<network>`."""
    metadata = ET.SubElement(parent, "metadata")
    marks = {"lab": owner.lab, "resource": owner.resource_id, "digest": owner.digest}
    ET.SubElement(metadata, OWNER_TAG, marks | ({"home": owner.home} if owner.home else {}))


def read_owner(root: ET.Element) -> Ownership | None:
    """The object's owner; None without our mark, or if the mark lacks the lab or the resource."""
    element = root.find(f"metadata/{OWNER_TAG}")
    if element is None:
        return None
    lab, resource = element.get("lab"), element.get("resource")
    if not lab or not resource:
        return None
    return Ownership(lab=lab, resource_id=resource, digest=element.get("digest", ""), home=element.get("home", ""))


def parse(text: str, kind: str) -> ET.Element:
    """The root of a document from libvirt; `kind` is its expected tag.

    Raises:
        HypervisorError: the text is not such a document.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314 - libvirt has parsed and written this text itself
    except (ET.ParseError, ValueError) as error:
        raise HypervisorError(f"libvirt reported a {kind} that is not XML: {error}") from error
    if root.tag != kind:
        raise HypervisorError(f"libvirt reported <{root.tag}> where a <{kind}> was expected")
    return root


def render(root: ET.Element) -> str:
    """The document as text, indented for logs."""
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def text_of(root: ET.Element, path: str) -> str:
    """The stripped text of the element at `path`, or an empty string."""
    return (root.findtext(path) or "").strip()


def uuid_of(root: ET.Element) -> UUID:
    """The object's UUID.

    Raises:
        HypervisorError: the object has none.
    """
    text = text_of(root, "uuid")
    try:
        return UUID(text)
    except ValueError:
        name = text_of(root, "name") or "without a name"
        raise HypervisorError(f"libvirt reported a {root.tag} {name} with the UUID {text!r}") from None
