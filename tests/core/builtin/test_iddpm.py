"""The sampler `iddpm` beyond its contract: respacing, the learned range, frame masks."""

from __future__ import annotations

import math

import pytest
import torch

from vader_core.builtin.samplers.iddpm import IDDPM, respaced_timesteps
from vader_core.builtin.samplers.options import IDDPMOptions
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.sampler import State
from vader_core.schedule import VariancePreserving

GEOMETRY = Geometry(32, 32, 4, 8.0)
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SCHEDULE = VariancePreserving(torch.cumprod(1 - BETAS, dim=0))


def normal(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(name)), dtype=torch.float64)


def test_a_stride_that_is_added_up_decides_about_halves():
    # 10 * 49.95 is 499.5, which Python rounds to 500; the sum of ten strides falls just below.
    assert respaced_timesteps(1000, 21)[10] == 499
    assert respaced_timesteps(1000, 1000) == list(range(1000))
    assert respaced_timesteps(1000, 1) == [999]


def test_all_steps_have_the_schedules_own_coefficients():
    plan = IDDPM().plan(SCHEDULE, 1000, GEOMETRY)
    assert plan.timesteps == tuple(float(t) for t in range(999, -1, -1))
    largest = torch.tensor(plan.tables["largest_log_variance"], dtype=torch.float64).flip(0)
    torch.testing.assert_close(largest, BETAS.log(), rtol=1e-9, atol=0)


def test_float32_tables_differ_where_little_noise_is_left():
    tables = [
        torch.tensor(IDDPM(IDDPMOptions(table_dtype=dtype)).plan(SCHEDULE, 100, GEOMETRY).tables["sigma"])
        for dtype in ("float32", "float64")
    ]
    off = (tables[0] / tables[1] - 1).abs()
    assert 1e-5 < float(off[-1]) < 1e-3
    assert float(off[:50].max()) < 1e-6


def test_the_step_is_the_posterior_with_the_predicted_variance():
    sampler = IDDPM()
    plan, i = sampler.plan(SCHEDULE, 10, GEOMETRY), 4
    kept = SCHEDULE.alphas_cumprod[respaced_timesteps(1000, 10)].flip(0)
    now, before = float(kept[i]), float(kept[i + 1])
    beta = 1 - now / before
    latents, value, noise = (normal(name, 2, 4, 3, 2, 2) for name in ("latents", "a value", "noise"))
    share = torch.full_like(latents, 0.3)
    found = sampler.step(plan, i, State(latents), Prediction(value, share), noise).latents

    clean = (latents - math.sqrt(1 - now) * value) / math.sqrt(now)
    mean = (beta * math.sqrt(before) * clean + (1 - before) * math.sqrt(1 - beta) * latents) / (1 - now)
    low, high = math.log(beta * (1 - before) / (1 - now)), math.log(beta)
    deviation = math.exp((0.65 * high + 0.35 * low) / 2)
    torch.testing.assert_close(found, mean + deviation * noise, rtol=1e-9, atol=1e-12)

    # Without a prediction the variance is the posterior's own: the lower end of the range.
    lowest = sampler.step(plan, i, State(latents), Prediction(value, -torch.ones_like(share)), noise).latents
    fixed = sampler.step(plan, i, State(latents), Prediction(value), noise).latents
    torch.testing.assert_close(fixed, lowest)
    at, width = sampler.transition(plan, i, State(latents), Prediction(value))
    torch.testing.assert_close(at + width * noise, fixed)
    with pytest.raises(VaderError, match="no one deviation"):
        sampler.transition(plan, i, State(latents), Prediction(value, share))


def test_the_last_step_adds_no_noise():
    sampler = IDDPM()
    plan = sampler.plan(SCHEDULE, 4, GEOMETRY)
    latents, value = normal("latents", 1, 4, 2, 2, 2), normal("a value", 1, 4, 2, 2, 2)
    said = Prediction(value, torch.zeros_like(value))
    bare = sampler.step(plan, 3, State(latents), said, None).latents
    torch.testing.assert_close(sampler.step(plan, 3, State(latents), said, latents).latents, bare)
    torch.testing.assert_close(bare, sampler.clean(plan, 3, State(latents), said))
    assert sampler.transition(plan, 3, State(latents), Prediction(value))[1] == 0


def test_what_it_cannot_follow_is_refused():
    with pytest.raises(VaderError, match="use at most 1000"):
        IDDPM().plan(SCHEDULE, 1001, GEOMETRY)
    scaled = VariancePreserving(SCHEDULE.alphas_cumprod, scale=torch.ones(1000))
    with pytest.raises(VaderError, match="extra scale"):
        IDDPM().plan(scaled, 4, GEOMETRY)


# -- frame masks -----------------------------------------------------------------------------------------


def masked(*values: float) -> Conditioning:
    mask = torch.tensor([values])
    given = normal("given", 1, 2, len(values), 2, 2)
    tensors = {"frame_mask": mask, "reference": given}
    return Conditioning(tensors, dict(tensors))


def test_a_share_of_the_steps_is_cut_in_float32():
    sampler = IDDPM()
    plan = sampler.plan(SCHEDULE, 100, GEOMETRY)
    mask = torch.tensor([[0.0, 0.53, 0.59, 0.5, 1.0]])
    assert sampler.first_steps(plan, mask).tolist() == [[0, 52, 58, 50, 100]]
    assert sampler.first_steps(plan, mask.double()).tolist() == [[0, 52, 58, 50, 100]]


def test_frames_are_told_and_kept_by_the_mask():
    sampler = IDDPM()
    plan, conditioning = sampler.plan(SCHEDULE, 4, GEOMETRY), masked(1.0, 0.5, 0.0)
    given = conditioning.tensors["reference"]
    noise = normal("noise", 1, 2, 3, 2, 2)
    state, told = sampler.start(plan, noise), []
    for i in range(4):
        state = sampler.before_step(plan, i, state, conditioning, None)
        narrowed = sampler.told(plan, i, conditioning)
        told.append(narrowed.tensors["frame_mask"][0].tolist())
        assert torch.equal(narrowed.unconditional["frame_mask"], narrowed.tensors["frame_mask"])
        if i == 0:
            torch.testing.assert_close(state.latents[:, :, 0], noise[:, :, 0])
        if i == 1:
            # Half of four steps are the last two; the step before still counts the frame as given.
            joined = sampler.renoise(plan, 1, given, noise).latents
            torch.testing.assert_close(state.latents[:, :, 1], joined[:, :, 1])
        said = Prediction(0.3 * state.latents)
        state = sampler.after_step(plan, i, sampler.step(plan, i, state, said, noise), conditioning, noise)
        kept = [1, 2] if i == 0 else [2] if i < 3 else []
        for frame in kept:
            torch.testing.assert_close(state.latents[:, :, frame], given[:, :, frame])
    assert told == [
        [True, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]
    assert torch.equal(conditioning.tensors["frame_mask"], torch.tensor([[1.0, 0.5, 0.0]]))
    # Officially even a frame that is kept takes the last step, which moves it by a hundredth.
    off = (state.latents - given)[:, :, 2].norm() / given[:, :, 2].norm()
    assert 0 < float(off) < 0.05


def test_without_a_mask_nothing_is_told_or_kept():
    sampler = IDDPM()
    plan, conditioning = sampler.plan(SCHEDULE, 4, GEOMETRY), Conditioning({"text": torch.zeros(1, 2)})
    state = State(normal("noise", 1, 2, 3, 2, 2))
    assert sampler.told(plan, 0, conditioning) is conditioning
    assert sampler.before_step(plan, 0, state, conditioning, None) is state
    assert sampler.after_step(plan, 0, state, conditioning, None) is state
