"""The port by which people are notified of what nobody watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """`subject` is one line, `text` several; `data` is for programs."""

    subject: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Notifier(Protocol):
    """One way to notify people."""

    @property
    def name(self) -> str:
        """For messages: `mail to ...`, without any secret."""
        ...

    def send(self, message: Message) -> None:
        """Raises: HyperscalerError when the other side does not take it; says why, without any secret."""
        ...
