"""Registers the commands of ``vader data``; imports nothing heavy."""

from __future__ import annotations

from vader_core.hookspecs import RegisterCommand, hookimpl

#: Command of the group ``data``: (target, one line).
COMMANDS = {
    "cut": ("vader_data.cli.cut:command", "Cut footage at its scenes."),
    "score": ("vader_data.cli.table:score", "Score clips and reject what lies outside the bounds."),
    "caption": ("vader_data.cli.table:caption", "Caption the clips that are left."),
    "filter": ("vader_data.cli.table:filter_", "Apply other bounds to scores that are there."),
    "dedup": ("vader_data.cli.table:dedup", "Reject clips that are the same as another."),
    "export": ("vader_data.cli.table:export", "Write the kept clips for a trainer."),
    "report": ("vader_data.cli.table:report", "Write the page that shows what was kept and why."),
    "run": ("vader_data.cli.run:command", "All of it: from raw footage to a training table."),
}


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """Announces the commands, in the group that ``vader data scan`` and ``encode`` belong to."""
    for name, (target, summary) in COMMANDS.items():
        register(f"data {name}", target, summary=summary)
