"""Webhooks, posted to a real HTTP server on this host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from emulator.adapters.notify.webhook import Webhook
from emulator.core.errors import HyperscalerError
from emulator.core.ports.notifications import Message


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.taken: list[tuple[str, dict[str, str], Any]] = []
        self.status, self.location = 204, ""

    def url(self, path: str = "/hooks/1?x=y") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Post(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the test's stderr."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_a_message_arrives(server: Server) -> None:
    Webhook(server.url(), "t0ken").send(Message("failed", "why\x1b[2J", {"lab": "demo", "good": False}))
    ((path, headers, body),) = server.taken
    assert path == "/hooks/1?x=y"
    assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer t0ken", "application/json")
    assert body == {"subject": "failed", "text": "why\N{REPLACEMENT CHARACTER}[2J", "lab": "demo", "good": False}


def test_without_a_token_none_is_sent(server: Server) -> None:
    Webhook(server.url()).send(Message("a", "b"))
    assert "Authorization" not in server.taken[0][1]


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_refusal_is_told_without_secrets(server: Server, status: int) -> None:
    server.status = status
    hook = Webhook(server.url("/hooks/geheim"), "t0ken")
    with pytest.raises(HyperscalerError, match=f"it answered with status {status}") as caught:
        hook.send(Message("a", "b"))
    assert caught.value.where == "webhook at 127.0.0.1"
    for shown in (str(caught.value), repr(hook), hook.name):
        assert "geheim" not in shown and "t0ken" not in shown


def test_a_redirection_takes_the_token_nowhere(server: Server) -> None:
    server.status, server.location = 307, server.url("/elsewhere")
    with pytest.raises(HyperscalerError, match="status 307"):
        Webhook(server.url(), "t0ken").send(Message("a", "b"))
    assert [path for path, *_ in server.taken] == ["/hooks/1?x=y"]


def test_nobody_there_is_told() -> None:
    with pytest.raises(HyperscalerError, match=r"did not take the notification: .*refused"):
        Webhook("http://127.0.0.1:1/x").send(Message("a", "b"))
