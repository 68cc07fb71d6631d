"""The two measurements that the documentation's tables come from."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from vader_svd.measure import decode_rows, gradient_rows, main
from vader_svd.reach import karras_sigmas, reach

from vader_core import Geometry, Randomness
from vader_core.builtin.samplers.euler import Euler
from vader_core.lora.adapter import LoraSettings, attach_lora
from vader_core.method.gradient import parse_gradient
from vader_core.prediction import Prediction
from vader_core.sampler import State
from vader_core.schedule import VarianceExploding


def test_the_reach_is_the_derivative_of_the_sampler():
    euler = Euler()
    plan = euler.plan(VarianceExploding(0.002, 700.0), 6, Geometry(8, 8, 1, 7))
    predictions = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    state = State(torch.ones(1, dtype=torch.float64))
    for step in range(6):
        state = euler.step(plan, step, state, Prediction(predictions[step]), None)
    (derivative,) = torch.autograd.grad(state.latents.sum(), predictions)
    torch.testing.assert_close(
        derivative.abs(), torch.tensor(reach(plan.tables["sigma"]), dtype=torch.float64)
    )


def test_the_noise_levels_are_the_samplers():
    for steps in (1, 2, 25):
        plan = Euler().plan(VarianceExploding(0.002, 700.0), steps, Geometry(8, 8, 1, 7))
        assert karras_sigmas(0.002, 700.0, steps) == pytest.approx(plan.tables["sigma"])


def test_the_default_step_is_the_one_that_reaches_farthest(make_backbone):
    backbone = make_backbone(load=False)
    assert backbone.defaults.gradient == "steps:17"
    for steps in (1, 2, 5, 50):
        gradient = parse_gradient(backbone.default_gradient(steps))
        gradient.check(steps)
        (chosen,) = gradient.draw(steps, Randomness(0)).steps
        factors = reach(karras_sigmas(0.002, 700.0, steps))
        assert factors[chosen] == max(factors)
    assert reach(karras_sigmas(0.002, 700.0, 25))[-1] == pytest.approx(0.002, rel=1e-3)


@pytest.mark.soak
def test_the_default_gradient_outweighs_the_last_step(make_backbone):
    backbone = make_backbone()
    attach_lora(backbone.denoiser, LoraSettings(2, 2.0, backbone.lora_targets))
    default = backbone.defaults.gradient
    geometry = Geometry(16, 16, 2, 7)
    rows = {
        row.gradient: row
        for row in gradient_rows(backbone, geometry, backbone.defaults.num_steps, ["last", default])
    }
    assert rows[default].norm > 50 * rows["last"].norm
    assert rows["last"].sigma == pytest.approx(0.002)


def test_the_error_falls_with_the_neighbours_to_nothing(make_backbone):
    backbone = make_backbone(neighbours=3)
    rows = list(decode_rows(backbone, Geometry(16, 16, 5, 7)))
    assert [row.decoded for row in rows] == [1, 3, 5]
    assert rows[0].rms > rows[1].rms > rows[2].rms == 0
    assert backbone.config.neighbours == 3


@pytest.mark.slow_cases("command0-*")
@pytest.mark.parametrize(
    ("command", "heads", "rows"),
    [(["gradient", "--num-steps", "2"], "sigma", 4), (["decode"], "RMS", 2)],
)
def test_the_commands_print_tables(command, heads, rows):
    flags = ["--height", "16", "--width", "16", "--num-frames", "2"]
    result = CliRunner().invoke(main, [*command, *flags])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("|")]
    assert heads in lines[0]
    assert len(lines) == rows + 2


def test_a_mistake_is_one_message():
    result = CliRunner().invoke(main, ["decode", "--height", "15"])
    assert result.exit_code == 1
    assert "height=15 is not allowed: use a multiple of 2" in result.output
