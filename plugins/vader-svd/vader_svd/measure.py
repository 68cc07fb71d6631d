"""Two tables that the defaults were chosen from: ``python -m vader_svd.measure gradient`` and ``… decode``.

Both run with any weights; with ``--weights random`` they say what the architecture and the noise levels
alone decide.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.method.gradient import parse_gradient
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_svd.architecture import NAMED
from vader_svd.backbone import SvdBackbone
from vader_svd.demo_images import HELD_OUT, DemoImages, render
from vader_svd.options import DemoImagesConfig, SvdConfig
from vader_svd.picture import as_tensor
from vader_svd.reach import reach

#: The panned picture is this much wider than a frame.
PAN = 1.25


@dataclass(frozen=True)
class GradientRow:
    """What one choice of differentiated steps gives.

    Args:
        gradient: In the words of ``--gradient``.
        sigma: Noise level of the first differentiated step.
        reach: How far a unit change of that step's prediction moves the final latents, all else fixed.
        norm: Of the LoRA's gradient.
    """

    gradient: str
    sigma: float
    reach: float
    norm: float


def gradient_rows(
    backbone: SvdBackbone, geometry: Geometry, num_steps: int, choices: Sequence[str], seed: int = 0
) -> Iterator[GradientRow]:
    """Norm of the LoRA's gradient for each choice, at the start of training (B = 0).

    The reward is a fixed random direction in the pixels of the middle frame, averaged over them, so that no
    step is favoured by what a reward likes.
    """
    sampler = load_registry().get("sampler", "euler").make({}, device=backbone.device, dtype=backbone.dtype)
    model = Model(backbone, sampler, Guidance(backbone.defaults.guidance_scale), num_steps)
    sigmas = model.plan(geometry).tables["sigma"]
    rng = Randomness(seed)
    with tempfile.TemporaryDirectory() as folder:
        pictures = DemoImages(
            DemoImagesConfig(folder=Path(folder), height=geometry.height, width=geometry.width)
        )
        prompts = pictures.draw([0])
        with torch.no_grad():
            conditioning = model.condition(prompts, geometry, rng)
    parameters = list(adapter_parameters(backbone.denoiser).values())
    direction = rng.normal("direction", (3, geometry.height, geometry.width), device=backbone.device)
    reaches = reach(sigmas)
    for choice in choices:
        drawn = parse_gradient(choice).draw(num_steps, rng)
        with backbone.checkpointing(True):
            rollout = model.rollout(conditioning, geometry, rng, drawn)
            video = model.decode(rollout.latents, geometry, [geometry.num_frames // 2])
            gradients = torch.autograd.grad((video[:, 0] * direction).mean(), parameters)
        first = min(drawn.steps)
        norm = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum().sqrt()
        yield GradientRow(choice, sigmas[first], reaches[first], float(norm))


@dataclass(frozen=True)
class DecodeRow:
    """What decoding each frame among some neighbours gives.

    Args:
        neighbours: Frames of context to each side.
        decoded: Frames that go through the decoder for one.
        rms: Root mean square error against the full decode, as a share of the full decode's standard
            deviation.
        largest: Largest error in pixel values, of 1.
    """

    neighbours: int
    decoded: int
    rms: float
    largest: float


def panned_video(geometry: Geometry) -> Float[Tensor, "1 f 3 H W"]:
    """A drawn picture that the camera pans over: RGB in [0, 1]."""
    wide = as_tensor(render(HELD_OUT[1], geometry.height, int(geometry.width * PAN)))
    room = wide.shape[-1] - geometry.width
    starts = [round(room * frame / max(geometry.num_frames - 1, 1)) for frame in range(geometry.num_frames)]
    return torch.stack([wide[:, :, start : start + geometry.width] for start in starts])[None]


@torch.no_grad()
def decode_rows(backbone: SvdBackbone, geometry: Geometry) -> Iterator[DecodeRow]:
    """Error of a panned picture's frames, each decoded among ever more neighbours, up to the whole video."""
    latents = backbone.encode_video(panned_video(geometry).to(backbone.device), Randomness(0))
    full = backbone.decode(latents, geometry)
    before = backbone.config
    try:
        for neighbours in range((geometry.num_frames + 1) // 2 + 1):
            backbone.config = before.model_copy(update={"neighbours": neighbours})
            frames = [backbone.decode(latents, geometry, [frame]) for frame in range(geometry.num_frames)]
            error = torch.cat(frames, dim=1) - full
            window = min(2 * neighbours + 1, geometry.num_frames)
            rms = float(error.square().mean().sqrt() / full.std())
            yield DecodeRow(neighbours, window, rms, float(error.abs().max()))
            if window == geometry.num_frames:
                return
    finally:
        backbone.config = before


# -- the command -------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _backbone(given: dict[str, Any], *, decoder_alone: bool = False) -> tuple[SvdBackbone, Geometry]:
    config = SvdConfig(weights=given["weights"], architecture=given["architecture"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[given["precision"]]
    backbone = SvdBackbone(config, device=torch.device(given["device"]), dtype=dtype)
    geometry = backbone.resolve_geometry(
        GeometryRequest(given["height"], given["width"], given["num_frames"], None)
    )
    if decoder_alone and config.weights == "random":
        # Nothing but the autoencoder runs: tiny stand-ins save building the other networks.
        idle = {part: getattr(NAMED["tiny"], part) for part in ("unet", "image_encoder")}
        backbone.architecture = backbone.architecture.model_copy(update=idle)
    backbone.load()
    click.echo(
        f"architecture {config.architecture}, weights {config.weights}, {given['precision']}, {geometry}\n"
    )
    return backbone, geometry


def _shared(command: Any) -> Any:
    options = [
        click.option("--weights", default="random", show_default=True, help="As of vader's --weights."),
        click.option("--architecture", default="tiny", show_default=True, help="full, xt, tiny or a path."),
        click.option(
            "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True
        ),
        click.option("--device", default="cpu", show_default=True),
        click.option("--height", type=int),
        click.option("--width", type=int),
        click.option("--num-frames", type=int),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Measure where the gradient lives, and what decoding a few frames costs in accuracy."""


@main.command()
@click.option("--num-steps", type=click.IntRange(min=2), default=25, show_default=True)
@click.option("--rank", type=click.IntRange(min=1), default=16, show_default=True, help="Of the LoRA.")
@_shared
def gradient(num_steps: int, rank: int, **given: Any) -> None:
    """Norm of the LoRA's gradient by differentiated step, and for the last K steps."""
    try:
        backbone, geometry = _backbone(given)
        attach_lora(backbone.denoiser, LoraSettings(rank, rank, backbone.lora_targets))
        choices = [f"steps:{step}" for step in range(num_steps)]
        choices += [f"last:{count}" for count in range(1, num_steps + 1)]
        rows = [
            (row.gradient, f"{row.sigma:.4g}", f"{row.reach:.2e}", f"{row.norm:.2e}")
            for row in gradient_rows(backbone, geometry, num_steps, choices)
        ]
    except VaderError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        _table(["--gradient", "sigma", "reach of the prediction", "norm of the LoRA's gradient"], rows)
    )


@main.command()
@_shared
def decode(**given: Any) -> None:
    """Error of a frame decoded among its neighbours, against the full decode."""
    try:
        backbone, geometry = _backbone(given, decoder_alone=True)
        rows = [
            (str(row.neighbours), str(row.decoded), f"{row.rms:.2e}", f"{row.largest:.2e}")
            for row in decode_rows(backbone, geometry)
        ]
    except VaderError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        _table(["neighbours", "frames decoded for one", "RMS error / std", "largest error of 1"], rows)
    )


if __name__ == "__main__":
    main()
