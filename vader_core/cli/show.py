"""``vader show``."""

from __future__ import annotations

import json
import types
import typing
from typing import TYPE_CHECKING, Any

import click

from vader_core.cli import completion
from vader_core.cli.console import console
from vader_core.cli.help import GroupedCommand
from vader_core.registry import KINDS, kind_called

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from vader_core.registry import Component


class _Kind(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 alone
    """The word of a kind; the plural, as `vader plugins` heads its lists, is taken too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The singular; a recipe is no component, and the command that shows one is named."""
        if value in ("recipe", "recipes"):
            self.fail("a recipe is no component: `vader config --recipe NAME` prints all it sets", param, ctx)
        known = {f"{word}s": word for word in self.choices}
        return super().convert(known.get(value, value), param, ctx)


@click.command(
    "show", cls=GroupedCommand, examples=("vader show backbone opensora", "vader show run trainer")
)
@click.argument("kind", metavar="KIND", type=_Kind([*(facts.word for facts in KINDS.values()), "run"]))
@click.argument("name", required=False, shell_complete=completion.names_of_kind)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(kind: str, name: str | None, as_json: bool) -> None:
    """Show a component: its options with types and defaults, the files it wants, a backbone's LoRA targets.

    KIND is backbone, sampler, reward, prompts or objective; `vader plugins` lists the names. `vader show run`
    lists every option of a run: its key, default, owner, and the file in which it takes effect.
    """
    if kind == "run":
        _show_run(name, as_json)
        return
    if name is None:
        raise click.UsageError(f"which {kind}? Give its NAME; `vader plugins` lists them")
    from vader_core.registry import load_registry

    found = described(load_registry().get(kind_called(kind), name))
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)


def _show_run(section: str | None, as_json: bool) -> None:
    """The table of a run's options, or of one section."""
    from vader_core.cli.run_options import run_options
    from vader_core.errors import VaderError

    rows = [
        {
            "option": one.key,
            "type": type_words(one.field),
            "default": default_words(one.field),
            "owner": one.owner,
            "file": one.file,
            "help": one.field.description or "",
        }
        for one in run_options()
        if section is None or one.key.startswith(f"{section}.")
    ]
    if not rows:
        sections = dict.fromkeys(one.key.partition(".")[0] for one in run_options())
        raise VaderError(f"a run has no section {section!r}; sections: {', '.join(sections)}")
    if as_json:
        click.echo(json.dumps({"options": rows}))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("option", "default", "owner", "file"):
        table.add_column(column, overflow="fold", no_wrap=column == "option")
    for row in rows:
        table.add_row(*(escape(row[column]) for column in ("option", "default", "owner", "file")))
    console().print(table)


def described(component: Component) -> dict[str, Any]:
    """A component as plain data. Only a backbone is constructed, without its weights."""
    from vader_core.wanted import file_facts, when_words

    options = [
        {
            "option": KINDS[component.kind].key.format(name=component.name, option=field.alias or name),
            "type": type_words(field),
            "default": default_words(field),
            "help": field.description or "",
        }
        for name, field in component.config.model_fields.items()
    ]
    facts: dict[str, Any] = {
        "kind": component.kind,
        "name": component.name,
        "summary": component.summary,
        "plugin": component.plugin,
        "options": options,
        "weights": [
            {**file_facts(wanted), "with": when_words(component, wanted)} for wanted in component.weights
        ],
    }
    if component.kind == "backbone":
        facts |= _backbone_facts(component)
    return facts


def _backbone_facts(component: Component) -> dict[str, Any]:
    required = [name for name, field in component.config.model_fields.items() if field.is_required()]
    if required:  # it cannot be made without a user's values
        return {}
    import torch

    backbone = component.make({}, device=torch.device("cpu"), dtype=torch.float32)
    defaults = backbone.defaults
    return {
        "lora_targets": list(backbone.lora_targets),
        "defaults": {
            "geometry": str(defaults.geometry),
            "num_steps": defaults.num_steps,
            "guidance_scale": defaults.guidance_scale,
            "sampler": defaults.sampler,
            "sampler_options": dict(defaults.sampler_options),
            "gradient": defaults.gradient,
            "sample_frames": defaults.sample_frames,
            "negative_prompt": defaults.negative_prompt,
            "precision": defaults.precision,
            "prompts": defaults.prompts,
        },
    }


def type_words(field: FieldInfo) -> str:
    """A field's type and bounds in words.

    >>> from pydantic.fields import FieldInfo
    >>> type_words(FieldInfo.from_annotated_attribute(int | None, None))
    'whole number or null'
    """
    words = _words(field.annotation)
    names = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
    bounds = [
        f"{sign} {getattr(constraint, name):g}"
        for constraint in field.metadata
        for name, sign in names.items()
        if getattr(constraint, name, None) is not None
    ]
    return f"{words}, {' and '.join(bounds)}" if bounds else words


_PLAIN = {
    "int": "whole number",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Path": "path",
    "NoneType": "null",
    "Any": "anything",
}


def _words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(argument) for argument in arguments)
    if origin in (list, tuple, set, frozenset):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {' and '.join(dict.fromkeys(_words(argument) for argument in inner)) or 'anything'}"
    if origin is not None:
        return "mapping"
    name = getattr(annotation, "__name__", str(annotation))
    return _PLAIN.get(name, "mapping" if hasattr(annotation, "model_fields") else name)


def default_words(field: FieldInfo) -> str:
    """A field's default as ``-o`` would write it; ``required`` where there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else str(value)


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    out.print(f"[bold]{found['kind']} {found['name']}[/] (plugin {found['plugin']})")
    out.print(escape(found["summary"]))
    if found.get("defaults"):
        out.print("\n[bold]defaults[/]")
        for name, value in found["defaults"].items():
            if value not in (None, {}, ""):
                out.print(f"  {name.replace('_', ' ')}: {escape(str(value))}", soft_wrap=True)
    if found.get("lora_targets"):
        out.print(f"\n[bold]LoRA targets[/]\n  {escape(', '.join(found['lora_targets']))}", soft_wrap=True)
    out.print("\n[bold]options[/]" + ("" if found["options"] else "\n  none"))
    if found["options"]:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("  -o KEY", no_wrap=True)
        for column in ("type", "default", "help"):
            table.add_column(column, overflow="fold")
        for option in found["options"]:
            table.add_row(
                f"  {option['option']}", *(escape(option[key]) for key in ("type", "default", "help"))
            )
        out.print(table)
    if found["weights"]:
        from vader_core.cli.weights import print_files

        out.print("\n[bold]weights[/]")
        print_files(out, [(f"{found['kind']} {found['name']}", found["weights"])])
