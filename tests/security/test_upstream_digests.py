"""What upstream exchanges behind a name that was fetched before is refused, until an admin takes it on purpose."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from emulator.cli.main import cli
from emulator.core.errors import StateError, UsageError
from emulator.kubernetes.release.modules.node_runtime import NodeRuntime
from emulator.kubernetes.release.pinning.pins import ChangedError, Pin, Pins
from emulator.kubernetes.release.upstream import UpstreamFetch
from emulator.kubernetes.release.upstream_origin import Addon, Origin, fetch_manifest
from tests.support.fake_runner import FakeRunner
from tests.support.oci_registry import OciRegistry, index_of, oci_registry

FIRST, SECOND = index_of("sha256:" + "1" * 64), index_of("sha256:" + "2" * 64)
FIXED = "sha256:" + "3" * 64


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    """Upstream: two images by tag, and an add-on whose manifest names one of them and one by its digest."""
    with oci_registry() as made:
        made.tags = {"pause:3.10": FIRST, "flannel/flannel:v0.26.2": FIRST}
        made.files["/flannel.yaml"] = (
            f"image: {made.host}/flannel/flannel:v0.26.2\nimage: {made.host}/plugin:v1@{FIXED}\n".encode()
        )
        yield made


@pytest.fixture
def fetch(registry: OciRegistry, tmp_path: Path) -> UpstreamFetch:
    addons = {"flannel": Addon("v0.26.2", f"{registry.url}/flannel.yaml")}
    origin = Origin(registry.url, registry.url, "F" * 40, registry.host, addons, insecure=True)
    (tmp_path / "cache").mkdir()
    return UpstreamFetch(
        *(tmp_path / "cache", FakeRunner(), origin, ()),
        NodeRuntime(tmp_path / "cache", FakeRunner(), tmp_path),
        pins=Pins(tmp_path / "home" / "upstream-digests.json"),
    )


def sources(fetch: UpstreamFetch) -> dict[str, str]:
    """What is to be copied for a cluster with flannel: by the name on the nodes, what is asked for."""
    addon = fetch.origin.addons["flannel"]
    manifest = fetch_manifest(addon)
    pause = f"{fetch.origin.registry}/pause:3.10"
    return fetch._pinned({pause: pause, **manifest.images}, {addon.manifest: manifest})


def test_images_are_asked_for_by_the_digest_that_is_on_record(fetch: UpstreamFetch, registry: OciRegistry) -> None:
    host = registry.host
    expected = {
        f"{host}/pause:3.10": f"{host}/pause:3.10@{digest(FIRST)}",
        f"{host}/flannel/flannel:v0.26.2": f"{host}/flannel/flannel:v0.26.2@{digest(FIRST)}",
        f"{host}/plugin:v1": f"{host}/plugin:v1@{FIXED}",
    }
    assert sources(fetch) == expected
    assert sources(fetch) == expected, "the same is found again"
    assert fetch.pins is not None
    assert {name: pin.digest for name, pin in fetch.pins.read().items()} == {
        f"{host}/pause:3.10": digest(FIRST),
        f"{host}/flannel/flannel:v0.26.2": digest(FIRST),
        f"{registry.url}/flannel.yaml": digest(registry.files["/flannel.yaml"]),
    }
    assert (fetch.pins.path.stat().st_mode & 0o777) == 0o600


def test_an_exchanged_image_is_refused_and_taken_on_purpose(
    fetch: UpstreamFetch, registry: OciRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(fetch)
    assert fetch.pins is not None
    before = fetch.pins.path.read_bytes()
    registry.tags["pause:3.10"] = SECOND
    with pytest.raises(ChangedError) as told:
        sources(fetch)
    name = f"{registry.host}/pause:3.10"
    assert f"{name}: {digest(SECOND)} now, {digest(FIRST)} on 20" in told.value.what
    assert "flannel" not in told.value.what
    command = f"hyperscaler host accept-digest {name} {digest(SECOND)}"
    assert command in told.value.fix
    assert fetch.pins.path.read_bytes() == before

    monkeypatch.setenv("HYPERSCALER_HOME", str(fetch.pins.path.parent))
    result = CliRunner().invoke(cli, command.split()[1:])
    assert result.exit_code == 0, result.output
    assert f"{name} is {digest(SECOND)} from now on, and no longer {digest(FIRST)}" in result.output
    assert sources(fetch)[name] == f"{name}@{digest(SECOND)}"
    registry.tags["pause:3.10"] = FIRST
    with pytest.raises(ChangedError):
        sources(fetch)


def test_an_exchanged_manifest_is_refused(fetch: UpstreamFetch, registry: OciRegistry) -> None:
    old = registry.files["/flannel.yaml"]
    sources(fetch)
    registry.files["/flannel.yaml"] = new = old + b"# and a bit more\n"
    with pytest.raises(ChangedError) as told:
        sources(fetch)
    assert f"{registry.url}/flannel.yaml: {digest(new)} now, {digest(old)} on 20" in told.value.what


def test_all_changes_are_named_at_once_and_nothing_is_learnt_from_them(
    fetch: UpstreamFetch, registry: OciRegistry
) -> None:
    sources(fetch)
    registry.tags = dict.fromkeys(registry.tags, SECOND)
    addon = dataclasses.replace(fetch.origin.addons["flannel"], manifest=f"{registry.url}/new.yaml")
    registry.files["/new.yaml"] = b"kind: Namespace\n"
    manifest = fetch_manifest(addon)
    names = [f"{registry.host}/{name}" for name in ("pause:3.10", "flannel/flannel:v0.26.2")]
    with pytest.raises(ChangedError) as told:
        fetch._pinned({name: name for name in names}, {addon.manifest: manifest})
    assert all(name in told.value.what for name in names)
    assert fetch.pins is not None
    assert addon.manifest not in fetch.pins.read()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "pins": {}}',
        '{"format": 1, "pins": {"x": {"digest": "sha256:0", "since": "2026-01-01"}}}',
        '{"format": 1, "pins": {"\\u001b[2J": {"digest": "sha256:' + "0" * 64 + '", "since": "2026-01-01"}}}',
    ],
)
def test_a_damaged_record_holds_everything_up(tmp_path: Path, text: str) -> None:
    """An attacker who could damage it would otherwise be trusted anew."""
    path = tmp_path / "upstream-digests.json"
    path.write_text(text)
    with pytest.raises(StateError, match="the record of upstream's digests cannot be used"):
        Pins(path).require({"registry.invalid/pause:3.10": digest(FIRST)})
    assert path.read_text() == text


def test_only_what_is_on_record_is_accepted(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "upstream-digests.json")
    pins.require({"registry.invalid/pause:3.10": digest(FIRST)})
    for subject, new, why in (
        ("registry.invalid/other:1", digest(SECOND), "no digest of registry.invalid/other:1 on record"),
        ("registry.invalid/pause:3.10", "latest", "'latest' is no digest"),
    ):
        with pytest.raises(UsageError, match=why):
            pins.accept(subject, new)
    assert pins.accept("registry.invalid/pause:3.10", digest(FIRST)) is None
    old = pins.accept("registry.invalid/pause:3.10", digest(SECOND))
    assert isinstance(old, Pin)
    assert old.digest == digest(FIRST)
    assert json.loads(pins.path.read_text())["format"] == 1
