"""A registry on loopback that speaks enough of the OCI distribution API for its tags to be asked, and serves files."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"


def index_of(*digests: str) -> bytes:
    """A list of images for several architectures."""
    manifests = [{"mediaType": INDEX, "digest": digest, "size": 1} for digest in digests]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


@dataclass
class OciRegistry:
    """`tags` are manifests by `name:tag`, `files` other answers by path; `redirects` lead elsewhere. With a `token`
    nobody comes in without it."""

    url: str
    tags: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    token: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Path, accepted types and authorization of each request."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class _Handler(BaseHTTPRequestHandler):
    registry: OciRegistry

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        registry, parts = self.registry, urlsplit(self.path)
        authorization = self.headers.get("Authorization", "")
        registry.asked.append((parts.path, self.headers.get("Accept", ""), authorization))
        if parts.path in registry.redirects:
            self._answer(307, b"", Location=registry.redirects[parts.path])
        elif parts.path == "/token":
            scope = parse_qs(parts.query)["scope"][0]
            self._answer(200, json.dumps({"token": f"{registry.token}-for-{scope}"}).encode())
        elif parts.path in registry.files:
            self._answer(200, registry.files[parts.path])
        elif parts.path.startswith("/v2/"):
            self._manifest(parts.path, authorization)
        else:
            self._answer(404, b"")

    def _manifest(self, path: str, authorization: str) -> None:
        registry = self.registry
        name, _, tag = path.removeprefix("/v2/").partition("/manifests/")
        scope = f"repository:{name}:pull"
        if registry.token and authorization != f"Bearer {registry.token}-for-{scope}":
            challenge = f'Bearer realm="{registry.url}/token",service="loopback",scope="{scope}"'
            self._answer(401, b"", **{"WWW-Authenticate": challenge})
        elif f"{name}:{tag}" in registry.tags:
            self._answer(200, registry.tags[f"{name}:{tag}"], **{"Content-Type": INDEX})
        else:
            self._answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')

    def _answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)


@contextlib.contextmanager
def oci_registry() -> Iterator[OciRegistry]:
    """One that runs in a thread, for the block."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        registry = OciRegistry(f"http://127.0.0.1:{server.server_address[1]}")
        handler.registry = registry  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
