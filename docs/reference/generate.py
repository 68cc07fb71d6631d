"""Writes the pages of the reference that come from the code: commands, options, components."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))


def commands() -> Iterator[str]:
    """Every command with its help."""
    import click

    from vader_core.cli import COMMANDS, cli

    yield "# Commands\n"
    yield "`vader COMMAND --help` prints the same. Tab completion: see [Install](../start/install.md#tab-completion).\n"
    context = click.Context(cli, info_name="vader")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield from _command(command, f"vader {name}", context)


def _command(command: Any, name: str, above: Any) -> Iterator[str]:
    import click

    context = click.Context(command, info_name=name, parent=None)
    yield f"## {name}\n"
    yield (
        "```text\n"
        + command.get_help(context).replace(f"Usage: {name}", f"Usage: {name}").rstrip()
        + "\n```\n"
    )
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from _command(found, f"{name} {inner}", context)


def options() -> Iterator[str]:
    """Every option of a run, by section."""
    from vader_core.cli.run_options import run_options
    from vader_core.cli.show import default_words, type_words

    yield "# Options of a run\n"
    yield (
        "Each is a key of the run's YAML and of `-o KEY=VALUE`. Components add their own beside these: see "
        "[Components](components.md). Later wins: the backbone's defaults, the recipe, `--config`, `-o`, the flag.\n"
    )
    section = ""
    for option in run_options():
        head = option.key.partition(".")[0]
        if head != section:
            section = head
            yield f"## {section}\n"
            yield "| key | type | default | what it is |\n|---|---|---|---|"
        help_ = option.field.description or ""
        yield _row(f"`{option.key}`", type_words(option.field), f"`{default_words(option.field)}`", help_)


def components() -> Iterator[str]:
    """Every installed component with its options."""
    from vader_core.cli.show import default_words, type_words
    from vader_core.component import KINDS
    from vader_core.registry import load_registry
    from vader_core.run.layers import recipes

    registry = load_registry()
    yield "# Components\n"
    yield "What the packages of this repository register. `vader show KIND NAME` prints the same.\n"
    for kind, facts in KINDS.items():
        yield f"\n## {kind.capitalize()}s\n"
        for name, component in sorted(registry.components[kind].items()):
            yield f"\n### `{name}`\n\n{component.summary}. Plugin `{component.plugin}`.\n"
            fields = component.config.model_fields
            if fields:
                yield "| `-o` | type | default | what it is |\n|---|---|---|---|"
            for key, field in fields.items():
                place = facts.key.format(name=name, option=field.alias or key)
                yield _row(
                    f"`{place}`", type_words(field), f"`{default_words(field)}`", field.description or ""
                )
    yield "\n## Recipes\n\n`vader train --recipe NAME`; `vader config --recipe NAME` prints all of it.\n"
    yield "| recipe | backbone | what it is |\n|---|---|---|"
    for name, tree in sorted(recipes(registry).items()):
        yield _row(
            f"`{name}`", str((tree.get("backbone") or {}).get("name", "")), str(tree.get("summary", ""))
        )


def _row(*cells: str) -> str:
    return (
        "| "
        + " | ".join(cell.replace("|", "\\|").replace("[", "\\[").replace("\n", " ") for cell in cells)
        + " |"
    )


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "reference/commands.md": commands,
    "reference/options.md": options,
    "reference/components.md": components,
}


def write(open_file: Callable[..., Any]) -> None:
    """Write every generated page, and copies of the files outside ``docs`` that pages link."""
    from links import linked_files

    for place, lines in PAGES.items():
        with open_file(place, "w") as stream:
            stream.write("\n".join(lines()) + "\n")
    for name in linked_files():
        with open_file(f"from/{name}", "wb") as stream:
            stream.write((ROOT / name).read_bytes())


if __name__ in ("__main__", "<run_path>"):
    import mkdocs_gen_files

    write(mkdocs_gen_files.open)
