"""The table of a run's options says who owns each and in which file it takes effect."""

import json
from pathlib import Path

import pytest

import vader_core
from vader_core.cli.run_options import _FILES, run_options

CORE = Path(vader_core.__file__).parent


def test_every_option_has_an_owner_and_a_file_that_is_there():
    rows = list(run_options())
    assert len(rows) == len({one.key for one in rows}) > 60
    for one in rows:
        assert one.owner
        assert (CORE / one.file).is_file(), one
    assert set(_FILES) <= {one.key for one in rows}


def test_a_performance_option_bears_the_name_of_its_file():
    for one in run_options():
        name = one.key.rpartition(".")[2]
        if one.key.startswith("performance.") and (CORE / "performance" / f"{name}.py").is_file():
            assert one.file == f"performance/{name}.py"


def test_show_run_prints_the_table(vader, capsys):
    assert vader("show", "run", "--json") == 0
    rows = {row["option"]: row for row in json.loads(capsys.readouterr().out)["options"]}
    assert rows["trainer.lr"]["file"] == "training/optimizer.py"
    assert rows["objective.reward_gradient.segments"]["owner"] == "objective"
    assert vader("show", "run", "validation") == 0
    assert "validation.guard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"), [(["run", "nothing"], "sections: backbone"), (["reward"], "Give its NAME")]
)
def test_what_cannot_be_shown_is_said(vader, capsys, words, says):
    assert vader("show", *words) == 2
    assert says in capsys.readouterr().err
