"""A run folder from somebody else, or half of one: nothing outside is touched, each fault is one message."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from vader_core.errors import VaderError
from vader_core.files import sha256_of
from vader_core.run.checkpoint import newest_whole, prune, sweep
from vader_core.run.config import validated
from vader_core.run.directory import ENVIRONMENT, LOCK, REPLACED, Run

RUN = (
    "train --backbone tiny --reward brightness --prompts fixed --max-steps 2 --num-steps 2 --lora-rank 2 "
    "--quiet -o validation.prompts=0 -o run.trackers=[] -o run.checkpoint_every=1 --device cpu"
).split()


@pytest.fixture(scope="module")
def made(tmp_path_factory, registry):
    """A finished run, to be copied."""
    import vader_core.cli.train as command
    from vader_core.cli import run

    folder = tmp_path_factory.mktemp("made") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_registry", lambda: registry)
        assert run([*RUN, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def private(tmp_path):
    path = tmp_path / "elsewhere" / "private"
    path.parent.mkdir()
    path.write_text("private")
    yield path
    assert path.read_text() == "private"
    assert [one.name for one in path.parent.iterdir()] == ["private"]


def resume(vader, folder, capsys, *more):
    code = vader("train", "--resume", folder, "--quiet", *more)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


# -- links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LOCK, "metrics.jsonl", "summary.json", "checkpoints", "samples", "vader/x"])
@pytest.mark.parametrize("to_folder", [False, True])
def test_a_link_out_of_a_run_is_not_written_through(vader, folder, private, capsys, name, to_folder):
    place = folder / name
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(private.parent if to_folder else private)
    code, said = resume(vader, folder, capsys)
    assert code == 2
    assert f"{place} is a link" in said
    assert vader(*RUN, "--out", folder, "--overwrite") == (2 if name == LOCK else 0)


def test_a_link_within_a_run_is_no_fault(vader, folder, capsys):
    (folder / "latest").symlink_to(folder / "checkpoints" / "step-000002")
    assert resume(vader, folder, capsys)[0] == 0


@pytest.mark.parametrize("name", [LOCK, "checkpoints/step-000002/state.pt", "environment.json"])
def test_what_is_no_file_is_not_waited_for(vader, folder, capsys, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    code, said = resume(vader, folder, capsys)
    assert code == 2
    assert "no plain file" in said


def test_a_link_of_a_temporary_name_is_not_written_through(tmp_path, private):
    with Run.create(tmp_path / "r", validated({})) as run:
        (run.folder / f".summary.json.{os.getpid()}.part").symlink_to(private)
        run.write_summary({"steps": 1})
        assert json.loads((run.folder / "summary.json").read_text()) == {"steps": 1}


# -- values ------------------------------------------------------------------------------------------------


def signed(place):
    """Checksums that fit what is there."""
    files = [path for path in sorted(place.iterdir()) if path.name != "checksums.json"]
    (place / "checksums.json").write_text(json.dumps({path.name: sha256_of(path) for path in files}))


POSITION = {
    "reward_queries": 1,
    "train_seconds": 1.0,
    "skipped": 0,
    "nonfinite_in_a_row": 0,
    "lr_factor": 1.0,
    "watch": {"history": [], "best_step": None, "best_reward": 0.0},
}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "[" * 100_000,
        "\xff",
        json.dumps({name: value for name, value in POSITION.items() if name != "watch"}),
        json.dumps(POSITION | {"reward_queries": "many"}),
        json.dumps(POSITION | {"lr_factor": float("nan")}),
        json.dumps(POSITION | {"watch": {"history": [1], "best_step": None, "best_reward": 0.0}}),
        json.dumps(POSITION | {"train_seconds": 1e400}),
    ],
)
def test_a_position_that_no_run_writes_is_one_message(vader, folder, capsys, content):
    place = folder / "checkpoints" / "step-000002"
    (place / "position.json").write_text(content, encoding="latin-1")
    signed(place)
    code, said = resume(vader, folder, capsys, "--max-steps", 3)
    assert code == 2
    assert "position.json is not what a run writes" in said


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "{", "[" * 100_000, "{}", '{"../x": "0"}', '{"state.pt": 3, "position.json": 3}'],
)
def test_checksums_that_no_run_writes_are_passed_over(folder, content):
    places = sorted((folder / "checkpoints").glob("step-*"))
    (places[-1] / "checksums.json").write_text(content)
    place, faults = newest_whole(folder / "checkpoints")
    assert place == places[0]
    assert len(faults) == 1


def test_a_state_of_another_kind_is_one_message(vader, folder, capsys):
    import torch

    place = folder / "checkpoints" / "step-000002"
    for state in ({}, {"optimizer": 3}, {"optimizer": {"state": [], "param_groups": {}}}):
        torch.save(state, place / "state.pt")
        signed(place)
        code, said = resume(vader, folder, capsys, "--max-steps", 3, "--allow-changes")
        assert code == 2
        assert "error: " in said, said


@pytest.mark.parametrize(
    "content", ["[]", "3", "{", '{"config": 3}', '{"config": "["}', "[" * 100_000, "\xff"]
)
def test_an_environment_that_no_run_writes_is_not_needed(vader, folder, capsys, content):
    (folder / ENVIRONMENT).write_text(content, encoding="latin-1")
    assert resume(vader, folder, capsys)[0] == 0


def test_settings_that_were_edited_are_named_and_need_leave(vader, folder, capsys):
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.0002", "lr: 0.5").replace("max_steps: 2", "max_steps: 3"))
    code, said = resume(vader, folder, capsys)
    assert code == 2
    assert "config.yaml was edited since the run began" in said
    assert "trainer.lr: 0.0002 -> 0.5" in said
    assert resume(vader, folder, capsys, "--allow-changes")[0] == 0
    assert resume(vader, folder, capsys)[0] == 0


def test_settings_that_lost_their_tail_are_named(vader, folder, capsys):
    path = folder / "config.yaml"
    path.write_text(path.read_text()[: path.read_text().index("trainer:")])
    code, said = resume(vader, folder, capsys)
    assert code == 2
    assert "config.yaml was edited since the run began" in said


# -- halves ------------------------------------------------------------------------------------------------


def test_a_run_that_was_only_begun_can_be_started_again(vader, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / LOCK).write_text("1")
    (out / ENVIRONMENT).write_text("{}")
    (out / ".config.yaml.7.part").touch()
    code, said = resume(vader, out, capsys)
    assert code == 2
    assert "not a run directory" in said
    with pytest.raises(VaderError, match="give the same command again"):
        Run.open(out)
    assert vader(*RUN, "--out", out) == 0
    assert not list(out.glob(".*.part"))


@pytest.fixture
def refusing(monkeypatch):
    """Every run is refused once its folder is begun."""

    def refused(*_):
        raise VaderError("no gradient")

    monkeypatch.setattr(sys.modules["vader_core.api.train"], "load_parts", refused)


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_is_refused_leaves_nothing_behind(vader, tmp_path, refusing, there):
    out = tmp_path / "run"
    if there:
        out.mkdir()
    assert vader(*RUN, "--out", out) == 2
    assert list(tmp_path.rglob("*")) == ([out] if there else [])


def test_a_continuation_that_is_refused_leaves_the_run_as_it_was(vader, folder, refusing):
    assert vader("train", "--resume", folder, "--quiet", "--max-steps", "3") == 2
    assert (folder / "checkpoints").is_dir()
    assert Run(folder).metrics()


def test_an_overwriting_that_was_cut_off_can_be_started_again(vader, folder):
    (folder / "config.yaml").rename(folder / REPLACED)
    shutil.rmtree(folder / "checkpoints")
    assert vader(*RUN, "--out", folder) == 0
    assert not (folder / REPLACED).exists()


def test_a_folder_of_something_else_is_left_alone(vader, tmp_path, capsys):
    for there in ({LOCK, "thesis.tex"}, {"environment.json"}, {REPLACED}):
        out = tmp_path / "x"
        out.mkdir()
        for name in there:
            (out / name).touch()
        assert vader(*RUN, "--out", out) == 2
        assert vader(*RUN, "--out", out, "--overwrite") == 2
        assert {path.name for path in out.iterdir()} == there
        shutil.rmtree(out)


def test_a_change_that_was_cut_off_did_not_happen(folder, monkeypatch):
    run = Run(folder)
    before = run.config()
    after = validated({"trainer": {"lr": 0.5}})
    write = Run.write

    def dying(self, name, text):
        if name == "config.yaml":
            raise KeyboardInterrupt
        write(self, name, text)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            run.record(after)
    assert run.recorded() == run.config() == before
    run.record(after)
    assert run.recorded() == run.config() == after
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("lr: 0.5", "lr: 0.25"))
    assert run.recorded() == after


def test_a_damaged_newer_checkpoint_does_not_cost_a_whole_one(tmp_path):
    for step in (3, 4, 6):
        (tmp_path / f"step-{step:06d}").mkdir()
    assert [place.name for place in prune(tmp_path, 1, newest=4)] == ["step-000003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000006"]


def test_what_was_pruned_or_moved_aside_is_swept(tmp_path):
    for name in (".step-000003.gone", ".step-000004.old", ".best.old", ".best.part", "best"):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-000004"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_message(vader, folder, capsys):
    folder.chmod(0o500)
    try:
        assert resume(vader, folder, capsys)[0] == 1
    finally:
        folder.chmod(0o700)
