"""Groups of verbs that import a verb only to run it, so that `--version` and `--help` cost next to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class VerbsGroup(click.Group):
    """Its help says what each verb does in one whole sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        verbs = {verb: self.get_command(ctx, verb) for verb in self.list_commands(ctx)}
        rows = [(verb, command.get_short_help_str(limit=1000)) for verb, command in verbs.items() if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class LazyGroup(VerbsGroup):
    """Knows its verbs by name.

    Args:
        verbs: verb -> `module` below `emulator.cli.commands` whose `command` it is, or `module:attribute`.
    """

    def __init__(self, *words: Any, verbs: Mapping[str, str], **options: Any) -> None:
        super().__init__(*words, **options)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self._verbs:
            return None
        module, _, name = self._verbs[cmd_name].partition(":")
        command = getattr(import_module(f"emulator.cli.commands.{module}"), name or "command")
        assert isinstance(command, click.Command)  # noqa: S101  a verb module without a command is a bug
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self._verbs:
            from difflib import get_close_matches

            close = get_close_matches(args[0], self._verbs, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" See {ctx.command_path} --help."
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)
