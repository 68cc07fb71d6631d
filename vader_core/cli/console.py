"""Where tables and lists are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Columns where nobody watches: a line stays a line, and can be searched.
_ENDLESS = 10_000


def console() -> Console:
    """The standard output; in a pipe or a file no line is broken."""
    from rich.console import Console

    found = Console(highlight=False)
    if not found.is_terminal:
        found.width = _ENDLESS
    return found
