"""Text of unknown origin, as a page can hold it."""

from __future__ import annotations

import re

#: Control characters, and halves of surrogate pairs: neither can stand in a web page.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    r"""``text`` with U+FFFD in place of what cannot stand in a page.

    >>> printable("a\x00b") == "a\ufffdb"
    True
    """
    return _UNPRINTABLE.sub("\ufffd", text)
