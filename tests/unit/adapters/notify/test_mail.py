"""Mail, handed to a real SMTP server on this host."""

from __future__ import annotations

import email
import socketserver
import threading
from collections.abc import Iterator
from email.message import Message as Received

import pytest

from emulator.adapters.notify.mail import Mail
from emulator.core.errors import HyperscalerError
from emulator.core.ports.notifications import Message


class Server(socketserver.ThreadingTCPServer):
    """As much of RFC 5321 as a client needs; `refusal` answers the recipient."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.taken: list[Received] = []
        self.recipients: list[str] = []
        self.refusal = ""

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Session(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline():
            word = line.decode().strip()
            match word.split(" ")[0].upper().split(":")[0]:
                case "EHLO" | "HELO" | "MAIL" | "RSET":
                    self._say("250 well")
                case "RCPT":
                    self.server.recipients.append(word)
                    self._say(self.server.refusal or "250 well")
                case "DATA":
                    self._say("354 go on")
                    self.server.taken.append(email.message_from_bytes(self._data()))
                    self._say("250 taken")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("502 unknown")

    def _data(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def mail(server: Server) -> Mail:
    return Mail("127.0.0.1", server.port, "none", "lab@example.org", ("ada@example.org", "bob@example.org"))


def test_a_message_arrives(server: Server) -> None:
    mail(server).send(Message("hyperscaler: failed", "why\n. a line with a dot\nümlaut\x1b[2J"))
    (taken,) = server.taken
    assert (taken["Subject"], taken["From"], taken["Auto-Submitted"]) == (
        "hyperscaler: failed",
        "lab@example.org",
        "auto-generated",
    )
    assert taken["To"] == "ada@example.org, bob@example.org"
    assert len(server.recipients) == 2
    text = taken.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert "ümlaut" in text.decode() and "\n. a line" in text.decode() and "\x1b" not in text.decode()


@pytest.mark.parametrize("subject", ["a\r\nBcc: eve@example.org", "a\nX: y\n\nbody", "\x00\x1b", "x" * 5000])
def test_no_subject_becomes_a_header_of_its_own(server: Server, subject: str) -> None:
    mail(server).send(Message(subject, "text"))
    (taken,) = server.taken
    assert set(taken.keys()) == {
        *("Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted"),
        *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
    }
    assert len(server.recipients) == 2
    assert len(taken["Subject"]) < 400


def test_a_refusal_is_told(server: Server) -> None:
    server.refusal = "550 nobody \x1b[31mhere"
    with pytest.raises(HyperscalerError, match=r"the mail was not taken: .*550") as caught:
        mail(server).send(Message("a", "b"))
    assert "\x1b" not in str(caught.value)
    assert caught.value.where == f"mail to ada@example.org, bob@example.org by 127.0.0.1:{server.port}"


def test_a_server_without_encryption_gets_no_password(server: Server) -> None:
    """STARTTLS is asked for first, and a server that has none ends it there."""
    careful = Mail("127.0.0.1", server.port, "starttls", "l@example.org", ("a@example.org",), "lab", "geheim")
    with pytest.raises(HyperscalerError, match="the mail was not taken") as caught:
        careful.send(Message("a", "b"))
    assert server.taken == []
    assert "geheim" not in str(caught.value) + repr(careful)


def test_nobody_there_is_told() -> None:
    with pytest.raises(HyperscalerError, match=r"the mail was not taken: .*refused"):
        Mail("127.0.0.1", 1, "none", "l@example.org", ("a@example.org",)).send(Message("a", "b"))
