"""A reporter that keeps the warnings."""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.core.progress import SilentReporter


@dataclass
class RecordingReporter(SilentReporter):
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
