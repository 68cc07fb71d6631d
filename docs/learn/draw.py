"""Draws the pictures of `method.md` with the demo: `python docs/learn/draw.py [PICTURE…]`. A few minutes on a CPU."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vader_core import Prompt, Randomness, api
from vader_core.registry import load_registry
from vader_core.testing.probe import saliency
from vader_core.video import read_video

HERE = Path(__file__).resolve().parent
TEXT = "a purple star spinning on a teal background"
SIDE, GAP, LABEL = 96, 8, 18


def picture(frame: Tensor) -> Image.Image:
    """A frame [3, H, W] as a tile."""
    pixels = (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels).resize((SIDE * width // height, SIDE), Image.Resampling.LANCZOS)


def strip(rows: Sequence[tuple[str, Sequence[Tensor], Sequence[str]]], path: Path) -> None:
    """Rows of tiles, each with a title and a label below each tile."""
    tiles = [[picture(frame) for frame in frames] for _, frames, _ in rows]
    width = max(sum(tile.width + GAP for tile in row) for row in tiles) + GAP
    high = SIDE + 2 * LABEL + GAP
    sheet = Image.new("RGB", (width, high * len(rows) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, ((title, _, labels), row) in enumerate(zip(rows, tiles, strict=True)):
        top, left = number * high + GAP // 2, GAP
        pen.text((left, top), title, fill="black", font=font)
        for tile, label in zip(row, labels, strict=True):
            sheet.paste(tile, (left, top + LABEL))
            pen.text((left, top + LABEL + SIDE + 2), label, fill="dimgray", font=font)
            left += tile.width + GAP
    sheet.quantize(128).save(path, optimize=True)
    print(path.name, path.stat().st_size)


def sampling() -> None:
    """1: from noise to a clip: what the decoder makes of the latents after each step."""
    model = api.open_model(api.configure(backbone="demo"))
    rng, states = Randomness(seed=3), []
    with torch.no_grad():
        conditioning = model.condition([Prompt(TEXT)], model.geometry, rng)
        rollout = model.rollout(conditioning, model.geometry, rng, watch=states.append)
        latents = [states[0].latents, *(seen.after for seen in states)]
        frames = [model.decode(one, model.geometry, [4])[0, 0] for one in latents]
        clip = model.decode(rollout.latents, model.geometry)[0]
    labels = ["noise", *(f"step {number}" for number in range(1, len(frames)))]
    rows = [("one frame, after each denoising step", frames, labels)]
    rows.append(("the clip", list(clip), [f"frame {number}" for number in range(len(clip))]))
    strip(rows, HERE / "sampling.png")


def looking() -> None:
    """2: where the reward looks: the gradient at the pixels."""
    registry = load_registry()
    reward = registry.get("reward", "demo_aesthetic").make(
        {}, device=torch.device("cpu"), dtype=torch.float32
    )
    model = api.open_model(api.configure(backbone="demo"))
    rng = Randomness(seed=3)
    prompts = [Prompt(TEXT)]
    with torch.no_grad():
        conditioning = model.condition(prompts, model.geometry, rng)
        clip = model.decode(model.rollout(conditioning, model.geometry, rng).latents, model.geometry)
    pixels = clip.clone().requires_grad_(True)
    output = reward(pixels, prompts, rng)
    (gradient,) = torch.autograd.grad(output.loss.sum(), pixels)
    shown = saliency(clip[0], gradient[0])
    title = f"what it scores ({float(output.score[0].detach()):.1f}), and where a change would raise the score (red)"
    strip([(title, [shown[1], shown[4], shown[7]], ["", "", ""])], HERE / "looking.png")


def steps() -> None:
    """3: how much of the gradient each step carries."""
    found = api.gradient_norms(api.configure(backbone="demo", reward="demo_aesthetic"))
    norms = [row["norm"] for row in found["steps"]]
    bars, top = [], max(norms)
    for number, norm in enumerate(norms):
        high = 120 * norm / top
        x = 40 + number * 62
        bars.append(f'<rect x="{x}" y="{150 - high:.1f}" width="44" height="{high:.1f}" fill="#00897b"/>')
        bars.append(f'<text x="{x + 22}" y="166" text-anchor="middle">step {number + 1}</text>')
        bars.append(f'<text x="{x + 22}" y="{144 - high:.1f}" text-anchor="middle">{norm:.3g}</text>')
    width = 50 + 62 * len(norms)
    (HERE / "steps.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -10 {width} 186" width="{width}" font-family="sans-serif" '
        f'font-size="11"><rect y="-10" width="{width}" height="186" fill="white"/>'
        f'<text x="8" y="6">size of the reward\'s gradient that each denoising step sends into the LoRA</text>'
        f"{''.join(bars)}</svg>\n"
    )


def training(recipe: str, every: int, last: int, name: str, title: str) -> None:
    """4 and 5: the same noise, at validations of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        validation = {"every": every, "prompts": 3, "seeds": 1, "batch": 3, "evaluation_pairs": 0}
        api.train(api.configure(recipe=recipe, trainer={"max_steps": last}, validation=validation), out=run)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        seen = [record for record in records if record["kind"] == "validation"]
        rows = []
        for index in range(2):
            frames, labels = [], []
            for record in seen:
                clip = run / record["samples"] / f"{index:02d}.mp4"
                listed = json.loads((clip.parent / "prompts.json").read_text())[index]
                frames.append(read_video(clip)[5])
                scores = listed["scores"]
                labels.append(
                    f"{record['step']}: {scores['demo_aesthetic']:.1f} / {scores['demo_alignment']:.2f}"
                )
            rows.append((f"{listed['prompt']}   {title}", frames, labels))
        strip(rows, HERE / name)
        if name == "training.png":
            moving([run / record["samples"] for record in (seen[0], seen[-1])])


def moving(folders: Sequence[Path]) -> None:
    """The README's moving picture: base above, tuned below, the same noise."""
    clips = [[read_video(folder / f"{index:02d}.mp4") for index in range(3)] for folder in folders]
    frames = []
    for time in range(len(clips[0][0])):
        sheet = Image.new("RGB", (3 * (128 + GAP) + GAP + 48, 2 * (128 + GAP) + GAP), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for row, (label, shown) in enumerate(zip(("base", "tuned"), clips, strict=True)):
            pen.text((GAP, GAP + row * (128 + GAP) + 58), label, fill="black", font=font)
            for column, clip in enumerate(shown):
                tile = picture(clip[time]).resize((128, 128))
                sheet.paste(tile, (48 + column * (128 + GAP), GAP + row * (128 + GAP)))
        frames.append(sheet)
    path = HERE.parent / "demo_moving.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=150, loop=0, quality=80)
    print(path.name, path.stat().st_size)


LABEL_OF_SCORES = "(step: reward / alignment with the text)"
PICTURES = {
    "sampling": sampling,
    "looking": looking,
    "steps": steps,
    "training": lambda: training("demo", 3, 12, "training.png", LABEL_OF_SCORES),
    "too_far": lambda: training("demo_too_far", 6, 24, "too_far.png", LABEL_OF_SCORES),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
