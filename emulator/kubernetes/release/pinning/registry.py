"""What a tag of a registry means now: the digest of its manifest, by the OCI distribution specification's API."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

from emulator.core.errors import HostNotFitError
from emulator.kubernetes.release.pinning.https import MAX_DOWNLOAD_BYTES, open_https, request_of

_TIMEOUT = 60.0
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
# The registry behind the name that Docker's images have.
_HOSTS = {"docker.io": "registry-1.docker.io"}
_PARAMETER = re.compile(r'([a-z]+)="([^"]*)"')
_MOST_TOKEN_BYTES = 64 * 1024


def manifest_digest(reference: str, *, insecure: bool = False) -> str:
    """The digest of what the registry has under a full reference with a tag: of a list of images for several
    architectures where it is one. It is computed here, from what came, and so binds all that the manifest names.

    Args:
        reference: such as `registry.k8s.io/pause:3.10`.
        insecure: the registry, on this machine, has no TLS.

    Raises:
        HostNotFitError: the registry cannot be asked, or does not have it.
    """
    host, _, rest = reference.partition("/")
    name, _, tag = rest.rpartition(":")
    scheme = "http" if insecure else "https"
    url = f"{scheme}://{_HOSTS.get(host, host)}/v2/{name}/manifests/{tag}"
    try:
        data = _manifest(url)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HostNotFitError(
            f"the registry does not say what {reference} is: {error}",
            where=url,
            fix="check the way to the internet (https_proxy), or use source: bundle:PATH",
        ) from error
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _manifest(url: str) -> bytes:
    headers = {"Accept": _ACCEPT}
    try:
        return _read(url, headers, MAX_DOWNLOAD_BYTES)
    except urllib.error.HTTPError as error:
        challenge = error.headers.get("WWW-Authenticate", "")
        if error.code != 401 or not challenge.lower().startswith("bearer "):
            raise
    token = _token(challenge, secure=url.startswith("https://"))
    return _read(url, {**headers, "Authorization": f"Bearer {token}"}, MAX_DOWNLOAD_BYTES)


def _token(challenge: str, *, secure: bool) -> str:
    """What the registry's token server gives to everybody. A registry with TLS names one with TLS: services of this
    machine are none of its business."""
    wanted = dict(_PARAMETER.findall(challenge))
    if secure and not wanted["realm"].startswith("https://"):
        raise ValueError(f"the token server {wanted['realm']} is not asked: only https is")
    asked = {key: wanted[key] for key in ("service", "scope") if key in wanted}
    reply = json.loads(_read(f"{wanted['realm']}?{urllib.parse.urlencode(asked)}", {}, _MOST_TOKEN_BYTES))
    token = reply.get("token") or reply["access_token"]
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise ValueError("the token server gave no token")
    return token


def _read(url: str, headers: Mapping[str, str], most: int) -> bytes:
    with open_https(request_of(url, "GET", headers), timeout=_TIMEOUT) as reply:
        data: bytes = reply.read(most + 1)
    if len(data) > most:
        raise ValueError("the answer is larger than anything expected there")
    return data
