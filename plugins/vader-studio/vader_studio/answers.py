"""Answers that hold any text: a folder's name need not be UTF-8."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse


class Json(JSONResponse):
    """JSON in ASCII alone, so that bytes of a name which are no UTF-8 come through."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def quoted(name: object) -> str:
    """A name as a part of an address, byte by byte.

    >>> quoted("a b/c")
    'a%20b%2Fc'
    """
    return quote(os.fsencode(str(name)), safe="")
