"""Flags that take one value and are given two: click would take the last without a word."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vader_core.errors import VaderError


def refuse_repeated(context: click.Context, command: click.Command, arguments: Sequence[str]) -> None:
    """Refuse a command line that gives such a flag twice.

    Raises:
        VaderError: Naming the flag and its values.
    """
    if isinstance(command, click.Group):
        known = bool(arguments) and arguments[0] in command.list_commands(context)
        inner = command.get_command(context, arguments[0]) if known else None
        if inner is not None:
            refuse_repeated(context, inner, arguments[1:])
        return
    takes = {
        name: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.is_flag
        for name in parameter.opts
    }
    given: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        parameter = takes.get(name)
        if parameter is None:
            continue
        if not equals:
            value = waiting.pop(0) if waiting else ""
        if parameter.multiple:
            continue
        own = str(parameter.name)
        if own in given:
            raise VaderError(f"{name} is given twice ({given[own]} and {value}): give it once")
        given[own] = value
