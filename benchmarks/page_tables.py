"""Tables of a page in docs/, each between its two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def write_tables(page: Path, tables: Mapping[str, Sequence[str]]) -> None:
    """Put each table's lines between ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Raises:
        SystemExit: The page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not begin or not end:
            raise SystemExit(f"{page}: no marks for the table {name!r}")
        text = "\n".join([before + begin, *lines, end + after])
    page.write_text(text, encoding="utf-8")
