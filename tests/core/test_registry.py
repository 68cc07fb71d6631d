"""Look-ups: what is said of a name that is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vader_core.builtin.plugin
from vader_core.errors import VaderError
from vader_core.registry import Plugin, Registry
from vader_core.testing.plugin import add_testing_plugin


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
