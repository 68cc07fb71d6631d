"""Look-ups, the table of kinds, and components that are named by their place."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

import vader_core.builtin.plugin
from vader_core import hookspecs
from vader_core.component import Component, resolved
from vader_core.errors import VaderError
from vader_core.first_party import FIRST_PARTY, TAKEN
from vader_core.hookspecs import hookimpl
from vader_core.registration import registered
from vader_core.registry import KINDS, Plugin, Registry
from vader_core.testing.plugin import add_testing_plugin

REPOSITORY = Path(__file__).parents[2]
PROJECTS = [
    tomllib.loads(path.read_text())["project"] for path in sorted(REPOSITORY.glob("*/vader-*/pyproject.toml"))
]


@pytest.fixture
def core_alone() -> Registry:
    registry = Registry()
    registry.add(vader_core.builtin.plugin, Plugin("builtin", "vader-core", "0", "vader_core.builtin.plugin"))
    return registry


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("backbone", "opensora", "pip install ./plugins/vader-opensora"),
        ("backbone", "opensroa", "did you mean 'opensora'?"),
        ("reward", "pick_score", "pip install ./plugins/vader-rewards"),
        ("reward", "pickscore", "did you mean 'pick_score'?"),
        ("sampler", "dimm", "did you mean 'ddim'?"),
        ("prompt source", "svd_demo_images", "pip install ./plugins/vader-svd"),
        ("backbone", "wholly_unlike", "installed: none"),
    ],
)
def test_unknown_names(core_alone, kind, name, expected):
    with pytest.raises(VaderError) as raised:
        core_alone.get(kind, name)
    assert expected in str(raised.value)


def test_the_command_names_what_to_install(core_alone, monkeypatch, capsys):
    import vader_core.cli.train

    monkeypatch.setattr(vader_core.cli.train, "load_registry", lambda: core_alone)
    from vader_core.cli import run

    assert run(["train", "--backbone", "opensora", "--reward", "pick_score"]) == 2
    assert "pip install ./plugins/vader-" in capsys.readouterr().err
    assert run(["train"]) == 2
    assert "pip install ./plugins/vader-demo" in capsys.readouterr().err


def test_an_installed_name_is_found_beside_a_near_one(registry):
    assert registry.get("backbone", "tiny").name == "tiny"


def test_two_claims_name_both(core_alone):
    add_testing_plugin(core_alone)
    import vader_core.testing.plugin as testing

    core_alone.add(testing, Plugin("copycat", "vader-copycat", "0", "copycat"))
    with pytest.raises(VaderError, match="'testing' and 'copycat'"):
        core_alone.get("backbone", "tiny")


def test_help_and_plugins_import_no_torch():
    code = (
        "import sys\n"
        "from vader_core.cli import run\n"
        "run(['--help']); run(['plugins'])\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "builtin" in done.stdout


# -- what is said where a name is of another kind ------------------------------------------------------------


def with_plugin(registry, distribution, **hooks):
    """``registry`` with one more plugin, made of hook functions."""
    module = types.ModuleType("made_up.plugin")
    for name, hook in hooks.items():
        setattr(module, name, hookimpl(hook))
    registry.add(module, Plugin("made_up", distribution, "1", module.__name__))
    return registry


def test_a_name_of_another_kind_is_not_called_uninstalled(core_alone):
    registry = with_plugin(
        core_alone, "vader-rewards", register_rewards=lambda register: register("pick_score", print)
    )
    assert not registry.broken()
    with pytest.raises(VaderError) as raised:
        registry.get("backbone", "pick_score")
    assert "'pick_score' is a reward: --reward pick_score" in str(raised.value)
    assert "pip install" not in str(raised.value)


def test_what_an_installed_distribution_lacks_is_not_said_to_come_with_it(core_alone):
    registry = with_plugin(core_alone, "vader-rewards")
    with pytest.raises(VaderError) as raised:
        registry.get("reward", "pick_score")
    assert "pip install" not in str(raised.value)


def test_a_name_of_another_kind_is_not_called_first_party(core_alone):
    with pytest.raises(VaderError) as raised:
        core_alone.get("backbone", "pick_score")
    assert "comes with" not in str(raised.value)


# -- the tables ----------------------------------------------------------------------------------------------


def ours():
    return [project for project in PROJECTS if (REPOSITORY / "plugins" / project["name"]).is_dir()]


@pytest.mark.parametrize("project", ours(), ids=lambda project: project["name"])
def test_the_first_party_table_is_what_the_plugins_register(project):
    (entry,) = project["entry-points"]["vader"].items()
    found = registered(importlib.import_module(entry[1]), entry[0])
    listed = {(kind, name) for kind, names in FIRST_PARTY[project["name"]].items() for name in names}
    assert listed == {(component.kind, component.name) for component in found.components}


def test_every_project_has_its_name_taken():
    assert {project["name"] for project in PROJECTS} | {"vader-core"} == set(TAKEN)
    assert {project["name"] for project in ours()} == set(FIRST_PARTY)


def test_every_hook_of_a_kind_is_specified_and_every_contract_is_there():
    specified = {name for name in vars(hookspecs) if name.startswith("register_")}
    others = {"register_commands", "register_lora_formats"}
    assert {facts.hook for facts in KINDS.values()} == specified - others
    for kind, facts in KINDS.items():
        contract = resolved(facts.clauses)
        assert contract.kind == kind
        assert isinstance(resolved(facts.contract), type)


def test_no_command_has_a_table_of_kinds_of_its_own():
    for path in (REPOSITORY / "vader_core" / "cli").glob("*.py"):
        assert "register_" not in path.read_text(), path


# -- factories by their place --------------------------------------------------------------------------------


class Warmth:
    """What a plugin names by ``module:Class``."""

    class Options(BaseModel):
        """Its options."""

        model_config = ConfigDict(extra="forbid")

        target: float = Field(0.5, description="what is wanted")

    def __init__(self, options, *, device, dtype):
        self.made_of = options, device, dtype


class Other(BaseModel):
    """Options that are given."""

    colour: str = "red"


def component_of(factory, **given) -> Component:
    sys.modules["made_up_place"] = types.SimpleNamespace(Warmth=Warmth, Plain=dict, number=3)
    registry = with_plugin(
        Registry(), "x", register_rewards=lambda register: register("warmth", factory, **given)
    )
    assert not registry.broken()
    return registry.get("reward", "warmth")


def test_a_class_named_by_its_place_has_its_options_nested():
    component = component_of("made_up_place:Warmth")
    options, device, dtype = component.make({"target": 0.25}, device="cpu", dtype="f").made_of
    assert (options.target, device, dtype) == (0.25, "cpu", "f")
    with pytest.raises(VaderError, match="reward 'warmth' has no option 'targget'; did you mean 'target'"):
        component.options({"targget": 1})


def test_given_options_win_over_nested_ones_and_none_means_none():
    assert component_of("made_up_place:Warmth", config=Other).options({}).colour == "red"
    with pytest.raises(VaderError, match=r"no option 'target' \(options: none\)"):
        component_of("made_up_place:Plain").options({"target": 1})


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_module_here:Warmth", "no_such_module_here:Warmth: it cannot be imported"),
        ("made_up_place:Wramth", "made_up_place has no 'Wramth'"),
        ("made_up_place:number", "made_up_place:number cannot be called"),
    ],
)
def test_a_place_that_is_not_there_is_named(place, message):
    with pytest.raises(VaderError, match=message):
        component_of(place).make({}, device="cpu", dtype=None)


def test_registering_by_place_imports_nothing():
    registry = with_plugin(
        Registry(),
        "x",
        register_rewards=lambda register: register("far", "a_module_that_is_nowhere:Class", summary="far"),
    )
    assert registry.get("reward", "far").summary == "far"
