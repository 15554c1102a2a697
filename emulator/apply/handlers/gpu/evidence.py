"""What an earlier or a failed step proves about something on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.apply.handler import Handle
from emulator.core.errors import HyperscalerError
from emulator.plan.model import Action, Recorded

if TYPE_CHECKING:
    from emulator.apply.handlers.gpu.host import GpuHost


def surely_absent(exists: Callable[[], bool]) -> bool:
    """Whether a call that reported an error left nothing behind. Only then may the claim on it be given up.

    A driver can report an error after doing what it was asked. A look that fails as well proves nothing.
    """
    try:
        return not exists()
    except HyperscalerError:
        return False


def settled_handle(record: Recorded | None) -> Handle:
    """The recorded handle; empty if a run may have begun to delete the resource.

    Such a run strikes out the claim once the thing is gone. What is found there without a claim may have been made by
    others since.
    """
    return record.handle if record is not None and record.open_action != Action.DELETE.value else {}


def made_in_this_boot(gpus: GpuHost, handle: Handle) -> bool:
    """Whether the thing was made since the host started. Older versions did not record the boot; they count as yes."""
    return bool(handle) and handle.get("boot", "") in ("", gpus.ledger.boot_id())
