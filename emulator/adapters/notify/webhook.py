"""Notification by a POST of JSON to an address of the web."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from emulator.core.errors import HyperscalerError
from emulator.core.ports.notifications import Message
from emulator.core.units import printable

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that takes JSON; `token` goes with it as a bearer token. The path may be a secret as well."""

    url: str = field(repr=False)
    token: str = field(default="", repr=False)
    trust: Callable[[], ssl.SSLContext] = ssl.create_default_context

    @property
    def name(self) -> str:
        return f"webhook at {urlsplit(self.url).hostname}"

    def send(self, message: Message) -> None:
        """Post the message. A redirection is not followed: it would take the token elsewhere.

        Raises:
            HyperscalerError: the other side cannot be reached, or does not answer with success.
        """
        body = json.dumps({"subject": printable(message.subject), "text": printable(message.text), **message.data})
        headers = {"Content-Type": "application/json", "User-Agent": "hyperscaler"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            status = self._post(body.encode(), headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._refused(printable(str(error) or type(error).__name__)[:300]) from None
        if not 200 <= status < 300:
            raise self._refused(f"it answered with status {status}")

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=SECONDS, context=self.trust())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=SECONDS)
        )
        try:
            connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _refused(self, why: str) -> HyperscalerError:
        return HyperscalerError(
            f"the webhook did not take the notification: {why}",
            where=self.name,
            fix="try the address by hand, and correct the [webhook] section of the notification file",
        )
