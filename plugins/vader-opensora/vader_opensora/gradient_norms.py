"""How much of the reward's gradient each sampling step carries: the measurement behind the default of ``--gradient``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click
import torch
from torch import Tensor
from vader_core.denoise import Sampling, denoise
from vader_core.geometry import GeometryRequest
from vader_core.gradient import Drawn
from vader_core.guidance import Guidance
from vader_core.lora import LoraSettings, adapter_parameters, attach_lora
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness, derive_seed

from vader_opensora.backbone import OpenSora
from vader_opensora.options import OpenSoraOptions
from vader_opensora.sampler import RFlow

PROMPT = "a fox runs over a field of snow"


@dataclass(frozen=True)
class StepNorm:
    """One sampling step alone differentiated.

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


def measure(
    backbone: OpenSora, request: GeometryRequest, num_steps: int, steps: list[int], *, rank: int = 16, seed: int = 0
) -> Iterator[StepNorm]:
    """Gradient norm of the LoRA for each of ``steps``, differentiated on its own.

    The loss is the mean brightness of the middle frame, a stand-in for a reward with a dense gradient; norms compare steps
    with each other, not models. ``lora_B`` is given small random values, so that both halves of the LoRA have a gradient.

    Args:
        backbone: Loaded; gets a LoRA.
        request: The video's size.
        num_steps: Sampling steps S.
        steps: Which of them.
        rank: Of the LoRA.
        seed: Of noise and LoRA.
    """
    geometry = backbone.resolve_geometry(request)
    attach_lora(backbone.denoiser, LoraSettings(rank=rank, alpha=8, targets=backbone.lora_targets, seed=seed))
    parameters = adapter_parameters(backbone.denoiser)
    _fill_second_half(parameters, seed)
    sampler = RFlow(conditioning_dtype=getattr(torch, backbone.options.conditioning_dtype))
    plan = sampler.plan(backbone.schedule, num_steps, geometry)
    sampling = Sampling(sampler, plan, Guidance(float(backbone.defaults.guidance_scale)))  # type: ignore[arg-type]
    rng = Randomness(seed)
    prompts = [Prompt(PROMPT)]
    conditioning = backbone.condition(backbone.encode_text(prompts), prompts, geometry, rng)
    noise = backbone.initial_noise(1, geometry, rng)
    for step in steps:
        with backbone.checkpointing(True), torch.autocast(backbone.device.type, torch.bfloat16, _autocast(backbone)):
            latents = denoise(backbone, sampling, noise, conditioning, Drawn(frozenset({step})), rng).latents
            frame = backbone.decode(latents, geometry, [geometry.num_frames // 2])
        (-frame.mean()).backward()
        norms = torch.stack([value.grad.norm() for value in parameters.values() if value.grad is not None])
        backbone.denoiser.zero_grad()
        yield StepNorm(step, plan.timesteps[step], plan.tables["size"][step], float(norms.norm()))


def _autocast(backbone: OpenSora) -> bool:
    return backbone.dtype == torch.bfloat16


@torch.no_grad()
def _fill_second_half(parameters: dict[str, torch.nn.Parameter], seed: int) -> None:
    for name, value in parameters.items():
        if ".lora_B." in name:
            generator = torch.Generator().manual_seed(derive_seed(seed, "gradient norms", name))
            drawn: Tensor = torch.randn(value.shape, generator=generator) * 0.02
            value.copy_(drawn)


@click.command()
@click.option("--architecture", default="tiny", help="full or tiny; the weights are random unless given.")
@click.option("--weights", default="random", help="As of `vader train`.")
@click.option("--height", type=int, default=None, help="Pixels; 240p 3:4 with full, 64 x 96 with tiny.")
@click.option("--width", type=int, default=None, help="Pixels.")
@click.option("--num-frames", default=None, help="Frames, or 2s and the like; 51 with full, 17 with tiny.")
@click.option("--num-steps", type=int, default=30, help="Sampling steps S.")
@click.option("--steps", default=None, help="Steps to measure, e.g. 0,10,29; all by default.")
@click.option("--device", default=None, help="cpu or cuda; the accelerator that is there by default.")
@click.option("--seeds", type=int, default=1, help="Seeds, each measured from the start.")
def command(
    architecture: str,
    weights: str,
    height: int | None,
    width: int | None,
    num_frames: str | None,
    num_steps: int,
    steps: str | None,
    device: str | None,
    seeds: int,
) -> None:
    """Print the gradient norm of the LoRA for every sampling step, differentiated on its own."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tiny = architecture == "tiny"
    request = GeometryRequest(
        height=height or (64 if tiny else None),
        width=width or (96 if tiny else None),
        num_frames=num_frames or (17 if tiny else None),
    )
    chosen = [int(word) for word in steps.split(",")] if steps else list(range(num_steps))
    click.echo("seed  step  timestep  step size  gradient norm")
    for seed in range(seeds):
        backbone = OpenSora(
            OpenSoraOptions(weights=weights, architecture=architecture),
            device=where,
            dtype=torch.bfloat16 if where.type == "cuda" else torch.float32,
        )
        backbone.load()
        for one in measure(backbone, request, num_steps, chosen, seed=seed):
            click.echo(f"{seed:4d}  {one.step:4d}  {one.timestep:8.2f}  {one.size:9.4f}  {one.norm:13.4e}")
