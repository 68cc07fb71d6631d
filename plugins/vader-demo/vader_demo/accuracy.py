"""Measure the demo's video model: `python -m vader_demo.accuracy`.

Generates one clip for each of the 1,024 held-out attribute combinations, which the model never saw in
training, and lets the judges say what they see; the judges were trained on rendered clips only. Also judges
freshly rendered clips of the same captions, as they are and through the auto-encoder, and writes a contact
sheet. Needs torch, numpy, safetensors, einops and pillow only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vader_demo import checkpoint, flow, world
from vader_demo.autoencoder import AutoEncoder
from vader_demo.captions import Attributes, split_combinations, tokenise
from vader_demo.contact_sheet import write_contact_sheet
from vader_demo.denoiser import Denoiser
from vader_demo.scorers import build_judges, build_rewards, judge
from vader_demo.text_encoder import TextEncoder

_BATCH = 64


@dataclass
class Parts:
    """Everything that the measurement needs, with its weights."""

    autoencoder: AutoEncoder
    text_encoder: TextEncoder
    denoiser: Denoiser
    judges: dict[str, nn.Module]
    rewards: dict[str, nn.Module]


def load_parts(folder: Path, device: torch.device) -> Parts:
    """Load the three weights files of a folder."""
    model: dict[str, nn.Module] = {
        "autoencoder": AutoEncoder(),
        "text_encoder": TextEncoder(),
        "denoiser": Denoiser(),
    }
    judges, rewards = build_judges(), build_rewards()
    for name, modules in (("model", model), ("judges", judges), ("rewards", rewards)):
        checkpoint.fill(modules, checkpoint.read_weights(folder / f"{name}.safetensors"))
        for module in modules.values():
            module.to(device)
    return Parts(**model, judges=judges, rewards=rewards)  # type: ignore[arg-type]


def generate(parts: Parts, captions: list[str], seed: int, schedule: tuple[int, float, float]) -> Tensor:
    """Generate one clip a caption.

    Args:
        parts: the model.
        captions: what to show.
        seed: of the noise, drawn on the CPU.
        schedule: number of steps, guidance scale, time shift.

    Returns:
        (n, 8, 3, 64, 64), float32, not clamped, on the CPU.
    """
    device = next(parts.denoiser.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(captions), 8, world.FRAMES, 8, 8, generator=generator)
    tokens = torch.tensor([tokenise(caption) for caption in captions])
    clips = []
    with torch.no_grad():
        empty = parts.text_encoder(torch.tensor([tokenise("")], device=device))
        for rows in torch.arange(len(captions)).split(_BATCH):
            text = parts.text_encoder(tokens[rows].to(device))
            latents = flow.sample(parts.denoiser, text, empty, noise[rows].to(device), schedule)
            clips.append(flow.decode_video(parts.autoencoder, latents).cpu())
    return torch.cat(clips)


@torch.no_grad()
def measure(parts: Parts, video: Tensor, combination: Tensor) -> dict[str, float]:
    """Judge clips against the attributes that they should show.

    Args:
        parts: the judges and rewards.
        video: (n, 8, 3, 64, 64).
        combination: (n, 4), attribute indices.

    Returns:
        For each attribute and for all four the share of clips judged right, and the mean rewards.
    """
    device = next(parts.denoiser.parameters()).device
    right, scores = [], []
    for rows in torch.arange(len(video)).split(_BATCH):
        clips, wanted = video[rows].to(device).clamp(0, 1), combination[rows].to(device)
        seen = torch.stack(list(judge(parts.judges, clips).values()), dim=1)
        right.append((seen == wanted).float())
        tokens = torch.tensor([tokenise(Attributes(*row).caption) for row in wanted.tolist()], device=device)
        aesthetic = parts.rewards["aesthetic"](clips.flatten(0, 1)).view(len(clips), -1).mean(1)
        scores.append(torch.stack([aesthetic, parts.rewards["alignment"](clips, tokens)], dim=1))
    table, means = torch.cat(right), torch.cat(scores).mean(0).tolist()
    figures = dict(zip(parts.judges, table.mean(0).tolist(), strict=True))
    figures["all four"] = table.prod(1).mean().item()
    figures["demo_aesthetic"], figures["demo_alignment"] = means
    return {name: round(value, 4) for name, value in figures.items()}


def rendered(combination: Tensor, seed: int) -> Tensor:
    """Render the captions' clips as the video model's training data were drawn."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [
            world.render(world.draw_factors(rows, generator, dullness=2.0))
            for rows in combination.split(_BATCH)
        ]
    )


@torch.no_grad()
def through_autoencoder(parts: Parts, video: Tensor) -> Tensor:
    """Encode and decode clips."""
    device = next(parts.denoiser.parameters()).device
    return torch.cat(
        [
            parts.autoencoder.decode(parts.autoencoder.encode(clips.to(device).flatten(0, 1)))
            .view_as(clips)
            .cpu()
            for clips in video.split(_BATCH)
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m vader_demo.accuracy", description=__doc__)
    parser.add_argument(
        "--weights", type=Path, default=checkpoint.WEIGHTS, help="folder of the weights files"
    )
    parser.add_argument("--captions", type=int, default=1024, help="how many held-out captions")
    parser.add_argument("--num-steps", type=int, default=flow.NUM_STEPS)
    parser.add_argument("--guidance-scale", type=float, default=flow.GUIDANCE_SCALE)
    parser.add_argument("--shift", type=float, default=flow.SHIFT, help="time shift towards noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-accuracy"), help="folder for the report and the contact sheet"
    )
    options = parser.parse_args(arguments)
    started = time.monotonic()
    parts = load_parts(options.weights, torch.device(options.device))
    combination = torch.tensor(split_combinations("held_out")[: options.captions])
    captions = [Attributes(*row).caption for row in combination.tolist()]
    schedule = (options.num_steps, options.guidance_scale, options.shift)
    video = generate(parts, captions, options.seed, schedule)
    truth = rendered(combination, options.seed)
    report = {
        "captions": len(captions),
        "num_steps": options.num_steps,
        "guidance_scale": options.guidance_scale,
        "shift": options.shift,
        "seed": options.seed,
        "generated": measure(parts, video, combination),
        "rendered": measure(parts, truth, combination),
        "rendered, through the auto-encoder": measure(parts, through_autoencoder(parts, truth), combination),
        "seconds": round(time.monotonic() - started, 1),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n")
    write_contact_sheet(options.out / "contact_sheet.png", video[:48], captions[:48])
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
