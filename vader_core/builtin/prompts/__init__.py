"""The core's prompt sources, and the words of ``--prompts``. Importing this package imports no torch."""

from vader_core.builtin.prompts.grammar import parse_prompts

__all__ = ["parse_prompts"]
