"""The script that builds the weights: every stage at a tiny scale, interrupted and resumed."""

from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from vader_demo import build
from vader_demo.accuracy import load_parts

CPU = torch.device("cpu")


def run(work, seconds):
    arguments = ["--work", str(work), "--scale", "tiny", "--device", "cpu", "--piece-seconds", str(seconds)]
    return build.main(arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    work = tmp_path_factory.mktemp("whole")
    assert run(work, 600) == 0
    return work


@pytest.mark.soak
def test_a_build_in_pieces_is_the_build_in_one(built, tmp_path):
    assert run(tmp_path, 0) == build.LEFT_TO_DO
    assert (tmp_path / "autoencoder.partial-position.safetensors").exists()
    assert run(tmp_path, 600) == 0
    for name in ("model", "rewards", "judges"):
        whole, pieces = (load_file(work / "weights" / f"{name}.safetensors") for work in (built, tmp_path))
        assert whole.keys() == pieces.keys()
        assert all(torch.equal(whole[key], pieces[key]) for key in whole)
    assert not list(tmp_path.glob("*.partial-*"))


@pytest.mark.slow
def test_what_was_built_can_be_measured_and_has_the_shipped_shapes(built):
    parts = load_parts(built / "weights", CPU)
    assert parts.denoiser.patch_in.out_features == 160


def test_training_resumes_exactly(tmp_path):
    def job(folder, deadline):
        folder.mkdir(exist_ok=True)
        return build.Job(folder, build.SCALES["tiny"], CPU, 3, deadline, False)

    def module():
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    def loss(model):
        def draw(generator):
            return (model(torch.randn(5, 3, generator=generator)) - 1).square().mean()

        return draw

    recipe = build.Recipe("line", build.Length(steps=7), 0.1)
    whole = module()
    build.train(job(tmp_path / "whole", time.monotonic() + 60), recipe, whole, loss(whole))
    pieces = 0
    while not (tmp_path / "pieces" / "line.done.safetensors").exists():
        part = module()
        try:
            build.train(job(tmp_path / "pieces", 0.0), recipe, part, loss(part))
        except build.PieceOverError:
            pieces += 1
    assert pieces == 7
    final = load_file(tmp_path / "pieces" / "line.done.safetensors")
    assert torch.equal(final["weight"], whole.weight)
    assert torch.equal(final["bias"], whole.bias)


def test_wear_says_how_worn_a_clip_is():
    video = torch.rand(64, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    worn, amount = build.wear(video, torch.Generator().manual_seed(1))
    change = (worn - video).abs().mean((1, 2, 3, 4))
    assert float(change[amount == 0].max()) < 1e-6
    assert float(change[amount > 0.5].min()) > 0.01


def test_silence_leaves_out_what_it_says():
    named = torch.zeros(1000, 4, dtype=torch.int64)
    chances = torch.tensor([0.0, 1.0, 0.5, 0.0])
    said = build.silence(named, chances, torch.Generator().manual_seed(0))
    assert torch.equal(said[:, 0], named[:, 0])
    assert bool((said[:, 1] == 8).all())
    assert 400 < int((said[:, 2] == 6).sum()) < 600
