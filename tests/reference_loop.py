"""The paper's algorithm written by hand, which the toolkit's update must equal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vader_core.lora.adapter import LoraSettings
from vader_core.lora.tuning import Lora
from vader_core.method.guidance import Guidance
from vader_core.method.mixture import Mixture, Term
from vader_core.method.model import Model
from vader_core.method.objective import Batch
from vader_core.method.options import RewardGradientOptions
from vader_core.method.reward_gradient import RewardGradient
from vader_core.prompts import PromptSource
from vader_core.randomness import Randomness

STEPS = 5


@dataclass
class Parts:
    """What an update is made from."""

    model: Model
    rewards: Mixture
    prompts: PromptSource
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def backbone(self):
        return self.model.backbone

    @property
    def geometry(self):
        return self.model.geometry

    def with_model(self, **changes):
        """The same parts with a changed model."""
        return replace(self, model=replace(self.model, **changes, _plans={}))


def make(registry, backbone, options, *, sampler="rectified_flow", dtype=torch.float64, prompts="fixed"):
    """A model with a filled LoRA, two rewards, and prompts."""
    made = registry.get("backbone", backbone).make(options, device=torch.device("cpu"), dtype=dtype)
    made.load()
    tuning = Lora(made.denoiser, LoraSettings(rank=2, alpha=4, targets=made.lora_targets, seed=3))
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in tuning.parameters().values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    rewards = Mixture(
        (
            Term("brightness", registry.get("reward", "brightness").make({}, device="cpu", dtype=dtype), 1.5),
            Term("motion", registry.get("reward", "motion").make({}, device="cpu", dtype=dtype), 0.5),
        )
    )
    solver = registry.get("sampler", sampler).make({}, device="cpu", dtype=dtype)
    model = Model(made, solver, Guidance(2.5), STEPS, made.defaults.geometry, tuning)
    source = registry.get("prompt source", prompts).make({}, device="cpu", dtype=dtype)
    return Parts(model, rewards, source)


def gradients(parts):
    """Every LoRA gradient by name."""
    return {name: value.grad.clone() for name, value in parts.model.tuning.parameters().items()}


def forget(parts):
    """No gradient is left of an earlier update."""
    for parameter in parts.model.tuning.parameters().values():
        parameter.grad = None


def batch_of(parts, indices=(0, 1)):
    return Batch(parts.prompts.draw(list(indices), 7), parts.geometry, Randomness(7, 0, 0, tuple(indices)))


def update(parts, *, indices=(0, 1), backward=None, updates=1, **options):
    """The results of an objective's updates over one batch; the last one's gradients are left."""
    objective = RewardGradient(RewardGradientOptions(**options))
    objective.use(parts.rewards)
    (prepared,) = objective.prepare(parts.model, [batch_of(parts, indices)], None)
    results = []
    for number in range(updates):
        forget(parts)
        results.append(objective.step(parts.model, prepared, backward or torch.Tensor.backward, number))
    return results


def step(parts, **options):
    """The toolkit's gradients."""
    update(parts, **options)
    return gradients(parts)


def by_hand(parts, chosen, *, detach=False, refl_at=None, guide=None, pull=0.0):
    """The paper's algorithm in one loop, for the rectified flow x' = x + (tau' - tau) v.

    ``guide(i, conditional, unconditional)`` makes the velocity of a step that is not differentiated; by
    default guidance of scale 2.5. ``pull`` weighs the squared distance to the base model at the others.
    """
    model, geometry = parts.backbone, parts.geometry
    batch = batch_of(parts)
    asked, rng = batch.prompts, batch.rng
    text = model.encode_text(asked)
    conditioning = model.condition(text, asked, geometry, rng)
    latents = model.initial_noise(2, geometry, rng)
    plan = parts.model.plan(geometry)
    taus = [t / model.schedule.num_train_timesteps for t in plan.timesteps] + [0.0]

    def guided(given, i):
        timestep = torch.full((2,), plan.timesteps[i], dtype=latents.dtype)
        conditional = model.predict(given, timestep, conditioning.conditional_branch).value
        unconditional = model.predict(given, timestep, conditioning.unconditional_branch).value
        return conditional, unconditional, unconditional + 2.5 * (conditional - unconditional)

    forget(parts)
    distances = []
    for i in range(STEPS):
        given = latents.detach() if detach or i not in chosen else latents
        conditional, unconditional, velocity = guided(given, i)
        if guide is not None and i not in chosen:
            velocity = guide(i, conditional, unconditional)
        if i in chosen:
            with torch.no_grad(), parts.model.tuning.off():
                base = guided(given.detach(), i)[2]
            distances.append((velocity - base).pow(2).flatten(1).mean(dim=1))
        else:
            velocity = velocity.detach()
        if refl_at == i:
            latents = latents - taus[i] * velocity
            break
        latents = latents + (taus[i + 1] - taus[i]) * velocity
        if i < min(chosen):
            latents = latents.detach()
    video = model.decode(latents, geometry)
    brightness, motion = (term.reward for term in parts.rewards.terms)
    total = 1.5 * brightness(video, asked, rng).loss + 0.5 * motion(video, asked, rng).loss
    loss = total.mean()
    if pull:
        loss = loss + pull * torch.stack(distances).mean()
    loss.backward()
    return gradients(parts)


def assert_equal(left, right, tolerance=1e-10):
    """Both are the same to ``tolerance``, and not nothing."""
    assert left.keys() == right.keys()
    scale = max(float(value.abs().max()) for value in right.values())
    assert scale > 1e-8, "the reference gradient vanishes, so the comparison would prove nothing"
    for name, value in left.items():
        assert float((value - right[name]).abs().max()) <= tolerance * max(1.0, scale), name
