"""`PacketFilter` on nft(8)."""

from __future__ import annotations

from emulator.adapters.system.nft_text import FAMILY, deletion, read_table, replacement
from emulator.adapters.system.process import command_error
from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.core.ports import Completed, ProcessRunner
from emulator.core.ports.packet_filter import FilterTable, FilterTableInfo

_TIMEOUT = 30.0

# nft's message (in the C locale) about a missing table. About a missing namespace `ip` complains, in other words.
_ABSENT = "Error: No such file or directory"
_NOT_ROOT = "Operation not permitted"


class NftPacketFilter:
    """nftables of one network namespace; `prefix` is the argv that enters it, empty for the host's own namespace."""

    def __init__(self, runner: ProcessRunner, prefix: tuple[str, ...] = ()) -> None:
        self._runner = runner
        self._prefix = prefix

    def table(self, name: str) -> FilterTableInfo | None:
        """See `PacketFilter.table`."""
        done = self._nft("-j", "list", "table", FAMILY, name)
        if done.returncode != 0 and done.stderr.startswith(_ABSENT):
            return None
        return read_table(name, self._checked(done).stdout)

    def replace(self, table: FilterTable) -> None:
        """See `PacketFilter.replace`."""
        self._checked(self._nft("-f", "-", stdin=replacement(table)))

    def delete(self, name: str) -> None:
        """See `PacketFilter.delete`."""
        done = self._nft("-f", "-", stdin=deletion(name))
        if done.returncode != 0 and "No such file or directory" in done.stderr and self.table(name) is None:
            return
        self._checked(done)

    def _nft(self, *words: str, stdin: str | None = None) -> Completed:
        return self._runner.run([*self._prefix, "nft", *words], timeout=_TIMEOUT, check=False, stdin=stdin)

    @staticmethod
    def _checked(done: Completed) -> Completed:
        if done.returncode == 0:
            return done
        error: HyperscalerError = command_error(done)
        if _NOT_ROOT in done.stderr:
            raise HostNotFitError(
                "only root can see and change the host's packet filter",
                where=error.where,
                fix="run the command with sudo, or set hypervisor.uri to embedded",
            )
        raise error
