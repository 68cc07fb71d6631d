"""``vader weights``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from vader_core.cli import completion
from vader_core.cli.console import console
from vader_core.cli.help import GroupedCommand
from vader_core.errors import VaderError, did_you_mean
from vader_core.wanted import file_facts, on_hub, present, size_words
from vader_core.weights import fetch

if TYPE_CHECKING:
    from rich.console import Console

    from vader_core.registry import Component, Registry


@click.command(
    "weights",
    cls=GroupedCommand,
    examples=("vader weights videocrafter", "vader weights --recipe demo --download"),
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    names: tuple[str, ...], recipe: str | None, fetching: bool, optional: bool, as_json: bool
) -> None:
    """List the files that components want: from where, their size and licence, and whether they are here.

    NAME is a backbone, reward or prompt source, or a plugin with all of its own; without a NAME all are
    listed. Files are kept in the hub's own cache (HF_HOME); HF_TOKEN is sent where it is set.
    """
    from vader_core.registry import load_registry

    registry = load_registry()
    if recipe is not None:
        names = (*names, *names_of(registry, recipe))
    chosen = chosen_components(registry, names)
    if fetching:
        _download(chosen, quiet=as_json, optional=optional)
    groups = [
        (f"{item.kind} {item.name}", [file_facts(wanted) for wanted in item.weights]) for item in chosen
    ]
    if as_json:
        click.echo(json.dumps(dict(groups)))
        return
    if not groups:
        click.echo("no files are wanted")
        return
    print_files(console(), groups)


def names_of(registry: Registry, recipe: str) -> list[str]:
    """The components that a recipe uses.

    Raises:
        VaderError: No such recipe.
    """
    from vader_core.run.config import validated
    from vader_core.run.layers import read_recipe

    config = validated(read_recipe(registry, recipe))
    names = [
        config.backbone.name,
        config.prompts.source,
        *(item.name for item in (*config.reward, *config.monitor)),
    ]
    every = {name for table in registry.components.values() for name in table}
    return [name for name in names if name in every]


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
                "" if facts["file"] else "whole repository",
                size_words(facts["size"], facts["numbers"]),
                f"revision {facts['revision'][:12]}" if facts["revision"] else "not pinned",
                facts["licence"] or "licence not known",
                "gated: accept its licence on the hub and set HF_TOKEN" if facts["gated"] else "",
                facts["note"],
            ]
            shown = "; ".join(part for part in about if part)
            out.print(f"  {here} {escape(name)}  [dim]{escape(shown)}[/]", soft_wrap=True)


def _download(chosen: list[Component], *, quiet: bool, optional: bool) -> None:
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
        for component in chosen:
            for wanted in component.weights:
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
