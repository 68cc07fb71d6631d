"""How much of the reward's gradient each sampling step carries: the measure behind ``--gradient``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import click
import torch
from torch import Tensor, nn

from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.method.denoise import Sampling, denoise
from vader_core.method.gradient import Drawn
from vader_core.method.guidance import Guidance
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness, derive_seed
from vader_opensora.backbone import OpenSora
from vader_opensora.options import OpenSoraOptions
from vader_opensora.sampler import RFlow

PROMPT = "a fox runs over a field of snow"
#: Standard deviation of ``lora_B`` here; at its start of zero, ``lora_A`` would have no gradient.
SECOND_HALF = 0.02


@dataclass(frozen=True)
class StepNorm:
    """One sampling step differentiated on its own.

    Args:
        step: Executed step.
        timestep: What the model is told, 0 … 1000.
        size: Share of the way from noise to data that the step goes.
        norm: Of the LoRA's gradient.
    """

    step: int
    timestep: float
    size: float
    norm: float


class Measurement:
    """One rollout with everything that differentiating it takes.

    The loss is minus the mean brightness of the middle frame, which stands for a reward with a dense
    gradient: norms compare steps with each other, not models or rewards.

    Args:
        backbone: Loaded; gets a LoRA.
        request: The video's size.
        num_steps: Sampling steps S.
        rank: Of the LoRA, with alpha 8.
        seed: Of noise and LoRA.
    """

    def __init__(
        self,
        backbone: OpenSora,
        request: GeometryRequest,
        num_steps: int,
        *,
        rank: int = 16,
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.geometry: Geometry = backbone.resolve_geometry(request)
        targets = backbone.lora_targets
        attach_lora(backbone.denoiser, LoraSettings(rank=rank, alpha=8, targets=targets, seed=seed))
        self.parameters = adapter_parameters(backbone.denoiser)
        _fill_second_half(self.parameters, seed)
        sampler = RFlow(conditioning_dtype=getattr(torch, backbone.options.conditioning_dtype))
        plan = sampler.plan(backbone.schedule, num_steps, self.geometry)
        self.sampling = Sampling(sampler, plan, Guidance(backbone.defaults.guidance_scale))
        self.rng = Randomness(seed)
        prompts = [Prompt(PROMPT)]
        text = backbone.encode_text(prompts)
        self.conditioning: Conditioning = backbone.condition(text, prompts, self.geometry, self.rng)
        self.noise = backbone.initial_noise(1, self.geometry, self.rng)

    def single_steps(self) -> Iterator[StepNorm]:
        """Each step on its own: the reward's gradient at the clean latents, carried into one prediction."""
        plan, sampler = self.sampling.plan, self.sampling.sampler
        inputs, final = self._rollout()
        final.requires_grad_()
        self._loss(final).backward()
        direction = final.grad
        for i, latents in enumerate(inputs):
            self.backbone.denoiser.zero_grad()
            with self._differentiating():
                prediction = self._predict(i, latents)
            state = sampler.step(plan, i, sampler.start(plan, latents), prediction, None)
            state.latents.backward(direction)
            yield StepNorm(i, plan.timesteps[i], plan.tables["size"][i], self._norm())

    def last_steps(self, count: int) -> float:
        """The last ``count`` steps together, as ``--gradient last:COUNT`` differentiates them."""
        self.backbone.denoiser.zero_grad()
        total = self.sampling.plan.num_steps
        drawn = Drawn(frozenset(range(total - count, total)))
        with self._differentiating():
            rollout = denoise(self.backbone, self.sampling, self.noise, self.conditioning, drawn, self.rng)
            loss = self._loss(rollout.latents)
        loss.backward()
        return self._norm()

    @torch.no_grad()
    def _rollout(self) -> tuple[list[Tensor], Tensor]:
        plan, sampler = self.sampling.plan, self.sampling.sampler
        state, inputs = sampler.start(plan, self.noise), []
        for i in range(plan.num_steps):
            inputs.append(state.latents)
            state = sampler.step(plan, i, state, self._predict(i, state.latents), None)
        return inputs, state.latents

    def _predict(self, i: int, latents: Tensor) -> Tensor:
        timestep = torch.full((len(latents),), self.sampling.plan.timesteps[i], device=latents.device)
        guidance = self.sampling.guidance
        return guidance.predict(self.backbone, latents, timestep.to(latents.dtype), self.conditioning)

    def _loss(self, latents: Tensor) -> Tensor:
        return -self.backbone.decode(latents, self.geometry, [self.geometry.num_frames // 2]).mean()

    def _differentiating(self) -> AbstractContextManager[None]:
        return self.backbone.checkpointing(True)

    def _norm(self) -> float:
        norms = [value.grad.norm() for value in self.parameters.values() if value.grad is not None]
        return float(torch.stack(norms).norm())


@torch.no_grad()
def _fill_second_half(parameters: dict[str, nn.Parameter], seed: int) -> None:
    for name, value in parameters.items():
        if ".lora_B." in name:
            generator = torch.Generator().manual_seed(derive_seed(seed, "gradient norms", name))
            value.copy_(torch.randn(value.shape, generator=generator) * SECOND_HALF)


def report(measurement: Measurement, last: Sequence[int]) -> Iterator[str]:
    """The measurement as lines of text."""
    yield f"{measurement.geometry}, {measurement.sampling.plan.num_steps} steps"
    yield "step  timestep  step size  gradient norm"
    for one in measurement.single_steps():
        yield f"{one.step:4d}  {one.timestep:8.2f}  {one.size:9.4f}  {one.norm:13.3e}"
    for count in last:
        yield f"last:{count:<3d} together        {measurement.last_steps(count):13.3e}"


@click.command()
@click.option("--architecture", type=click.Choice(["tiny", "full"]), default="tiny", help="Sizes.")
@click.option("--weights", default="random", help="As of `vader train`.")
@click.option("--resolution", default="240p", help="As of the backbone.")
@click.option("--num-frames", default="2s", help="Frames, or 2s and the like.")
@click.option("--num-steps", type=int, default=30, help="Sampling steps S.")
@click.option("--last", default="1,2,5,10", help="Counts of last steps to measure together.")
@click.option("--device", default=None, help="cpu or cuda; the accelerator that is there by default.")
@click.option("--seed", type=int, default=0, help="Of noise and LoRA.")
def command(**given: str | int | None) -> None:
    """Print the gradient norm of a LoRA for every sampling step, and for the last few together."""
    device = torch.device(str(given["device"] or ("cuda" if torch.cuda.is_available() else "cpu")))
    options = OpenSoraOptions(
        weights=str(given["weights"]),
        architecture=str(given["architecture"]),
        resolution=str(given["resolution"]),
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backbone = OpenSora(options, device=device, dtype=dtype)
    backbone.load()
    request = GeometryRequest(num_frames=str(given["num_frames"]))
    measurement = Measurement(backbone, request, int(given["num_steps"] or 0), seed=int(given["seed"] or 0))
    counts = [int(word) for word in str(given["last"]).split(",") if word]
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        for line in report(measurement, counts):
            click.echo(line)
