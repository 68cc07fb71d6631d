"""The paper's algorithm written by hand, which the toolkit's step must equal."""

from __future__ import annotations

from dataclasses import replace

import torch

from vader_core.lora.adapter import LoraSettings, adapter_off, adapter_parameters, attach_lora
from vader_core.method.denoise import Sampling
from vader_core.method.guidance import Guidance
from vader_core.method.mixture import Mixture, Term
from vader_core.method.settings import StepSettings
from vader_core.method.step import reward_gradient_step
from vader_core.randomness import Randomness

STEPS = 5


def make(registry, backbone, options, *, sampler="rectified_flow", dtype=torch.float64, prompts="fixed"):
    """Backbone with a filled LoRA, two rewards, the settings of a step, and prompts."""
    model = registry.get("backbone", backbone).make(options, device=torch.device("cpu"), dtype=dtype)
    model.load()
    attach_lora(model.denoiser, LoraSettings(rank=2, alpha=4, targets=model.lora_targets, seed=3))
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in adapter_parameters(model.denoiser).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    rewards = Mixture(
        (
            Term("brightness", registry.get("reward", "brightness").make({}, device="cpu", dtype=dtype), 1.5),
            Term("motion", registry.get("reward", "motion").make({}, device="cpu", dtype=dtype), 0.5),
        )
    )
    solver = registry.get("sampler", sampler).make({}, device="cpu", dtype=dtype)
    geometry = model.defaults.geometry
    sampling = Sampling(solver, solver.plan(model.schedule, STEPS, geometry), Guidance(2.5))
    source = registry.get("prompt source", prompts).make({}, device="cpu", dtype=dtype)
    return model, rewards, StepSettings(geometry=geometry, sampling=sampling), source


def gradients(model):
    """Every LoRA gradient by name."""
    return {name: value.grad.clone() for name, value in adapter_parameters(model.denoiser).items()}


def step(model, rewards, settings, prompts, **changes):
    """The toolkit's gradients."""
    for parameter in adapter_parameters(model.denoiser).values():
        parameter.grad = None
    indices = changes.pop("indices", (0, 1))
    reward_gradient_step(
        model,
        rewards,
        prompts.draw(indices, 7),
        replace(settings, **changes),
        Randomness(7, 0, 0, tuple(indices)),
        adapter_off=lambda: adapter_off(model.denoiser),
    )
    return gradients(model)


def by_hand(model, rewards, settings, prompts, chosen, *, detach=False, refl_at=None, guide=None):
    """The paper's algorithm in one loop, for the rectified flow x' = x + (tau' - tau) v.

    ``guide(i, conditional, unconditional)`` makes the velocity; by default guidance of scale 2.5.
    """
    rng = Randomness(7, 0, 0, (0, 1))
    asked = prompts.draw((0, 1), 7)
    text = model.encode_text(asked)
    conditioning = model.condition(text, asked, settings.geometry, rng)
    latents = model.initial_noise(2, settings.geometry, rng)
    plan = settings.sampling.plan
    taus = [t / model.schedule.num_train_timesteps for t in plan.timesteps] + [0.0]
    for parameter in adapter_parameters(model.denoiser).values():
        parameter.grad = None
    for i in range(STEPS):
        given = latents.detach() if detach or i not in chosen else latents
        timestep = torch.full((2,), plan.timesteps[i], dtype=latents.dtype)
        conditional = model.predict(given, timestep, conditioning.conditional_branch)
        unconditional = model.predict(given, timestep, conditioning.unconditional_branch)
        velocity = unconditional + 2.5 * (conditional - unconditional)
        if guide is not None and i not in chosen:
            velocity = guide(i, conditional, unconditional)
        velocity = velocity if i in chosen else velocity.detach()
        if refl_at == i:
            latents = latents - taus[i] * velocity
            break
        latents = latents + (taus[i + 1] - taus[i]) * velocity
        if i < min(chosen):
            latents = latents.detach()
    video = model.decode(latents, settings.geometry)
    brightness, motion = (term.reward for term in rewards.terms)
    total = 1.5 * brightness(video, asked, rng).loss + 0.5 * motion(video, asked, rng).loss
    total.mean().backward()
    return gradients(model)


def assert_equal(left, right, tolerance=1e-10):
    """Both are the same to ``tolerance``, and not nothing."""
    assert left.keys() == right.keys()
    scale = max(float(value.abs().max()) for value in right.values())
    assert scale > 1e-8, "the reference gradient vanishes, so the comparison would prove nothing"
    for name, value in left.items():
        assert float((value - right[name]).abs().max()) <= tolerance * max(1.0, scale), name
