"""``vader new-plugin``."""

from __future__ import annotations

import keyword
import re
import shutil
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from vader_core import __version__
from vader_core.cli.help import GroupedCommand
from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError
from vader_core.first_party import TAKEN, first_party
from vader_core.function_files import FunctionFile
from vader_core.registry import KINDS, Kind, Registry, kind_called, load_registry

#: What a new component of each kind does, for ``vader plugins``.
SUMMARIES: dict[Kind, str] = {
    "reward": "how near the brightness is to a target",
    "backbone": "a small text-to-video model with random weights",
    "sampler": "rectified flow in steps that grow",
    "prompt source": "a few sentences about things in a place",
    "objective": "predictions a little smaller than the base model's",
}


@click.command(
    "new-plugin",
    cls=GroupedCommand,
    examples=(
        "vader new-plugin warmth --kind reward",
        "vader new-plugin warmth --kind reward --function my_reward.py:score",
    ),
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice([facts.word for facts in KINDS.values()]),
    required=True,
    help="What the plugin brings.",
)
@click.option(
    "--out",
    type=EnteredPath(),
    help="Folder of the package; vader-NAME here by default.",
)
@click.option(
    "--function",
    metavar="FILE.py:FUNCTION",
    help="Package this function, as --reward takes it.",
)
def command(name: str, kind: str, out: Path | None, function: str | None) -> None:
    """Write a plugin package called NAME that passes `vader check` as it is.

    NAME is the component's name: lower-case letters, digits and _.
    """
    refuse_taken(kind_called(kind), name, load_registry())
    folder = write_plugin(name, kind, out, function)
    click.echo(f"wrote {folder}")
    click.echo(f"next: pip install -e {folder} && vader check {kind} {name}")


def refuse_taken(kind: Kind, name: str, registry: Registry) -> None:
    """Refuse the name of a component that is ours or installed: two plugins that claim one name disable it.

    Raises:
        VaderError: Says whose it is.
    """
    owner = dict(first_party(kind)).get(name)
    if owner is None and name in registry.components[kind]:
        owner = f"the plugin {registry.components[kind][name].plugin!r}"
    if owner is not None:
        raise VaderError(f"the {kind} {name!r} is {owner}'s: choose another name")


def write_plugin(name: str, kind: str, out: Path | None = None, function: str | None = None) -> Path:
    """Write the package.

    Args:
        name: Of the component and the entry point.
        kind: What the command line calls its kind, e.g. ``prompts``.
        out: Folder of the package; ``vader-NAME`` by default.
        function: ``FILE.py:FUNCTION`` that becomes the reward; the file is copied.

    Raises:
        VaderError: There is no such function, or it is none for this kind; the name is no name or a package
            of ours has it; the folder exists and is not empty.
    """
    if not re.fullmatch(r"[a-z](_?[a-z0-9])*", name) or keyword.iskeyword(name):
        raise VaderError(
            f"{name!r} is not a name: use lower-case letters, digits and single _ between them, "
            "beginning with a letter"
        )
    if _distribution(name) in TAKEN:
        raise VaderError(
            f"{_distribution(name)} is a package of this project, whose place a new one would take: "
            "choose another name"
        )
    source = None if function is None else _function(function, kind)
    folder = out or Path(_distribution(name))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VaderError(f"{folder} exists and is not empty: choose another --out")
    words = _words(name, kind)
    component = f"{kind}.py"
    if source is not None:
        words |= {"function": source.function, "summary": f"the function {source.function}"}
        component = "function.py"
    package = folder / words["package"]
    places = {
        "pyproject.toml": folder / "pyproject.toml",
        "README.md": folder / "README.md",
        "init.py": package / "__init__.py",
        "plugin.py": package / "plugin.py",
        component: package / f"{kind}.py",
        "test_contract.py": folder / "tests" / "test_contract.py",
    }
    templates = files("vader_core.testing") / "templates"
    for template, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (templates / f"{template}.template").read_text(encoding="utf-8")
        place.write_text(Template(text).substitute(words), encoding="utf-8")
    if source is not None:
        shutil.copyfile(source.file, package / "function.py")
    (package / "py.typed").touch()
    return folder


def _function(text: str, kind: str) -> FunctionFile:
    found = FunctionFile.parse(text)
    if found is None or found.weight or kind != "reward":
        raise VaderError(f"--function {text}: with --kind reward, write FILE.py:FUNCTION")
    return found


def _distribution(name: str) -> str:
    return f"vader-{name.replace('_', '-')}"


def _words(name: str, word: str) -> dict[str, str]:
    major, minor = __version__.split(".")[:2]
    kind = kind_called(word)
    return {
        "name": name,
        "kind": word,
        "words": kind,
        "stem": kind.replace(" ", "_"),
        "hook": KINDS[kind].hook,
        "summary": SUMMARIES[kind],
        "distribution": _distribution(name),
        "package": f"vader_{name}",
        "file": f"{word}.py",
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "core": f"{major}.{minor}",
        "next_core": f"{major}.{int(minor) + 1}",
    }
