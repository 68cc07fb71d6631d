"""A suite: named dimensions, each with a reward and prompts of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vader_core.errors import VaderError, unknown
from vader_core.registry import Registry
from vader_core.values import read_document


class Dimension(BaseModel):
    """What a suite asks about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: str = Field(description="Its score is the dimension's.")
    options: dict[str, Any] = Field(default_factory=dict, description="The reward's own.")
    videos: int = Field(5, ge=1, description="Clips per prompt.")


@dataclass(frozen=True)
class Suite:
    """Dimensions by name, and where their prompts are described.

    Args:
        name: As it is asked for.
        prompts: What the file of prompts is and where it comes from.
        dimensions: Those that can be judged here.
        left_out: Those that cannot, with the reason.
    """

    name: str
    prompts: str
    dimensions: Mapping[str, Dimension]
    left_out: Mapping[str, str]

    def chosen(self, names: Sequence[str]) -> dict[str, Dimension]:
        """The named dimensions; all by default.

        Raises:
            VaderError: One that does not exist, or cannot be judged here.
        """
        for name in names:
            if name in self.left_out:
                raise VaderError(
                    f"--dimension {name}: suite {self.name!r} leaves it out: {self.left_out[name]}"
                )
            if name not in self.dimensions:
                raise unknown("dimension", name, self.dimensions)
        return {name: found for name, found in self.dimensions.items() if not names or name in names}


@dataclass(frozen=True)
class Asked:
    """One prompt of a suite.

    Args:
        text: The prompt.
        dimensions: What its clips are judged for.
    """

    text: str
    dimensions: tuple[str, ...]


def suites(registry: Registry) -> dict[str, Suite]:
    """Every installed suite by name: ``suites/NAME.yaml`` of the plugins' packages."""
    found: dict[str, Suite] = {}
    for package in registry.recipe_packages():
        try:
            folder = resources.files(package).joinpath("suites")
        except ModuleNotFoundError:
            continue
        if not folder.is_dir():
            continue
        for file in folder.iterdir():
            if file.name.endswith(".yaml"):
                name = file.name.removesuffix(".yaml")
                found[name] = _suite(name, read_document(file.read_text(encoding="utf-8")))
    return found


def find_suite(name: str, registry: Registry) -> Suite:
    """The suite of that name.

    Raises:
        VaderError: No installed plugin has one of that name.
    """
    known = suites(registry)
    if name not in known:
        raise unknown("suite", name, known)
    return known[name]


def _suite(name: str, tree: Mapping[str, Any]) -> Suite:
    dimensions = {key: Dimension(**value) for key, value in tree["dimensions"].items()}
    return Suite(name, tree["prompts"], dimensions, tree.get("left_out", {}))


def read_asked(path: Path, suite: Suite, dimensions: Mapping[str, Dimension]) -> list[Asked]:
    """The prompts of some dimensions, in the file's order.

    Args:
        path: JSON: a list of {"prompt_en": text, "dimension": [name, …]}.
        suite: Says what the file should be.
        dimensions: Those that are wanted.

    Raises:
        VaderError: Not such a file, or one without a prompt for a dimension.
    """
    wanted = f"--suite-prompts {path}: suite {suite.name!r} wants {suite.prompts}"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = [
            Asked(str(row["prompt_en"]), tuple(name for name in dimensions if name in row["dimension"]))
            for row in rows
        ]
    except OSError as error:
        raise VaderError(f"{wanted}, and it cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise VaderError(f"{wanted}, and this is no such file: {type(error).__name__}: {error}") from error
    found = [asked for asked in found if asked.dimensions]
    missing = [name for name in dimensions if not any(name in asked.dimensions for asked in found)]
    if missing:
        raise VaderError(
            f"{wanted}, and this has no prompt for {missing[0]!r}: leave it out with --dimension"
        )
    return found
