"""``vader new-plugin``."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from vader_core import __version__
from vader_core.errors import VaderError

#: Kind -> the words that fill the templates.
KINDS: dict[str, dict[str, str]] = {
    "reward": {
        "words": "reward",
        "stem": "reward",
        "hook": "register_rewards",
        "summary": "how near the brightness is to a target",
        "options": '    target: float = Field(0.7, ge=0, le=1, description="brightness that is wanted")',
        "arguments": "config.target",
    },
    "backbone": {
        "words": "backbone",
        "stem": "backbone",
        "hook": "register_backbones",
        "summary": "a small text-to-video model with random weights",
        "options": '    weights: str = Field("random", description="random, or a file of its modules")',
        "arguments": "config, device=device, dtype=dtype",
    },
    "sampler": {
        "words": "sampler",
        "stem": "sampler",
        "hook": "register_samplers",
        "summary": "rectified flow in steps that grow",
        "options": '    power: float = Field(2.0, gt=0, le=4, description="1 makes all steps equal")',
        "arguments": "config.power",
    },
    "prompts": {
        "words": "prompt source",
        "stem": "prompt_source",
        "hook": "register_prompt_sources",
        "summary": "a few sentences about things in a place",
        "options": '    place: str = Field("on a beach", description="where everything is")',
        "arguments": "config.place",
    },
}


@click.command("new-plugin")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What the plugin brings.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the package; vader-NAME here by default.",
)
def command(name: str, kind: str, out: Path | None) -> None:
    """Write a plugin package called NAME that passes `vader check` as it is.

    NAME is the component's name: lower-case letters, digits and _.
    """
    folder = write_plugin(name, kind, out)
    click.echo(f"wrote {folder}")
    click.echo(f"next: pip install -e {folder} && vader check {kind} {name}")


def write_plugin(name: str, kind: str, out: Path | None = None) -> Path:
    """Write the package.

    Args:
        name: Of the component and the entry point.
        kind: A key of :data:`KINDS`.
        out: Folder of the package; ``vader-NAME`` by default.

    Raises:
        VaderError: The name is no name, or the folder exists and is not empty.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise VaderError(
            f"{name!r} is not a name: use lower-case letters, digits and _, beginning with a letter"
        )
    folder = out or Path(f"vader-{name.replace('_', '-')}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VaderError(f"{folder} exists and is not empty: choose another --out")
    words = _words(name, kind)
    package = folder / words["package"]
    places = {
        "pyproject.toml": folder / "pyproject.toml",
        "README.md": folder / "README.md",
        "init.py": package / "__init__.py",
        "plugin.py": package / "plugin.py",
        f"{kind}.py": package / f"{kind}.py",
        "test_contract.py": folder / "tests" / "test_contract.py",
    }
    templates = files("vader_core.testing") / "templates"
    for template, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (templates / f"{template}.template").read_text(encoding="utf-8")
        place.write_text(Template(text).substitute(words), encoding="utf-8")
    (package / "py.typed").touch()
    return folder


def _words(name: str, kind: str) -> dict[str, str]:
    major, minor = __version__.split(".")[:2]
    return {
        **KINDS[kind],
        "name": name,
        "kind": kind,
        "distribution": f"vader-{name.replace('_', '-')}",
        "package": f"vader_{name}",
        "module": kind,
        "file": f"{kind}.py",
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "core": f"{major}.{minor}",
        "next_core": f"{major}.{int(minor) + 1}",
    }
