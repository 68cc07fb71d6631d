"""``vader data``: a group whose further commands come from plugins, announced as ``data NAME``."""

from __future__ import annotations

import importlib

import click

from vader_core.errors import did_you_mean

#: Command of the group -> (module below this package, one line).
COMMANDS = {
    "scan": ("data_scan", "Write a table of a folder's clips: sizes, frames, rate, bad files."),
    "encode": ("data_encode", "Encode clips and captions beforehand, for --data cache:DIR."),
}


class DataGroup(click.Group):
    """The core's own commands, and the plugins' behind them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them."""
        return [*COMMANDS, *_announced()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name.

        Raises:
            click.UsageError: No such command, with the near one.
        """
        if cmd_name in COMMANDS:
            found: click.Command = importlib.import_module(f"vader_core.cli.{COMMANDS[cmd_name][0]}").command
            return found
        from vader_core.registry import load_registry

        commands = load_registry().commands
        if f"data {cmd_name}" in commands:
            resolved: click.Command = commands[f"data {cmd_name}"].resolve()
            return resolved
        names = self.list_commands(ctx)
        ctx.fail(
            f"no command 'data {cmd_name}'{did_you_mean(cmd_name, names)} (commands: {', '.join(names)})"
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their lines, without importing them."""
        with formatter.section("Commands"):
            lines = [(name, summary) for name, (_, summary) in COMMANDS.items()]
            formatter.write_dl([*lines, *_announced().items()])


def _announced() -> dict[str, str]:
    """The plugins' commands of this group, each with its line."""
    from vader_core.registry import load_registry

    found = load_registry().commands
    return {
        name.removeprefix("data "): announced.summary
        for name, announced in found.items()
        if name.startswith("data ")
    }


@click.group("data", cls=DataGroup)
def command() -> None:
    """Look at the clips that a model is to learn from."""
