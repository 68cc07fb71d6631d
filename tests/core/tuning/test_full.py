"""Full weights: what learns, what is put back, and the file under official names."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from vader_core.errors import VaderError
from vader_core.testing.tiny import tiny_backbone
from vader_core.tuning.full import WEIGHTS_FILE, Full

RUN = "train --backbone tiny --reward brightness --prompts fixed --num-steps 2 --tune full --quiet".split()
FAST = ["-o", "validation.prompts=0", "-o", "run.trackers=[]"]


def moved(full):
    with torch.no_grad():
        for parameter in full.parameters().values():
            parameter.add_(1.0)
    return full


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_everything_learns_or_what_is_named():
    backbone = tiny_backbone()
    every = dict(backbone.denoiser.named_parameters())
    assert Full(backbone.denoiser).parameters().keys() == every.keys()
    named = Full(tiny_backbone().denoiser, ["blocks.0", "proj_out"])
    assert named.parameters().keys() == {
        name for name in every if name.startswith(("blocks.0.", "proj_out."))
    }
    learning = {name for name, parameter in named.denoiser.named_parameters() if parameter.requires_grad}
    assert learning == named.parameters().keys()
    with pytest.raises(VaderError, match=r"tuning\.modules: 'block' matches no weight of the denoiser"):
        Full(tiny_backbone().denoiser, ["block"])


def test_weights_of_16_bits_learn_in_32():
    backbone = tiny_backbone(dtype=torch.bfloat16)
    full = Full(backbone.denoiser, ["proj_out"])
    assert {value.dtype for value in full.parameters().values()} == {torch.float32}
    assert backbone.denoiser.proj_in.weight.dtype == torch.bfloat16


def test_the_base_model_comes_back_and_goes():
    full = Full(tiny_backbone().denoiser)
    base = full.snapshot()
    tuned = moved(full).snapshot()
    with full.off():
        assert same(full.snapshot(), base)
    assert same(full.snapshot(), tuned)
    with full.scaled(0.5):
        assert all(
            torch.allclose(value, (base[name] + tuned[name]) / 2) for name, value in full.snapshot().items()
        )
    with full.using(base):
        assert same(full.snapshot(), base)
    assert same(full.snapshot(), tuned)
    full.set_strength(0.0)
    assert same(full.snapshot(), base)


def test_there_is_no_base_model_inside_an_update():
    full = Full(tiny_backbone().denoiser)
    with full.dropout(0), pytest.raises(VaderError, match="inside an update"), full.off():
        raise AssertionError("the weights of the graph were replaced")
    with full.off():
        pass


def test_the_file_has_official_names_and_is_read_back(tmp_path):
    def official(tensors):
        return {f"model.{name}": value for name, value in tensors.items()}

    def own(tensors):
        return {name.removeprefix("model."): value for name, value in tensors.items()}

    full = moved(Full(tiny_backbone().denoiser, ["proj_out"], to_official=official, from_official=own))
    full.save(tmp_path)
    stored = load_file(tmp_path / WEIGHTS_FILE)
    assert stored.keys() == {f"model.{name}" for name in full.denoiser.state_dict()}
    again = Full(tiny_backbone().denoiser, ["proj_out"], to_official=official, from_official=own)
    assert not same(again.snapshot(), full.snapshot())
    again.load(tmp_path)
    assert same(again.snapshot(), full.snapshot())
    wider = tiny_backbone(width=2 * tiny_backbone().config.width)
    with pytest.raises(VaderError, match="was saved for another model"):
        Full(wider.denoiser, from_official=own).load(tmp_path)
    with pytest.raises(VaderError, match=f"there is no {WEIGHTS_FILE}"):
        again.load(tmp_path / "nowhere")


def test_a_run_resumes_to_the_bit_with_its_average(vader, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = [*RUN, *FAST, "-o", "trainer.ema=0.9"]
    assert vader(*common, "--max-steps", 3, "--out", whole) == 0
    assert vader(*common, "--max-steps", 2, "--out", parts) == 0
    assert vader("train", "--resume", parts, "--allow-changes", "--max-steps", 3, "--quiet") == 0
    files = [run / "checkpoints" / "step-000003" / WEIGHTS_FILE for run in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert vader("sample", "--lora", whole, "--max-prompts", 1, "--out", tmp_path / "clips") == 0
    assert len(list((tmp_path / "clips").glob("00-*.mp4"))) == 1


def test_base_and_tuned_are_compared(vader, tmp_path):
    run = tmp_path / "run"
    arguments = [*RUN, "--max-steps", 3, "--lr", "0.01", "--out", run, "-o", "validation.evaluation_pairs=4"]
    assert vader(*arguments, "-o", "validation.prompts=0", "-o", "run.trackers=[]") == 0
    found = json.loads((run / "summary.json").read_text())["evaluation"]["brightness"]
    assert found["difference"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lora-rank", "4"], "--tune full trains no adapter, so lora.rank has no effect"),
        (["-o", "performance.fold_adapter=true"], "needs weights that do not learn"),
        (["-o", "objective.reward_gradient.base_weight=1"], "compares with the base model inside an update"),
        (["-o", "tuning.modules=[nowhere]"], "'nowhere' matches no weight"),
    ],
)
def test_what_does_not_fit_is_refused(vader, capsys, arguments, said):
    assert vader(*RUN, *FAST, *arguments, "--dry-run", "--device", "cpu") == 2
    assert said in capsys.readouterr().err
