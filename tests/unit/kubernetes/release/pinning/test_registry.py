"""What a tag means now, asked of a registry on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from email.message import Message
from urllib.error import HTTPError

import pytest

from emulator.core.errors import HostNotFitError
from emulator.kubernetes.release.pinning import registry as module
from emulator.kubernetes.release.pinning.registry import manifest_digest
from tests.support.oci_registry import OciRegistry, index_of, oci_registry

PAUSE = index_of("sha256:" + "1" * 64)


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    with oci_registry() as made:
        made.tags["pause:3.10"] = PAUSE
        yield made


def asked(registry: OciRegistry, name: str) -> str:
    return manifest_digest(f"{registry.host}/{name}", insecure=True)


def test_the_digest_is_of_the_list_of_all_architectures(registry: OciRegistry) -> None:
    assert asked(registry, "pause:3.10") == f"sha256:{hashlib.sha256(PAUSE).hexdigest()}"
    ((path, accepted, authorization),) = registry.asked
    assert (path, authorization) == ("/v2/pause/manifests/3.10", "")
    for kind in ("oci.image.index", "docker.distribution.manifest.list", "oci.image.manifest", "manifest.v2"):
        assert kind in accepted


def test_a_name_with_slashes(registry: OciRegistry) -> None:
    registry.tags["coredns/coredns:v1.11.3"] = PAUSE
    assert asked(registry, "coredns/coredns:v1.11.3") == asked(registry, "pause:3.10")


def test_a_registry_that_gives_tokens_to_everybody(registry: OciRegistry) -> None:
    registry.token = "anonymous"
    assert asked(registry, "pause:3.10") == f"sha256:{hashlib.sha256(PAUSE).hexdigest()}"
    assert registry.asked[-1][2] == "Bearer anonymous-for-repository:pause:pull"


def test_a_registry_that_sends_elsewhere_gets_no_token_there(registry: OciRegistry) -> None:
    with oci_registry() as mirror:
        mirror.tags["pause:3.10"] = PAUSE
        registry.redirects["/v2/pause/manifests/3.10"] = f"{mirror.url}/v2/pause/manifests/3.10"
        assert asked(registry, "pause:3.10") == f"sha256:{hashlib.sha256(PAUSE).hexdigest()}"
        registry.token = "anonymous"
        registry.redirects["/token"] = f"{mirror.url}/token"
        del registry.redirects["/v2/pause/manifests/3.10"]
        with pytest.raises(HostNotFitError):
            asked(registry, "pause:3.10")
        assert all(authorization == "" for _, _, authorization in mirror.asked)


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/v2/x",
        "http://127.0.0.1:80@10.0.0.1/v2/x",
        "http://127.0.0.1:x@10.0.0.1:80/v2/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
    ],
)
def test_a_way_without_tls_is_not_followed(registry: OciRegistry, target: str) -> None:
    registry.redirects["/v2/pause/manifests/3.10"] = target
    with pytest.raises(HostNotFitError, match=r"only https is|is not allowed"):
        asked(registry, "pause:3.10")


@pytest.mark.parametrize("name", ["absent:1", "pause:3.11"])
def test_what_is_not_there_is_said(registry: OciRegistry, name: str) -> None:
    with pytest.raises(
        HostNotFitError, match=f"the registry does not say what {registry.host}/{name} is: .*404"
    ) as told:
        asked(registry, name)
    assert "bundle:PATH" in told.value.fix


def test_an_answer_without_end_is_not_read(registry: OciRegistry) -> None:
    registry.tags["pause:3.10"] = b" " * (16 * 1024 * 1024 + 1)
    with pytest.raises(HostNotFitError, match="larger than anything expected"):
        asked(registry, "pause:3.10")


@pytest.mark.parametrize("reply", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nHost: evil"}'])
def test_a_token_server_that_answers_nonsense(registry: OciRegistry, reply: bytes) -> None:
    registry.token = "anonymous"
    registry.files["/nonsense"] = reply
    registry.redirects["/token"] = f"{registry.url}/nonsense"
    with pytest.raises(HostNotFitError, match="the registry does not say"):
        asked(registry, "pause:3.10")


def test_other_registries_are_asked_over_tls_alone() -> None:
    with pytest.raises(HostNotFitError, match="only https is"):
        manifest_digest("registry.invalid/pause:3.10", insecure=True)


def test_a_registry_with_tls_leads_to_no_service_of_this_machine(
    registry: OciRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def challenge(url: str, headers: object, most: int) -> bytes:
        del headers, most
        if url.startswith("https://registry.invalid/"):
            message = Message()
            message["WWW-Authenticate"] = f'Bearer realm="{registry.url}/token",service="s"'
            raise HTTPError(url, 401, "no", message, None)
        raise AssertionError(f"asked {url}")

    monkeypatch.setattr(module, "_read", challenge)
    with pytest.raises(HostNotFitError, match="only https is"):
        manifest_digest("registry.invalid/pause:3.10")
    assert registry.asked == []
