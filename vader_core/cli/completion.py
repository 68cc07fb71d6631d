"""What the shell completes: names of components and recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

Complete = Callable[["click.Context", "click.Parameter", str], list["CompletionItem"]]


def names(*kinds: str) -> Complete:
    """Completes names of the components of these kinds; files too where Python files may be given."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from vader_core.registry import load_registry

        tables: dict[Any, Any] = dict(load_registry().components)
        found = {name: one.summary for kind in kinds for name, one in tables[kind].items()}
        items = [CompletionItem(name, help=found[name]) for name in sorted(found) if name.startswith(typed)]
        if "reward" in kinds and not items:
            items.append(CompletionItem(typed, type="file"))
        return items

    return complete


def recipe_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Completes names of recipes."""
    from click.shell_completion import CompletionItem

    from vader_core.registry import load_registry
    from vader_core.run.layers import recipes

    found = recipes(load_registry())
    return [
        CompletionItem(name, help=str(tree.get("summary", "")))
        for name, tree in sorted(found.items())
        if name.startswith(typed)
    ]


def names_of_kind(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Completes NAME behind KIND, as in ``vader show KIND NAME``."""
    from vader_core.component import KINDS

    word = context.params.get("kind")
    kinds = [kind for kind, facts in KINDS.items() if facts.word == word]
    return names(*kinds)(context, parameter, typed) if kinds else []
