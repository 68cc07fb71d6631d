"""Access tokens: what looks like one is neither taken from a command line nor written into a run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vader_core.errors import VaderError

#: The hub's, OpenAI's and GitHub's tokens, and a password within an address.
_TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def without_tokens(text: str) -> str:
    """``text`` with stars in place of tokens.

    >>> without_tokens("--token hf_0123456789abcdef0123"), without_tokens("https://me:secret@host/x")
    ('--token ***', 'https://***@host/x')
    """
    return _TOKEN.sub("***", text)


def refuse_tokens(arguments: Sequence[str]) -> None:
    """Refuse a command line with a token in it.

    Raises:
        VaderError: Saying where tokens belong, without the token.
    """
    for argument in arguments:
        if _TOKEN.search(argument):
            raise VaderError(
                f"{without_tokens(argument)[:120]!r} holds a token or a password, which a command line shows "
                "to everybody and a run would keep: set it in the environment (HF_TOKEN for the hub)"
            )
