"""The program's own files, whatever has befallen them: journal, GPU ledger, audit log, manifests, users, locks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.apply.audit import AuditLog
from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.handlers.gpu.gpu_instance import slices_of
from emulator.apply.journal import Journal, decode, encode
from emulator.apply.lock import holder_of
from emulator.apply.state import State, StateStore
from emulator.cli.render.history import history_text
from emulator.core.paths import Home
from emulator.credentials.users import AccessBook, parse_book, render_book
from emulator.images.store.manifest import read_manifest
from emulator.kubernetes.release.release import parse_manifest
from emulator.operations.history import history
from emulator.plan.resources import (
    DhcpReservation,
    Domain,
    HostdevRequest,
    Network,
    Resource,
    Volume,
    resource_from_json,
)
from tests.support.hostile_text import answered, as_bytes, changed, changed_json, json_values, words
from tests.support.random_examples import examples

UUID = "6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c11"
RESOURCES = (
    Volume(name="a", path="/x", image="hpc-base", size_gib=4),
    Network(
        name="hpc",
        uuid=UUID,
        bridge="virbr100",
        subnet="192.168.100.0/24",
        gateway="192.168.100.1",
        dns_domain="hpc.lab",
        hosts=(DhcpReservation(mac="52:54:00:00:00:01", ip="192.168.100.10", name="a"),),
        nat=False,
    ),
    Domain(
        name="a",
        uuid=UUID,
        node="a",
        vcpus=1,
        memory_mib=1024,
        mac="52:54:00:00:00:01",
        ip="192.168.100.10",
        network="network/hpc",
        volume="volume/a",
        console_log="/x.log",
        accelerated=False,
        hostdevs=(HostdevRequest(source="vgpu/a"),),
    ),
)


def step(kind: str, item: Resource) -> dict[str, object]:
    entry = {"v": 1, "at": 0, "type": kind, "run": "r", "boot": "b", "action": "create", "id": item.id}
    return {**entry, "resource": item.to_json(), "handle": {"path": "/x"}}


ENTRIES: list[dict[str, object]] = [
    {"v": 1, "at": 0, "type": "run", "run": "r", "boot": "b", "command": "provision"},
    {"v": 1, "at": 0, "type": "fact", "run": "r", "name": "hypervisor", "value": "embedded"},
    *(step(kind, item) for item in RESOURCES for kind in ("begin", "end")),
    {"v": 1, "at": 0, "type": "end", "run": "r", "boot": "b", "action": "delete", "id": "volume/a"},
    {"v": 1, "at": 0, "type": "fail", "run": "r", "action": "create", "id": "volume/a", "error": "no"},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "labs" / "demo").mkdir(parents=True)
    return Home(root)


def sound(state: State | None) -> None:
    """What the rest of the program takes for granted of a state."""
    if state is None:
        return
    for key, record in state.resources.items():
        assert record.resource.id == key
        assert record.resource.digest
        assert all(isinstance(need, str) for need in record.resource.needs)
        assert isinstance(record.boot_id, str)
        assert dict(record.handle) is not None
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in state.facts.items())


def read(home: Home, content: bytes) -> State:
    path = home.lab("demo").journal
    path.write_bytes(content)
    return StateStore(Journal(path), boot_id="b").state


@examples(30)
@given(st.binary(max_size=200))
def test_a_line_of_anything(line: bytes) -> None:
    entry, why = decode(line)
    assert (entry is None) == bool(why)


@examples(50)
@given(st.lists(changed_json(ENTRIES), min_size=1, max_size=4))
def test_entries_that_bear_a_checksum_and_are_odd_all_the_same(home: Home, entries: list[object]) -> None:
    lines = [encode(entry) for entry in entries if isinstance(entry, dict)]
    sound(answered(read, home, b"".join(lines)))


@examples(25)
@given(changed([b"".join(encode(entry) for entry in ENTRIES).decode()]))
def test_a_journal_with_letters_changed(home: Home, text: str) -> None:
    state = answered(read, home, as_bytes(text))
    assert state is not None, "what cannot be believed is damage, and no error"
    sound(state)


@examples(40)
@given(changed_json([item.to_json() for item in RESOURCES]))
def test_a_resource_read_back(data: object) -> None:
    made = answered(resource_from_json, data) if isinstance(data, dict) else None
    if made is not None:
        assert resource_from_json(json.loads(json.dumps(made.to_json()))) == made


@examples(25)
@given(
    changed_json(
        [{"version": 1, "owners": {"0000:41:00.0/1g.10gb@0": "demo", "0000:41:00.0/mig-mode": "demo", "x@²": "demo"}}]
    )
)
def test_the_gpu_ledger(home: Home, data: object) -> None:
    home.gpu_owners.write_text(json.dumps(data))
    ledger = GpuLedger(home.gpu_owners)
    owners = answered(ledger.read)
    if owners is not None:
        assert all(isinstance(key, str) and isinstance(owner, str) for key, owner in owners.items())
        answered(slices_of, type("GPUs", (), {"ledger": ledger})(), {"demo"})


@examples(25)
@given(st.binary(max_size=120) | changed(['{"version": 1, "owners": {}}']).map(as_bytes))
def test_a_gpu_ledger_of_anything(home: Home, content: bytes) -> None:
    home.gpu_owners.write_bytes(content)
    answered(GpuLedger(home.gpu_owners).read)


BEGIN = {
    "id": "r1",
    "version": 1,
    "time": "2026-11-26T10:00:00Z",
    "event": "begin",
    "lab": "demo",
    "command": "provision",
    "user": "root",
    "pid": 4,
    "started": "12",
    "boot": "b",
    "host": "h",
    "sudo_user": "ann",
}
END = {
    "id": "r1",
    "version": 1,
    "time": "2026-11-26T10:01:00Z",
    "event": "end",
    "result": "failed",
    "exit_code": 1,
    "error": "no room",
    "changes": [{"action": "create", "id": "domain/a"}],
    "seconds": 3.5,
    "person": "ann",
}


@examples(50)
@given(st.lists(changed_json([BEGIN, END]), min_size=1, max_size=4))
def test_audit_lines(home: Home, lines: list[object]) -> None:
    home.audit.write_text("\n".join(map(json.dumps, lines)) + "\n")
    told(home)


@examples(25)
@given(changed([json.dumps(BEGIN) + "\n" + json.dumps(END) + "\n"]))
def test_an_audit_log_with_letters_changed(home: Home, text: str) -> None:
    home.audit.write_bytes(as_bytes(text))
    told(home)


def told(home: Home) -> None:
    """The log is read, and what is shown of it can be printed and does nothing to a terminal."""
    answered(AuditLog(home.audit).read)
    found = answered(history, type("Environment", (), {"home": home})(), None, last=0)
    if found is None:
        return
    shown = history_text(found, None)
    shown.encode()
    assert all(line.isprintable() for line in shown.split("\n")), shown
    json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False).encode()


IMAGE = {
    "schema": 1,
    "name": "hpc-base",
    "digest": "0" * 64,
    "recipe_digest": "1" * 64,
    "builder_version": "1",
    "suite": "bookworm",
    "architecture": "amd64",
    "kernel_version": "6.1",
    "cmdline": ["root=/dev/vda"],
    "virtual_size": 1,
    "built_at": "now",
    "build_seconds": 1.5,
    "artefacts": {"disk.qcow2": {"sha256": "2" * 64, "size": 3}},
    "description": "",
    "packages": {"bash": "5"},
    "tools": {},
    "inputs": {},
}


@examples(30)
@given(changed_json([IMAGE]).map(json.dumps) | changed([json.dumps(IMAGE)]))
def test_an_image_s_manifest(home: Home, text: str) -> None:
    path = home.root / "manifest.json"
    path.write_bytes(as_bytes(text))
    made = answered(read_manifest, path)
    if made is not None:
        made.to_json().encode()
        assert all(isinstance(item.size, int) for item in made.artefacts.values())


RELEASE = {
    "format": 1,
    "version": "1.37.2",
    "architecture": "amd64",
    "origin": "x",
    "repository": "hyperscaler.invalid/kubernetes",
    "pause_image": "hyperscaler.invalid/pause:1",
    "cluster_dns": "hyperscaler.invalid/dns:1",
    "tools": "hyperscaler.invalid/tools:1",
    "images": [],
    "files": {"bin/kubeadm": {"sha256": "0" * 64, "size": 3}},
    "packages": {"a": "1"},
}


@examples(30)
@given(changed_json([RELEASE]).map(json.dumps) | changed([json.dumps(RELEASE)]))
def test_a_kubernetes_release_s_manifest(text: str) -> None:
    answered(parse_manifest, text, where="x")


KEY = "ssh-ed25519 " + "A" * 68


def book() -> bytes:
    from emulator.credentials.users import AccessRole

    return render_book(AccessBook().granted("ann", AccessRole.STUDENT, public_key=KEY, expires=5))


@examples(30)
@given(changed_json([json.loads(book())]).map(json.dumps) | changed([book().decode()]))
def test_the_book_of_users(text: str) -> None:
    made = answered(parse_book, as_bytes(text))
    if made is not None:
        assert parse_book(render_book(made)) == made


@examples(25)
@given(json_values.map(json.dumps) | words)
def test_a_lock_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "fuzz.lock"
    path.write_bytes(as_bytes(text))
    assert answered(holder_of, path) == "", "nobody holds it"


@pytest.mark.parametrize(
    "end",
    [
        {"error": "\ud800"},
        {"error": "\x1b]0;owned\x07\nsecond line"},
        {"seconds": 10**400},
        {"seconds": float("inf")},
        {"seconds": True, "exit_code": True},
        {"changes": [{"action": "\x1b[2J", "id": None}], "result": "\u202e"},
    ],
)
def test_audit_lines_that_were_seen_to_hurt(home: Home, end: dict[str, object]) -> None:
    home.audit.write_text(json.dumps(BEGIN) + "\n" + json.dumps({**END, **end}) + "\n")
    told(home)


def test_entries_that_were_seen_to_hurt(home: Home) -> None:
    """A good checksum does not make an entry whole; what is told is where the damage lies."""
    bad: list[dict[str, object]] = [
        {"v": 1, "at": 0, "type": "end", "action": "create", "id": "volume/a"},
        {"v": 1, "at": 0, "type": "begin", "action": "create", "resource": {**RESOURCES[1].to_json(), "hosts": [None]}},
        {"v": 1, "at": 0, "type": "fact", "name": "hypervisor", "value": None},
    ]
    good = ENTRIES[2:4]
    home.lab("demo").journal.write_bytes(b"".join(map(encode, [*bad, *good])))
    store = StateStore(Journal(home.lab("demo").journal), boot_id="b")
    assert [damage.line for damage in store.damage] == [1, 2, 3]
    assert set(store.state.resources) == {"volume/a"}
