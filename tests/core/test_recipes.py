"""Recipes of several plugins: an unreadable one, or one named like ours, breaks and replaces nothing else."""

import sys

import pytest

from vader_core.component import Plugin
from vader_core.errors import VaderError
from vader_core.registry import Registry
from vader_core.run.recipes import read_recipe, recipes


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A registry over packages with recipes; importing any of them would fail."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def made(**packages):
        for package, files in packages.items():
            (tmp_path / package / "recipes").mkdir(parents=True)
            (tmp_path / package / "__init__.py").write_text("import os; os._exit(9)")
            for name, content in files.items():
                (tmp_path / package / "recipes" / f"{name}.yaml").write_bytes(content)
        for package in packages:
            monkeypatch.delitem(
                sys.modules, package, raising=False
            )  # the installed one, where it is imported
        plugins = [Plugin(name, name, "1", f"{name}.plugin") for name in packages]
        return Registry(plugins=plugins)

    return made


GOOD = b"summary: fine\nbackbone: {name: demo}\n"


@pytest.mark.slow_cases("deep")
@pytest.mark.parametrize(
    "broken",
    [b"\xff\xfe", b"a: [", b"[1, 2]", b"", b"a: " + b"[" * 5000, b"x: &a [*a]", b"a: \x00"],
    ids=["bytes", "open", "list", "empty", "deep", "circle", "zero"],
)
def test_an_unreadable_recipe_breaks_nothing_else(installed, broken):
    registry = installed(broken_one={"bad": broken}, other={"good": GOOD})
    assert list(recipes(registry)) == ["good"]
    assert read_recipe(registry, "good") == {"backbone": {"name": "demo"}}
    with pytest.raises(VaderError, match="recipe 'bad' of broken_one"):
        read_recipe(registry, "bad")
    with pytest.raises(VaderError, match="did you mean 'good'"):
        read_recipe(registry, "goood")


def test_a_recipe_named_like_ours_replaces_nothing(installed):
    theirs = b"backbone: {name: theirs}\n"
    registry = installed(aaa={"demo": theirs, "own": theirs}, zzz={"own": GOOD}, vader_demo={"demo": GOOD})
    assert read_recipe(registry, "demo") == {"backbone": {"name": "demo"}}
    assert read_recipe(registry, "aaa/demo") == {"backbone": {"name": "theirs"}}
    with pytest.raises(VaderError, match="several packages: ask for aaa/own and zzz/own"):
        read_recipe(registry, "own")
    assert read_recipe(registry, "zzz/own") == {"backbone": {"name": "demo"}}
    with pytest.raises(VaderError, match="unknown recipe"):
        read_recipe(registry, "vader_demo/own")
