"""``vader plugins``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from vader_core.cli import COMMANDS
from vader_core.cli.console import console

if TYPE_CHECKING:
    from vader_core.registry import Registry


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """List the installed plugins and what they bring: backbones, samplers, rewards, objectives and more."""
    from vader_core.registry import load_registry

    found = overview(load_registry())
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)


def overview(registry: Registry) -> dict[str, Any]:
    """Everything that the plugins announced, as plain data."""
    from vader_core.component import KINDS, one_line

    return {
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "module": plugin.module,
                "error": plugin.error,
            }
            for plugin in registry.plugins
        ],
        "components": {
            kind: [
                {"name": name, "plugin": found.plugin, "summary": one_line(found.summary)}
                for name, found in sorted(registry.components[kind].items())
            ]
            for kind in KINDS
        },
        "commands": _announced(registry.commands),
        "lora_formats": _announced(registry.lora_formats),
        "recipes": _recipes(registry),
        "clashes": [
            {"kind": kind, "name": name, "plugins": plugins}
            for (kind, name), plugins in sorted(registry.clashes.items())
        ],
    }


def _recipes(registry: Registry) -> list[dict[str, str]]:
    """Name, backbone and summary of every recipe, read line by line: the models of options stay unread."""
    from vader_core.recipe_files import recipe_files

    found = []
    for name, files in recipe_files(registry).items():
        try:
            text = files[0].read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        backbone = re.search(r"^backbone:(?:\s*\{\s*|\s*\n\s+)name: *(\w+)", text, flags=re.M)
        summary = re.search(r"^summary: *(.*)$", text, flags=re.M)
        found.append(
            {
                "name": name,
                "plugin": backbone[1] if backbone else "",
                "summary": summary[1].strip("'\"") if summary else "",
            }
        )
    return sorted(found, key=lambda one: one["name"])


def _announced(table: dict[str, Any]) -> list[dict[str, str]]:
    from vader_core.component import one_line

    return [
        {"name": name, "plugin": found.plugin, "summary": one_line(found.summary)}
        for name, found in sorted(table.items())
    ]


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "plugin", "what it is"):
        table.add_column(column)
    groups = {f"{kind}s": items for kind, items in found["components"].items()}
    groups |= {"commands": found["commands"], "LoRA formats": found["lora_formats"]}
    groups |= {"recipes": found["recipes"]}
    for title, items in groups.items():
        if not items:
            continue
        table.add_row(f"[bold]{title}[/]")
        for item in items:
            table.add_row(f"  {item['name']}", escape(item["plugin"]), escape(item["summary"]))
    out = console()
    out.print(table)
    out.print()
    sound = [plugin for plugin in found["plugins"] if not plugin["error"]]
    versions = ", ".join(
        f"{plugin['name']} ({plugin['distribution']} {plugin['version']})" for plugin in sound
    )
    out.print(f"{len(sound)} plugins: {escape(versions)}", soft_wrap=True)
    for line in problems(found):
        out.print(f"[red]{escape(line)}[/]", soft_wrap=True)


def problems(found: dict[str, Any]) -> list[str]:
    """One line for every plugin that could not be used and every name that two claim."""
    lines = [
        f"plugin {plugin['name']!r} ({plugin['distribution']} {plugin['version']}) failed to load: "
        f"{plugin['error']}"
        for plugin in found["plugins"]
        if plugin["error"]
    ]
    lines += [
        f"{clash['kind']} {clash['name']!r} is registered by "
        f"{' and '.join(repr(name) for name in clash['plugins'])}; uninstall one of them"
        for clash in found["clashes"]
    ]
    lines += [
        f"command {item['name']!r} of plugin {item['plugin']!r} is never called: the core's own has that name"
        for item in found["commands"]
        if item["name"] in COMMANDS
    ]
    return lines
