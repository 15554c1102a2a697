"""Notification by mail, handed to an SMTP server."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from emulator.core.errors import HyperscalerError
from emulator.core.ports.notifications import Message
from emulator.core.units import printable

SECONDS = 60.0
"""For each answer of the server."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail server and who is written to.

    Attributes:
        security: `tls` from the first byte, `starttls`, or `none`, which `settings` lets through on this host alone.
        user, password: for the server; empty for one that asks for none.
        trust: makes the TLS context.
    """

    host: str
    port: int
    security: str
    sender: str
    recipients: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    trust: Callable[[], ssl.SSLContext] = ssl.create_default_context

    @property
    def name(self) -> str:
        return f"mail to {', '.join(self.recipients)} by {self.host}:{self.port}"

    def send(self, message: Message) -> None:
        """Hand the message to the server.

        Raises:
            HyperscalerError: it cannot be reached, or refuses.
        """
        try:
            with self._server() as server:
                if self.user:
                    server.login(self.user, self.password)
                server.send_message(_mail(message, self.sender, self.recipients))
        except (OSError, smtplib.SMTPException, ValueError) as error:
            # The server's answer is its own text; it never holds what was sent as the password.
            raise HyperscalerError(
                f"the mail was not taken: {printable(str(error))[:300]}",
                where=self.name,
                fix="try the server by hand, and correct the [mail] section of the notification file",
            ) from None

    @contextlib.contextmanager
    def _server(self) -> Iterator[smtplib.SMTP]:
        if self.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=SECONDS, context=self.trust())
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=SECONDS)
        with server:
            if self.security == "starttls":
                server.starttls(context=self.trust())
            yield server


def _mail(message: Message, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = " ".join(printable(message.subject).split())[:200]
    mail["From"], mail["To"] = sender, ", ".join(recipients)
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain=socket.gethostname() or "localhost")
    # No answer of a holiday's autoresponder (RFC 3834).
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(printable(message.text))
    return mail
