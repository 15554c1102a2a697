"""What libvirt's descriptions of guests say of layers under their disks."""

from __future__ import annotations

from emulator.adapters.libvirt.ownership_xml import parse
from emulator.adapters.libvirt.saved_states import layers_of, without_layers

LIVE = """<domain><name>a</name><devices><disk type='file' device='disk'><source file='/top.qcow2'/>
<backingStore type='file'><format type='qcow2'/><source file='/mid.qcow2'/>
<backingStore type='file'><source file='/gold.qcow2'/><backingStore/></backingStore></backingStore></disk></devices>
</domain>"""


def test_layers_are_listed_from_the_uppermost_down() -> None:
    assert layers_of(LIVE) == ["/mid.qcow2", "/gold.qcow2"]
    assert layers_of("<domain><devices/></domain>") == []


def test_a_description_that_names_layers_loses_them_and_nothing_else() -> None:
    edited = without_layers(parse(LIVE, "domain"))
    assert edited is not None and "backingStore" not in edited
    assert "/top.qcow2" in edited and "<name>a</name>" in edited
    assert without_layers(parse(edited, "domain")) is None, "nothing is edited where nothing is named"
