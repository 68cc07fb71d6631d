"""Build the demo's weights from nothing: `python -m vader_demo.build --work FOLDER`.

Stages, in order: the auto-encoder, the four judges, the two sets of rewards, the latents of the training
clips, the denoiser with its text encoder, and the packaged files. A stage that is done is kept in the work
folder, one that is under way is saved when the piece's time is over and continued by the same command (exit
code 3 says that more is left). Everything is drawn from the seed, but at full scale the lengths of the two
long stages are wall-clock times, so the exact numbers depend on the machine. Needs torch, numpy, einops and
safetensors only.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from vader_demo import checkpoint, world
from vader_demo.autoencoder import AutoEncoder
from vader_demo.captions import (
    ATTRIBUTES,
    CAPTION_TOKENS,
    MOTIONS,
    Attributes,
    combinations,
    split_combinations,
    tokenise,
)
from vader_demo.denoiser import Denoiser
from vader_demo.scorers import build_judges, build_rewards, judge
from vader_demo.text_encoder import TextEncoder

log = logging.getLogger("vader_demo.build")

LEFT_TO_DO = 3
"""Exit code: the piece's time is over, run the same command again."""

_STANDING_STILL = MOTIONS.index("standing still")


@dataclass(frozen=True)
class Length:
    """How long a stage trains: a number of steps, or seconds on the clock."""

    steps: int | None = None
    seconds: float | None = None

    def progress(self, step: int, elapsed: float) -> float:
        """Part done, 0 to 1."""
        return min(1.0, step / self.steps if self.steps else elapsed / (self.seconds or 1.0))


@dataclass(frozen=True)
class Scale:
    """Sizes of everything; `full` made the shipped weights."""

    pool: int
    test: int
    frames: int
    autoencoder: Length
    scorer_clips: int
    scorer_steps: float
    clips: int
    batch: int
    denoiser: Length


SCALES = {
    "full": Scale(100_000, 4096, 1024, Length(seconds=170), 256, 1.0, 600_000, 512, Length(seconds=490)),
    "smoke": Scale(8192, 1024, 1024, Length(seconds=3), 256, 0.01, 16_384, 512, Length(seconds=3)),
    "tiny": Scale(32, 16, 8, Length(steps=4), 8, 0.001, 32, 4, Length(steps=4)),
}
"""`full` for one H200; `smoke` runs every path at full batch sizes in a minute; `tiny` rehearses on a CPU."""


class PieceOverError(Exception):
    """The piece's time is over; everything is saved."""


@dataclass
class Job:
    """A build in a work folder."""

    work: Path
    scale: Scale
    device: torch.device
    seed: int
    deadline: float
    compile: bool
    history: dict[str, dict[str, float]] = field(default_factory=dict)

    def generator(self, purpose: str) -> torch.Generator:
        """Randomness of one purpose, derived from the seed."""
        number = int.from_bytes(purpose.encode()[:6], "big") * 1000 + sum(purpose.encode())
        return torch.Generator(self.device).manual_seed((self.seed * 1_000_003 + number) % 2**63)

    def autocast(self) -> torch.autocast:
        """Mixed precision on the GPU; plain float32 elsewhere."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def done(self, name: str) -> Path:
        """Where a finished stage lies."""
        return self.work / f"{name}.done.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How one net is trained."""

    name: str
    length: Length
    learning_rate: float
    weight_decay: float = 0.01
    averaging: float = 0.999


def train(job: Job, recipe: Recipe, module: nn.Module, loss: Callable[[torch.Generator], Tensor]) -> None:
    """Train a module with AdamW and leave its averaged weights in it; resume where a former piece stopped.

    Args:
        job: the build.
        recipe: name, length and learning rate.
        module: what is trained, on the job's device.
        loss: draws a batch from the generator it is given and returns the loss.

    Raises:
        PieceOverError: when the time is over; the state is saved.
    """
    if job.done(recipe.name).exists():
        module.load_state_dict(load_file(job.done(recipe.name), device=str(job.device)))
        module.eval().requires_grad_(False)
        return
    loop = _Loop(job, recipe, module)
    loop.resume()
    clock, reported = time.monotonic(), time.monotonic()
    while recipe.length.progress(loop.step, loop.elapsed) < 1:
        value = loop.advance(loss)
        now = time.monotonic()
        loop.elapsed, clock = loop.elapsed + now - clock, now
        if now - reported > 10:
            log.info("%s: step %d, %.0f s, loss %.4f", recipe.name, loop.step, loop.elapsed, value.item())
            reported = now
        if now > job.deadline:
            loop.save()
            raise PieceOverError(recipe.name)
    loop.finish()
    log.info("%s: done, %d steps, %.0f s", recipe.name, loop.step, loop.elapsed)


class _Loop:
    """The state of one net's training."""

    def __init__(self, job: Job, recipe: Recipe, module: nn.Module) -> None:
        self.job, self.recipe, self.module = job, recipe, module
        self.names = [name for name, _ in module.named_parameters()]
        self.parameters = list(module.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        decay = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            fused=job.device.type == "cuda",
        )
        self.generator = job.generator(recipe.name)
        self.step, self.elapsed = 0, 0.0

    def advance(self, loss: Callable[[torch.Generator], Tensor]) -> Tensor:
        """One optimiser step: warm-up over 100 steps, cosine to 2 % of the learning rate."""
        progress = self.recipe.length.progress(self.step, self.elapsed)
        rate = self.recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / 100)
        with self.job.autocast():
            value = loss(self.generator)
        self.optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        keep = min(self.recipe.averaging, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [*self.parameters], 1 - keep)
        self.step += 1
        return value.detach()

    def _partial(self, part: str) -> Path:
        return self.job.work / f"{self.recipe.name}.partial-{part}.safetensors"

    def save(self) -> None:
        """Save everything, in files small enough to carry about."""
        moments = [self.optimizer.state[parameter] for parameter in self.parameters]
        parts = {
            "weights": [parameter.detach() for parameter in self.parameters],
            "average": self.average,
            "first": [state["exp_avg"] for state in moments],
            "second": [state["exp_avg_sq"] for state in moments],
        }
        for part, tensors in parts.items():
            save_file(
                dict(zip(self.names, (t.contiguous() for t in tensors), strict=True)), self._partial(part)
            )
        where = {"step": torch.tensor(self.step), "elapsed": torch.tensor(self.elapsed, dtype=torch.float64)}
        save_file({**where, "generator": self.generator.get_state()}, self._partial("position"))

    def resume(self) -> None:
        """Continue from what `save` left, if anything."""
        if not self._partial("position").exists():
            return
        position = load_file(self._partial("position"))
        self.step, self.elapsed = int(position["step"]), float(position["elapsed"])
        self.generator.set_state(position["generator"])
        parts = [
            load_file(self._partial(part), device=str(self.job.device))
            for part in ("weights", "average", "first", "second")
        ]
        with torch.no_grad():
            for index, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
                parameter.copy_(parts[0][name])
                self.average[index].copy_(parts[1][name])
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(
                        float(self.step), device=self.job.device if self.optimizer.defaults["fused"] else None
                    ),
                    "exp_avg": parts[2][name].clone(),
                    "exp_avg_sq": parts[3][name].clone(),
                }
        log.info("%s: continues at step %d", self.recipe.name, self.step)

    def finish(self) -> None:
        """Put the averaged weights in the module and into the work folder."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                parameter.copy_(average)
        self.module.eval().requires_grad_(False)
        metadata = {"steps": str(self.step), "seconds": f"{self.elapsed:.1f}"}
        tensors = {key: value.contiguous() for key, value in self.module.state_dict().items()}
        save_file(tensors, self.job.done(self.recipe.name), metadata=metadata)
        for part in ("weights", "average", "first", "second", "position"):
            self._partial(part).unlink(missing_ok=True)


@dataclass
class Pool:
    """Rendered clips kept as bytes on the device, with their factors."""

    factors: world.Factors
    clips: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[world.Factors, Tensor]:
        """Draw clips: their factors and (count, 8, 3, 64, 64) in [0, 1]."""
        index = torch.randint(len(self.clips), (count,), generator=generator, device=self.clips.device)
        return self.factors[index], self.clips[index].float() / 255

    def frames(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw single frames: (count, 3, 64, 64) in [0, 1]."""
        device = self.clips.device
        clip = torch.randint(len(self.clips), (count,), generator=generator, device=device)
        frame = torch.randint(world.FRAMES, (count,), generator=generator, device=device)
        return self.clips[clip, frame].float() / 255


def render_pool(job: Job, purpose: str, count: int, dullness: float = 1.5) -> Pool:
    """Render clips of all attribute combinations."""
    generator = job.generator(purpose)
    every = torch.tensor(combinations(), device=job.device)
    factors = world.draw_factors(
        world.draw_combinations(every, count, generator), generator, dullness=dullness
    )
    clips = torch.empty(count, world.FRAMES, 3, world.SIZE, world.SIZE, dtype=torch.uint8, device=job.device)
    for start in range(0, count, 2048):
        rows = slice(start, min(start + 2048, count))
        clips[rows] = (world.render(factors[rows]) * 255 + 0.5).to(torch.uint8)
    return Pool(factors, clips)


def train_autoencoder(job: Job, pool: Pool) -> AutoEncoder:
    """Train the auto-encoder and measure its latents' mean and deviation.

    Pixels near edges weigh up to five times as much, and differences between neighbours have a term of their
    own. Latents are jittered by up to 0.15 of their deviation, so that the decoder forgives what the denoiser
    leaves behind.
    """
    torch.manual_seed(job.seed)
    model = AutoEncoder().to(job.device).to(memory_format=torch.channels_last)

    def loss(generator: torch.Generator) -> Tensor:
        frames = pool.frames(job.scale.frames, generator).contiguous(memory_format=torch.channels_last)
        raw = model.encoder(frames * 2 - 1)
        jitter = 0.15 * torch.rand(len(raw), 1, 1, 1, generator=generator, device=job.device)
        deviation = raw.detach().float().std((0, 2, 3), keepdim=True)
        noise = torch.randn(raw.shape, generator=generator, device=job.device)
        rebuilt = (model.decoder(raw + jitter * deviation * noise) / 2 + 0.5).float()
        error = (rebuilt - frames).abs()
        down, across = _differences(frames)
        weight = 1 + 8 * (functional.pad(down, (0, 0, 0, 1)) + functional.pad(across, (0, 1))).abs().amax(
            1, True
        ).clamp_max(0.5)
        edges = sum((a - b).abs().mean() for a, b in zip(_differences(rebuilt), (down, across), strict=True))
        return (
            (weight * error).mean()
            + 2 * error.square().mean()
            + 0.5 * edges
            + 1e-4 * raw.float().square().mean()
        )

    train(job, Recipe("autoencoder", job.scale.autoencoder, 2e-3), model, loss)
    _measure_latents(job, model, pool)
    return model


def _measure_latents(job: Job, model: AutoEncoder, pool: Pool) -> None:
    generator = job.generator("latent statistics")
    with torch.no_grad():
        raw = torch.cat([model.encoder(pool.frames(job.scale.frames, generator) * 2 - 1) for _ in range(16)])
    model.latent_mean.copy_(raw.mean((0, 2, 3)))
    model.latent_std.copy_(raw.std((0, 2, 3)))


def _differences(frames: Tensor) -> tuple[Tensor, Tensor]:
    return frames.diff(dim=2), frames.diff(dim=3)


def wear(video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blur some clips and add noise to some, so that a scorer is used to imperfect pictures.

    Returns:
        The clips, shaped as they came, and how worn each is, (b,): one for full blur, one for full noise.
    """
    batch, device = len(video), video.device
    blur, grain = (2 * torch.rand(2, batch, generator=generator, device=device) - 1).clamp_min(0)
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4, device=device) / 1.5) ** 2)
    kernel = kernel / kernel.sum()
    planes = functional.pad(video.reshape(-1, 1, world.SIZE, world.SIZE), (3, 3, 3, 3), mode="replicate")
    soft = functional.conv2d(functional.conv2d(planes, kernel.view(1, 1, 1, 7)), kernel.view(1, 1, 7, 1))
    worn = torch.lerp(video, soft.view_as(video).to(video.dtype), blur.view(-1, 1, 1, 1, 1))
    noise = torch.randn(video.shape, generator=generator, device=device)
    return (worn + 0.06 * grain.view(-1, 1, 1, 1, 1) * noise).clamp(0, 1), blur + grain


def _two_frames(video: Tensor, generator: torch.Generator) -> Tensor:
    first = torch.randint(world.FRAMES // 2, (1,), generator=generator, device=video.device)
    return video[:, torch.cat([first, first + world.FRAMES // 2])]


def train_judges(job: Job, pool: Pool) -> dict[str, nn.Module]:
    """Train the judges on rendered clips only, blurred and grainy ones among them."""
    torch.manual_seed(job.seed + 1)
    judges = {name: net.to(job.device) for name, net in build_judges().items()}
    steps = {"shape": 6000, "colour": 1000, "background": 700, "motion": 2500}
    for name, net in judges.items():

        def loss(generator: torch.Generator, name: str = name, net: nn.Module = net) -> Tensor:
            factors, video = pool.draw(job.scale.scorer_clips, generator)
            target = getattr(factors, name)
            if name == "motion":
                return functional.cross_entropy(net(wear(video, generator)[0]).float(), target)
            frames = wear(_two_frames(video, generator), generator)[0].flatten(0, 1)
            return functional.cross_entropy(net(frames).float(), target.repeat_interleave(2))

        train(job, Recipe(f"judge-{name}", _scorer_length(job, steps[name]), 2e-3, 0.05), net, loss)
    return judges


def _scorer_length(job: Job, steps: int) -> Length:
    return Length(steps=max(2, round(steps * job.scale.scorer_steps)))


@torch.no_grad()
def code_half(job: Job, pool: Pool, autoencoder: AutoEncoder) -> None:
    """Send every other clip of the pool through the auto-encoder, in place, its latents a little noised."""
    generator = job.generator("coded clips")
    for rows in torch.arange(0, len(pool.clips), 2, device=job.device).split(256):
        video = pool.clips[rows].float() / 255
        frames = video.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with job.autocast():
            latents = autoencoder.encode(frames)
            noise = torch.randn(latents.shape, generator=generator, device=job.device)
            rebuilt = autoencoder.decode(latents + 0.07 * noise).float().clamp(0, 1)
        pool.clips[rows] = (rebuilt.view_as(video) * 255 + 0.5).to(torch.uint8)


def train_rewards(job: Job, pool: Pool, held_out: bool) -> dict[str, nn.Module]:
    """Train one set of rewards."""
    torch.manual_seed(job.seed + (3 if held_out else 2))
    prefix = "held_out" if held_out else "reward"
    rewards = {name: net.to(job.device) for name, net in build_rewards(held_out).items()}
    tokens = caption_tokens().to(job.device)

    def aesthetic(generator: torch.Generator) -> Tensor:
        factors, video = pool.draw(job.scale.scorer_clips, generator)
        frames, wornness = wear(_two_frames(video, generator), generator)
        target = (world.beauty(factors) - 2.5 * wornness).repeat_interleave(2)
        score = rewards["aesthetic"](frames.flatten(0, 1)).float()[:, 0]
        return (score - target).square().mean()

    def action(generator: torch.Generator) -> Tensor:
        factors, video = pool.draw(job.scale.scorer_clips, generator)
        video = wear(video, generator)[0]
        return functional.cross_entropy(
            rewards["action"](video).float(), factors.motion, label_smoothing=0.02
        )

    def alignment(generator: torch.Generator) -> Tensor:
        factors, video = pool.draw(job.scale.scorer_clips, generator)
        video = wear(video, generator)[0]
        return contrastive_loss(rewards["alignment"], video, factors.combination, tokens, generator)

    for name, loss, steps in (
        ("aesthetic", aesthetic, 3000),
        ("action", action, 2000),
        ("alignment", alignment, 2500 if held_out else 4500),
    ):
        train(job, Recipe(f"{prefix}-{name}", _scorer_length(job, steps), 2e-3, 0.05), rewards[name], loss)
    return rewards


def caption_tokens() -> Tensor:
    """Tokens of every caption: (8, 9, 7, 11, 12); the last index of an attribute is silence."""
    sizes = [len(values) for values in ATTRIBUTES.values()]
    table = torch.zeros(sizes[0], sizes[1] + 1, sizes[2] + 1, sizes[3] + 1, CAPTION_TOKENS, dtype=torch.int64)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in table.shape[:4])).tolist():
        named = [value if value < size else None for value, size in zip(index, sizes, strict=True)]
        table[tuple(index)] = torch.tensor(tokenise(Attributes(int(index[0]), *named[1:]).caption))
    return table


_SILENT = torch.tensor([len(values) for values in ATTRIBUTES.values()])


def silence(combination: Tensor, chances: Tensor, generator: torch.Generator) -> Tensor:
    """Leave attributes out of captions at random.

    Args:
        combination: (b, 4) attribute indices.
        chances: broadcastable to (b, 4), the chance that each is left out.
        generator: source of randomness.

    Returns:
        (b, 4), indices into `caption_tokens`.
    """
    drop = torch.rand(combination.shape, generator=generator, device=combination.device) < chances
    return torch.where(drop, _SILENT.to(combination.device), combination)


def contrastive_loss(
    net: Any, video: Tensor, combination: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """InfoNCE over the batch's captions and, for each clip, its own caption with one attribute changed.

    Captions of other clips that happen to be true of a clip are left out of its negatives. Temperature 0.05.
    """
    device, batch = video.device, len(video)
    chances = torch.tensor([0.0, 0.15, 0.15, 0.15], device=device)
    named = silence(combination, chances, generator)
    silent = _SILENT.to(device)
    changed = named[:, None].repeat(1, 4, 1)
    for attribute in range(4):
        size = int(_SILENT[attribute])
        shift = torch.randint(1, size, (batch,), generator=generator, device=device)
        changed[:, attribute, attribute] = (combination[:, attribute] + shift) % size
    true_of = ((named[None] == combination[:, None]) | (named[None] == silent)).all(2)
    video_embedding = net.embed_video(video)
    own = net.embed_text(tokens[tuple(named.unbind(1))])
    wrong = net.embed_text(tokens[tuple(changed.flatten(0, 1).unbind(1))]).view(batch, 4, -1)
    others = (video_embedding @ own.T).masked_fill(true_of, -10.0)
    positive = (video_embedding * own).sum(1, keepdim=True)
    hard = torch.einsum("bd,bkd->bk", video_embedding, wrong)
    logits = torch.cat([positive, hard, others], dim=1) / 0.05
    return functional.cross_entropy(logits, torch.zeros(batch, dtype=torch.int64, device=device))


def encode_clips(job: Job, autoencoder: AutoEncoder) -> dict[str, Tensor]:
    """Render and encode the video model's training clips: mostly dull ones, of the train split only."""
    path = job.work / "latents.safetensors"
    if path.exists():
        return load_file(path, device=str(job.device))
    generator = job.generator("training clips")
    pool = torch.tensor(split_combinations("train"), device=job.device)
    combination = world.draw_combinations(pool, job.scale.clips, generator)
    parts = []
    for rows in combination.split(2048):
        video = world.render(world.draw_factors(rows, generator, dullness=2.0))
        with torch.no_grad(), job.autocast():
            frames = video.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            latents = autoencoder.encode(frames).half()
        parts.append(latents.unflatten(0, (len(rows), world.FRAMES)).transpose(1, 2).contiguous())
    data = {"latents": torch.cat(parts), "combination": combination}
    save_file(data, path)
    return data


class VideoModel(nn.Module):
    """The denoiser and its text encoder, which are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = TextEncoder()
        self.denoiser = Denoiser()


def train_denoiser(job: Job, data: dict[str, Tensor]) -> VideoModel:
    """Train the video model: rectified flow, velocity target, times 80 % logit-normal and 20 % uniform.

    A caption is empty for 10 % of the clips (the unconditional branch), leaves out the colour for 6 % and the
    background for 10 %. The motion is left out for half of the clips that stand still and 3 % of the others,
    so that a caption without a motion word mostly means a shape at rest.
    """
    torch.manual_seed(job.seed + 4)
    model = VideoModel().to(job.device)
    if job.compile:
        for block in model.denoiser.blocks:
            block.compile(dynamic=False)
    tokens = caption_tokens().to(job.device)
    base_chances = torch.tensor([0.0, 0.06, 0.10, 0.03], device=job.device)
    still_chances = torch.tensor([0.0, 0.06, 0.10, 0.50], device=job.device)

    def loss(generator: torch.Generator) -> Tensor:
        count, device = job.scale.batch, job.device
        index = torch.randint(len(data["latents"]), (count,), generator=generator, device=device)
        clean, combination = data["latents"][index].float(), data["combination"][index]
        still = (combination[:, 3] == _STANDING_STILL)[:, None]
        named = silence(combination, torch.where(still, still_chances, base_chances), generator)
        u = torch.rand(3, count, generator=generator, device=device)
        caption = tokens[tuple(named.unbind(1))] * (u[0] > 0.1)[:, None]
        bell = torch.randn(count, generator=generator, device=device).sigmoid()
        times = torch.where(u[1] < 0.8, bell, u[2])
        noise = torch.randn(clean.shape, generator=generator, device=device)
        mixed = torch.lerp(clean, noise, times.view(-1, 1, 1, 1, 1))
        velocity = model.denoiser(mixed, times, model.text_encoder(caption))
        return (velocity.float() - (noise - clean)).square().mean()

    train(job, Recipe("denoiser", job.scale.denoiser, 1.5e-3, averaging=0.9995), model, loss)
    return model


@torch.no_grad()
def evaluate_parts(
    job: Job, parts: dict[str, dict[str, nn.Module]], autoencoder: AutoEncoder
) -> dict[str, float]:
    """Measure auto-encoder, judges and rewards on clips that none of them saw."""
    test = render_pool(job, "test clips", job.scale.test)
    tokens = caption_tokens().to(job.device)
    figures: dict[str, list[Tensor]] = {}
    generator = job.generator("measurement")
    for start in range(0, len(test.clips), 512):
        factors, video = (
            test.factors[slice(start, start + 512)],
            test.clips[start : start + 512].float() / 255,
        )
        rebuilt = autoencoder.decode(autoencoder.encode(video.flatten(0, 1))).view_as(video).clamp(0, 1)
        figures.setdefault("autoencoder mse", []).append((rebuilt - video).square().mean((1, 2, 3, 4)))
        for source, clips in (("rendered", video), ("coded", rebuilt)):
            for name, seen in judge(parts["judges"], clips).items():
                figures.setdefault(f"judge {name}, {source}", []).append(
                    (seen == getattr(factors, name)).float()
                )
        changed = factors.combination.clone()
        rows = torch.arange(len(video), device=job.device)
        attribute = torch.randint(4, (len(video),), generator=generator, device=job.device)
        changed[rows, attribute] = (changed[rows, attribute] + 1) % _SILENT.to(job.device)[attribute]
        for group in ("rewards", "held_out"):
            nets = parts[group]
            score = nets["aesthetic"](rebuilt.flatten(0, 1)).view(len(video), -1).mean(1)
            figures.setdefault(f"{group} aesthetic squared error", []).append(
                (score - world.beauty(factors)).square()
            )
            action = nets["action"](rebuilt).argmax(1)
            figures.setdefault(f"{group} action", []).append((action == factors.motion).float())
            right = nets["alignment"](rebuilt, tokens[tuple(factors.combination.unbind(1))])
            wrong = nets["alignment"](rebuilt, tokens[tuple(changed.unbind(1))])
            figures.setdefault(f"{group} alignment prefers the true caption", []).append(
                (right > wrong).float()
            )
            figures.setdefault(f"{group} alignment, true caption", []).append(right)
            figures.setdefault(f"{group} alignment, one attribute wrong", []).append(wrong)
    return {name: round(torch.cat(values).mean().item(), 5) for name, values in figures.items()}


def build(job: Job, output: Path) -> None:
    """Run all stages and write the packaged files.

    Raises:
        PieceOverError: when the piece's time is over.
    """
    output.mkdir(parents=True, exist_ok=True)
    pool = render_pool(job, "pool", job.scale.pool)
    autoencoder = train_autoencoder(job, pool)
    parts = {"judges": train_judges(job, pool)}
    code_half(job, pool, autoencoder)
    parts["rewards"] = train_rewards(job, pool, held_out=False)
    parts["held_out"] = train_rewards(job, pool, held_out=True)
    figures = evaluate_parts(job, parts, autoencoder)
    for name, value in figures.items():
        log.info("%s: %.4f", name, value)
    del pool
    about: dict[str, object] = {"seed": job.seed, "scale": asdict(job.scale), "figures": figures}
    checkpoint.write_weights(output / "judges.safetensors", parts["judges"], about)
    rewards = {**parts["rewards"], **{f"held_out_{name}": net for name, net in parts["held_out"].items()}}
    checkpoint.write_weights(output / "rewards.safetensors", rewards, about)
    if time.monotonic() > job.deadline:
        raise PieceOverError("latents")
    model = train_denoiser(job, encode_clips(job, autoencoder))
    modules = {"autoencoder": autoencoder, "text_encoder": model.text_encoder, "denoiser": model.denoiser}
    checkpoint.write_weights(output / "model.safetensors", modules, about)
    (output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all is built, 3 when the piece's time is over."""
    parser = argparse.ArgumentParser(prog="python -m vader_demo.build", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for finished and unfinished stages")
    parser.add_argument("--output", type=Path, help="folder for the packaged files (default: WORK/weights)")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--seed", type=int, default=2407)
    parser.add_argument("--piece-seconds", type=float, default=520, help="stop and save after this time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="do not compile the denoiser's blocks")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout, force=True)
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    job = Job(
        work=options.work,
        scale=SCALES[options.scale],
        device=device,
        seed=options.seed,
        deadline=time.monotonic() + options.piece_seconds,
        compile=device.type == "cuda" and not options.no_compile,
    )
    try:
        build(job, options.output or options.work / "weights")
    except PieceOverError as over:
        log.info("the piece's time is over in %s; run the same command again to continue", over)
        return LEFT_TO_DO
    log.info("built: %s", options.output or options.work / "weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
