"""``vader weights``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from vader_core.cli import completion
from vader_core.cli.console import console
from vader_core.cli.help import GroupedCommand
from vader_core.errors import VaderError, did_you_mean
from vader_core.wanted import file_facts, files_read, on_hub, present, size_words, when_words
from vader_core.weights import fetch

if TYPE_CHECKING:
    from rich.console import Console

    from vader_core.registry import Component, Registry
    from vader_core.weights import WeightFile


@click.command(
    "weights",
    cls=GroupedCommand,
    examples=(
        "vader weights videocrafter",
        "vader weights --recipe wan_1_3b_hps --download",
        "vader weights wan -o backbone.model=2.1-14b --download",
    ),
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--recipe",
    metavar="NAME",
    shell_complete=completion.recipe_names,
    help="The files of everything that this recipe uses.",
)
@click.option("--download", "fetching", is_flag=True, help="Fetch what is missing; continues what was begun.")
@click.option("--optional", is_flag=True, help="Fetch the optional files too.")
@click.option(
    "-o",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of what is named, as for a run: only the files that it then reads.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    names: tuple[str, ...],
    recipe: str | None,
    fetching: bool,
    optional: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """List the files that components want: from where, their size and licence, and whether they are here.

    NAME is a backbone, reward or prompt source, or a plugin with all of its own; without a NAME all are
    listed. What is read with other options than the defaults is listed with these, and fetched with
    -o. Files are kept in the hub's own cache (HF_HOME); HF_TOKEN is sent where it is set.
    """
    from vader_core.registry import load_registry

    registry = load_registry()
    chosen: list[tuple[Component, dict[str, Any]]] = []
    if recipe is not None:
        chosen += of_recipe(registry, recipe)
    if names or recipe is None:
        chosen += [(item, {}) for item in chosen_components(registry, names)]
    _set(chosen, overrides)
    read = [(item, files_read(item, given)) for item, given in chosen]
    if fetching:
        _download(read, quiet=as_json, optional=optional)
    shown = [(item, item.weights) for item, _ in read] if recipe is None and not overrides else read
    groups = [
        (
            f"{item.kind} {item.name}",
            [{**file_facts(wanted), "with": when_words(item, wanted)} for wanted in files],
        )
        for item, files in shown
        if files
    ]
    if as_json:
        click.echo(json.dumps(dict(groups)))
        return
    if not groups:
        click.echo("no files are wanted")
        return
    print_files(console(), groups)


def of_recipe(registry: Registry, recipe: str) -> list[tuple[Component, dict[str, Any]]]:
    """The components that a recipe uses and that want files, with the options that it gives them.

    Raises:
        VaderError: No such recipe.
    """
    from vader_core.api.plan_words import components_of
    from vader_core.run.config import validated
    from vader_core.run.layers import read_recipe

    config = validated(read_recipe(registry, recipe))
    return [(item, dict(given)) for item, given in components_of(config, registry) if item.weights]


def _set(chosen: list[tuple[Component, dict[str, Any]]], overrides: tuple[str, ...]) -> None:
    """Put every ``-o KEY=VALUE`` to the component that it belongs to.

    Raises:
        VaderError: It belongs to none of them.
    """
    from vader_core.component import KINDS
    from vader_core.values import parse_value

    for override in overrides:
        key, equals, text = override.partition("=")
        owners = []
        for item, given in chosen:
            begin = KINDS[item.kind].key.format(name=item.name, option="")
            if equals and key.startswith(begin):
                *path, last = key.removeprefix(begin).split(".")
                for part in path:
                    given = given.setdefault(part, {})
                given[last] = parse_value(text)
                owners.append(item)
        if not owners:
            keys = {KINDS[item.kind].key.format(name=item.name, option="K") for item, _ in chosen}
            raise VaderError(f"-o {override}: write {' or '.join(f'{one}=VALUE' for one in sorted(keys))}")


def chosen_components(registry: Registry, names: tuple[str, ...]) -> list[Component]:
    """The components that ``names`` mean and that want files; all of them where there are no names.

    Raises:
        VaderError: A name that neither a component nor a plugin has.
    """
    every = [component for table in registry.components.values() for component in table.values()]
    known = {component.name for component in every} | {component.plugin for component in every}
    for name in names:
        if name not in known:
            wanting = sorted({component.name for component in every if component.weights})
            raise VaderError(
                f"no component or plugin is called {name!r}{did_you_mean(name, known)} "
                f"(these want files: {', '.join(wanting) or 'none'})"
            )
    return [
        component
        for component in every
        if component.weights and (not names or component.name in names or component.plugin in names)
    ]


def print_files(out: Console, groups: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Wanted files, a line each, grouped by what wants them."""
    from rich.markup import escape

    for title, files in groups:
        out.print(f"[bold]{title}[/]")
        for facts in files:
            here = "[green]here[/]" if facts["path"] else "    "
            name = "/".join(part for part in (facts["repository"], facts["file"]) if part)
            about = [
                _part_words(facts),
                size_words(facts["size"], facts["numbers"]),
                f"revision {facts['revision'][:12]}" if facts["revision"] else "not pinned",
                facts["licence"] or "licence not known",
                "gated: accept its licence on the hub and set HF_TOKEN" if facts["gated"] else "",
                facts["note"],
                f"read with {facts['with']}" if facts.get("with") else "",
            ]
            shown = "; ".join(part for part in about if part)
            out.print(f"  {here} {escape(name)}  [dim]{escape(shown)}[/]", soft_wrap=True)


def _part_words(facts: dict[str, Any]) -> str:
    """How much of the repository it is; nothing of a file, which is named."""
    folders = facts["folders"]
    return f"the folders {', '.join(folders)}" if folders else "" if facts["file"] else "whole repository"


def _download(chosen: list[tuple[Component, tuple[WeightFile, ...]]], *, quiet: bool, optional: bool) -> None:
    """Fetch everything that is missing; what fails is told at the end, after the rest was fetched."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    failures: dict[str, None] = {}
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as bars:
        for component, files in chosen:
            for wanted in files:
                if wanted.optional and not optional:
                    continue
                needed_for = f"{component.kind} {component.name!r}"
                if not on_hub(wanted):
                    failures[f"{needed_for}: {wanted.repository}/{wanted.file}: {wanted.note}"] = None
                    continue
                if wanted.file and present(wanted) is not None:
                    continue
                try:
                    fetch(wanted, needed_for=needed_for, progress=_Bar(bars))
                except VaderError as error:
                    failures[str(error)] = None
    if failures:
        raise VaderError("\n".join(failures))


class _Bar:
    """A file's line in the progress display."""

    def __init__(self, bars: Any) -> None:
        self.bars = bars

    def begin(self, name: str, done: int, total: int) -> None:
        """A new line."""
        self.task = self.bars.add_task(name, total=total, completed=done)

    def advance(self, size: int) -> None:
        """The line grows."""
        self.bars.advance(self.task, size)
