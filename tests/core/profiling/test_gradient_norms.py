"""Gradient norms by step equal those of the method's own gradient."""

import json
from types import SimpleNamespace

import pytest
import torch
from reference_loop import batch_of, make, step

from vader_core.profiling.gradient_norms import GradientNorms


@pytest.fixture
def norms(vader, capsys):
    def run(*more):
        arguments = "gradient-norms --backbone tiny --prompts fixed --num-steps 3 --lora-rank 2".split()
        assert vader(*arguments, *more, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("reward", [[], ["--reward", "brightness"]])
def test_every_step_has_a_norm_and_the_last_alone_is_the_last_together(norms, reward):
    found = norms(*reward, "--last", "1,3")
    assert [row["step"] for row in found["steps"]] == [0, 1, 2]
    assert all(row["norm"] > 0 for row in found["steps"])
    assert found["last"]["1"] == pytest.approx(found["steps"][2]["norm"], rel=1e-5)
    assert found["last"]["3"] > 0


def test_a_step_on_its_own_is_the_gradient_with_every_other_prediction_held(registry):
    """Against ``--gradient steps:I`` with the input detached, which holds the other predictions too."""
    parts = make(registry, "tiny", {"schedule": "flow"})
    assembly = SimpleNamespace(model=parts.model, backbone=parts.backbone, rewards=parts.rewards)
    measured = GradientNorms(assembly, batch_of(parts), fill=False)
    for one in measured.single_steps():
        found = step(parts, gradient=f"steps:{one.step}", detach_input=True, reward_frames="middle")
        norm = torch.stack([value.norm() for value in found.values()]).norm()
        assert one.norm == pytest.approx(float(norm), rel=1e-9)
