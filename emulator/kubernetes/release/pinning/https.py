"""Requests that are made over TLS alone, also where a server sends them elsewhere."""

from __future__ import annotations

import functools
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import IO, Any

MAX_DOWNLOAD_BYTES = 16 * 1024 * 1024
_HERE = re.compile(r"127[.]0[.]0[.]1:[0-9]{1,5}")


def request_of(url: str, method: str, headers: Mapping[str, str] | None = None) -> urllib.request.Request:
    """Raises: ValueError for a URL that is neither of https nor on this machine."""
    parts = urllib.parse.urlsplit(url)
    # All of the place is compared: in http://127.0.0.1:80@elsewhere the address is the name of a user.
    if parts.scheme != "https" and not (parts.scheme == "http" and _HERE.fullmatch(parts.netloc)):
        raise ValueError(f"{url} is not fetched: only https is")
    named = {"User-Agent": "hyperscaler", **(headers or {})}
    return urllib.request.Request(url, method=method, headers=named)  # noqa: S310  checked


def open_https(request: urllib.request.Request, *, timeout: float) -> Any:
    """The reply to a request; the environment's proxies are used.

    Raises:
        OSError: no answer, or one that says no.
        ValueError: it leads to a URL that `request_of` refuses.
    """
    return _opener().open(request, timeout=timeout)


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows none that leaves TLS, and takes no token to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        request_of(newurl, "GET")
        if req.type == "https" and not newurl.startswith("https://"):
            raise ValueError(f"{newurl} is not fetched: only https is")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            made.remove_header("Authorization")
        return made
