"""`vader check` and `vader new-plugin`, and what they are made of."""

import json

import pytest
import torch

from vader_core.cli import run
from vader_core.cli.check import check_command, options_of
from vader_core.cli.new_plugin import write_plugin
from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.registry import KINDS, load_registry
from vader_core.testing import BrightnessReward, ConformanceError, add_testing_plugin
from vader_core.testing.probe import blurred, changes, probe, saliency
from vader_core.testing.rewards import moving_patterns
from vader_core.video import read_video

FLAGS = {
    **{"options": (), "height": None, "width": None, "num_frames": None, "device": "cpu", "as_json": False},
    **{"prompt": "a boat", "video": None, "saliency": None},
}


@pytest.fixture(scope="module")
def registry():
    return add_testing_plugin(load_registry())


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("backbone", "tiny", ("backbone.schedule=v", "backbone.temporal_compression=2")),
        ("reward", "motion", ()),
        ("prompts", "fixed", ("prompts.count=3",)),
        ("objective", "reward_gradient", ("objective.reward_gradient.inner_updates=2",)),
    ],
)
def test_check_prints_a_line_a_clause(registry, capsys, kind, name, options):
    check_command({**FLAGS, "kind": kind, "name": name, "options": options}, registry)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines[:8])
    assert "BROKEN" not in "".join(lines)
    passed = sum(line.startswith("ok ") for line in lines)
    assert passed >= 8
    assert lines[-1].endswith(f" {name!r}: {passed} passed, 0 failed")


def test_check_a_sampler_from_the_command_line(capsys):
    assert run(["check", "sampler", "ddim", "-o", "sampler.eta=1.0"]) == 0
    assert "steps with fresh noise" in capsys.readouterr().out


def test_check_of_a_reward_tells_gradient_and_steadiness_as_json(registry, capsys, tmp_path):
    film = tmp_path / "look.mp4"
    check_command(
        {**FLAGS, "kind": "reward", "name": "brightness", "as_json": True, "saliency": film}, registry
    )
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True
    assert {clause["clause"] for clause in told["clauses"]} >= {"finite_differences", "determinism"}
    assert told["gradient_norm"] == pytest.approx((2 * 3 * 64 * 64) ** -0.5, rel=1e-4)
    assert told["changed"]["brightness x1.1"] == pytest.approx(1.1 * told["score"], rel=1e-4)
    assert abs(told["changed"]["blur 2 px"] - told["score"]) < 1e-2
    assert read_video(film).shape == (2, 3, 64, 128)


def test_a_broken_clause_ends_in_one_message(registry, capsys):
    flags = {**FLAGS, "kind": "backbone", "name": "tiny", "options": ("backbone.weights=pretrained",)}
    with pytest.raises(ConformanceError, match="backbone 'tiny' breaks the clause") as caught:
        check_command(flags, registry)
    assert "weights 'pretrained' do not exist" in str(caught.value)
    lines = capsys.readouterr().out.splitlines()
    passed, failed = (sum(line.startswith(word) for line in lines) for word in ("ok ", "BROKEN "))
    assert failed > 1
    assert lines[-1] == f"backbone 'tiny': {passed} passed, {failed} failed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "sampler", "ddim", "--height", "8"], "--height means nothing for a sampler"),
        (["check", "reward", "brightnes"], "unknown reward 'brightnes'"),
        (["check", "sampler", "ddim", "-o", "eta=1"], "-o sampler.KEY=VALUE"),
        (["check", "sampler", "ddim", "-o", "sampler.etta=1"], "did you mean 'eta'?"),
        (["check", "rewards", "x"], "is not one of"),
        (["new-plugin", "9lives", "--kind", "reward"], "'9lives' is not a name"),
        (["new-plugin", "class", "--kind", "reward"], "'class' is not a name"),
        (["new-plugin", "name"], "Missing option '--kind'"),
        (["new-plugin", "ends_", "--kind", "reward"], "'ends_' is not a name"),
        (["new-plugin", "core", "--kind", "reward"], "vader-core is a package of this project"),
        (["new-plugin", "rewards", "--kind", "sampler"], "vader-rewards is a package of this project"),
        (["new-plugin", "latte", "--kind", "prompts"], "vader-latte is a package of this project"),
        (["new-plugin", "hps", "--kind", "reward"], "the reward 'hps' is vader-rewards's: choose another"),
        (["new-plugin", "ddim", "--kind", "sampler"], "the sampler 'ddim' is the plugin 'builtin''s"),
    ],
)
def test_a_mistake_ends_in_one_message(capsys, words, message):
    assert run(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_options_are_read_as_in_a_run():
    given = options_of("reward", "x", ("reward.x.target=0.5", "reward.x.on=true"))
    assert given == {"target": "0.5", "on": "true"}  # read by the option's type, later
    with pytest.raises(VaderError, match=r"-o reward\.x\.KEY=VALUE"):
        options_of("reward", "x", ("reward.y.target=0.5",))


def test_an_existing_folder_is_not_overwritten(tmp_path):
    for kind in (facts.word for facts in KINDS.values()):
        folder = write_plugin(f"my_{kind}", kind, tmp_path / kind)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert len(before) == 7
        assert not [path for path, text in before.items() if b"$" in text]
        with pytest.raises(VaderError, match="exists and is not empty"):
            write_plugin(f"my_{kind}", kind, folder)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_blur_keeps_a_flat_picture_and_the_mean_of_a_spot():
    flat = torch.full((2, 3, 16, 16), 0.3)
    assert torch.allclose(blurred(flat, 1.5), flat, atol=1e-6)
    spot = torch.zeros(1, 3, 33, 33)
    spot[..., 16, 16] = 1.0
    soft = blurred(spot, 2.0)
    assert float(soft.sum()) == pytest.approx(3.0, rel=1e-5)
    offsets = torch.arange(33) - 16.0
    spread = (soft[0, 0].sum(0) * offsets**2).sum().sqrt()
    assert float(spread) == pytest.approx(2.0, rel=0.02)


def test_a_shift_moves_the_picture_right_and_down():
    video = moving_patterns(1, 2, 16, 16)[0]
    shifted = dict(changes(video))["shift 2 px"]
    assert torch.equal(shifted[..., 2:, 2:], video[..., :-2, :-2])


def test_saliency_is_red_where_the_gradient_is():
    video = torch.full((1, 3, 8, 8), 0.5)
    gradient = torch.zeros(1, 3, 8, 8)
    gradient[..., 2, 3] = 1.0
    beside = saliency(video, gradient)
    assert beside.shape == (1, 3, 8, 16)
    assert torch.equal(beside[..., :8], video)
    assert beside[0, :, 2, 11].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-5)
    assert beside[0, 0, 5, 11] == beside[0, 1, 5, 11]


def test_a_probe_without_a_gradient_has_none():
    class Still(BrightnessReward):
        differentiable = False

        def score_frames(self, frames, prompts):
            return super().score_frames(frames.detach(), prompts)

    found = probe(Still(), moving_patterns(1, 2, 16, 16)[0], Prompt("x"))
    assert found.gradient_norm is None
    assert "gradient norm         none" in found.lines()


@pytest.mark.slow
def test_installed_samplers_pass():
    from vader_core.testing import check_sampler

    registry = load_registry()
    for name in registry.components["sampler"]:
        assert check_sampler(name, registry=registry).passed
