"""Registers ``vader studio``; imports nothing heavy."""

from __future__ import annotations

from vader_core.hookspecs import RegisterCommand, hookimpl


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """Announce the command."""
    register(
        "studio", "vader_studio.cli.studio:command", summary="Serve a page to generate, watch and compare."
    )
