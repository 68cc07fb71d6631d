"""Several adapters on the same noise, on one page; and pages to hand on."""

from __future__ import annotations

import json
import re

import pytest

from vader_core import api
from vader_core.errors import VaderError
from vader_core.run.layers import changed


@pytest.fixture(scope="module")
def runs(tmp_path_factory, registry):
    from vader_core.api import configure, train

    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("first", 0), ("second", 1)):
        config = configure(
            registry=registry,
            backbone={"name": "tiny", "weights": "random"},
            reward=["brightness"],
            prompts="fixed",
            sampler={"num_steps": 2},
            trainer={"device": "cpu", "max_steps": 2, "lr": 0.05, "seed": seed},
            validation={"prompts": 0},
            run={"trackers": []},
        )
        train(config, out=folder / name, registry=registry)
    return folder


def test_columns_are_the_base_and_each_adapter_on_the_same_noise(runs, registry, tmp_path):
    config = changed(api.configure(from_run=runs / "first"), trainer={"seed": 3})
    subjects = [str(runs / "first"), f"{runs / 'second'}:0"]
    found = api.compare(
        subjects, config, out=tmp_path / "page.html", count=2, max_prompts=2, registry=registry
    )
    assert found["columns"] == ["base model", "first", "second × 0"]
    assert found["pairs"] == 4
    base, first, nothing = found["rewards"]["brightness"]
    assert base["difference"] is None
    assert first["difference"] != 0
    assert nothing["difference"] == 0  # an adapter that counts nothing is the base model
    assert nothing["mean"] == base["mean"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:video/mp4;base64") == 3 * 4
    # the clips are those that `sample` makes with the same seed
    alone = api.sample(config, lora=subjects[0], max_prompts=1, rewards=["brightness"], registry=registry)
    assert re.search(rf"→ <b[^>]*>|{float(alone.scores['brightness'][0]):.2g}", page)


def test_scales_make_a_grid(runs, registry, tmp_path):
    config = api.configure(from_run=runs / "first")
    found = api.compare(
        [str(runs / "first")],
        config,
        out=tmp_path / "grid.html",
        scales=[0.5, 1.0, 2.0],
        max_prompts=1,
        registry=registry,
    )
    assert found["columns"] == ["base model", "first × 0.5", "first", "first × 2"]
    means = [cell["mean"] for cell in found["rewards"]["brightness"]]
    assert len(set(means)) == 4


def test_the_command_prints_a_table(runs, vader, tmp_path, capsys):
    out = tmp_path / "page.html"
    arguments = [runs / "first", runs / "second", "--max-prompts", 1, "--out", out]
    assert vader("compare", *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(out)
    assert vader("compare", *arguments) == 0
    assert "brightness" in capsys.readouterr().out


def test_runs_of_two_backbones_are_refused(runs, registry, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("backbone: {name: another}\n")
    with pytest.raises(VaderError, match="is a run of backbone 'another', the comparison is of 'tiny'"):
        api.compare(
            [str(runs / "first"), str(other)],
            api.configure(from_run=runs / "first"),
            out=tmp_path / "x.html",
            registry=registry,
        )


def test_a_site_holds_pages_alone(runs, tmp_path, vader, capsys):
    site = tmp_path / "site"
    assert vader("export-site", runs / "first", runs / "second", "--out", site) == 0
    index = (site / "index.html").read_text()
    assert 'href="pages/first/index.html"' in index
    assert {path.suffix for path in site.rglob("*") if path.is_file()} == {".html"}
    assert vader("export-site", runs / "first", "--out", site) == 2
    assert vader("export-site", runs / "first", "--out", site, "--overwrite") == 0
    assert not (site / "pages" / "second").exists()
    assert vader("export-site", tmp_path, "--out", tmp_path / "x") == 2
    assert "neither a run directory" in capsys.readouterr().err
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    assert vader("export-site", runs / "first", "--out", mine, "--overwrite") == 2
    assert (mine / "thesis.txt").is_file()


def test_runs_are_listed_by_what_they_hold(runs):
    found = {facts.name: facts for facts in api.runs(runs)}
    assert set(found) == {"first", "second"}
    first = found["first"]
    assert (first.state, first.step, first.max_steps) == ("finished", 2, 2)
    assert (first.backbone, first.rewards) == ("tiny", ("brightness",))


def test_a_listed_run_is_what_its_files_are_now(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        "backbone:\n  name: tiny\nreward:\n- name: brightness\n- name: calm\ndata: &anchor {a: 1}\n"
        "trainer:\n  max_steps: 9\n"
    )
    (run / "metrics.jsonl").write_text('{"kind": "train", "step": 3}\n')
    (tmp_path / "link").symlink_to(run)
    (facts,) = api.runs(tmp_path)
    assert (facts.backbone, facts.rewards) == ("tiny", ("brightness", "calm"))
    assert (facts.state, facts.step, facts.max_steps) == ("stopped", 3, 9)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "train", "step": 4}\n')
    assert (api.runs(tmp_path)[0].step, api.runs(tmp_path)[0].pace) == (4, None)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(
            '{"kind": "train", "step": 5, "seconds": 2}\n{"kind": "train", "step": 6, "seconds": 4}\n'
        )
        stream.write('{"kind": "validation", "step": 6, "seconds": 9}\n{"kind": "tra')
    assert (api.runs(tmp_path)[0].step, api.runs(tmp_path)[0].pace) == (6, 3.0)
    (run / "summary.json").write_text('{"evaluation": {"calm": {"base": 1, "tuned": 2}}}')
    assert api.runs(tmp_path)[0].state == "finished"
    assert api.runs(tmp_path)[0].outcome == {"calm": (1.0, 2.0)}
    (run / "config.yaml").write_text("{backbone: {name: other}, reward: [{name: calm}]}\n")
    assert (api.runs(tmp_path)[0].backbone, api.runs(tmp_path)[0].rewards) == ("other", ("calm",))
    (run / "config.yaml").write_text("reward: [\n")
    assert (api.runs(tmp_path)[0].backbone, api.runs(tmp_path)[0].rewards) == ("", ())


def test_every_option_of_sampling_has_its_default_and_limits(registry):
    form = api.sample_options("tiny", registry=registry)
    by_key = {option.key: option for option in form.options}
    assert by_key["sampler.num_steps"].minimum == 1
    assert by_key["video.height"].default == 16
    assert by_key["trainer.precision"].choices[0] in ("fp32", "")
    assert "ddim" in by_key["sampler.name"].choices
    other = api.sample_options("tiny", sampler="euler", registry=registry)
    assert {option.key for option in other.options} != set(by_key)
    with pytest.raises(VaderError, match="unknown backbone 'x'"):
        api.sample_options("x", registry=registry)
